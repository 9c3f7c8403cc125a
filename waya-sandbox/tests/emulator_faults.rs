//! Every fault has the effect it is named after, and goes away again.

#![allow(clippy::unwrap_used)]

mod support;

use std::time::Duration;

use support::{Person, World, until};
use waya_sandbox::emulator::{Fault, FaultLimit, FaultTarget};
use whatsapp_rust::wacore::store::traits::ProtocolStore;
use whatsapp_rust::wacore::types::events::Event;
use whatsapp_rust::wacore::types::presence::ReceiptType;
use whatsapp_rust::wacore_binary::Jid;
use whatsapp_rust::waproto::whatsapp as wa;

const ANI: &str = "6281200000001";
const BUDI: &str = "6281200000002";

fn ani() -> FaultTarget {
    FaultTarget::Phone(ANI.to_owned())
}

async fn two() -> (World, Person, Person) {
    let world = World::start().await;
    let ani = world.link(ANI, "Ani").await;
    let budi = world.link(BUDI, "Budi").await;
    (world, ani, budi)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_held_ack_comes_after_the_message_arrived() {
    let (world, mut ani_client, mut budi) = two().await;
    world.emulator.set_fault(Fault::AckDelay { ms: 1500 }, ani());
    let id = ani_client.say(BUDI, "early").await;
    assert_eq!(budi.text().await.text, "early");
    let stats = world.emulator.stats();
    assert_eq!((stats.relayed, stats.acked, stats.in_flight), (1, 0, 1));
    assert_eq!(ani_client.ack(&id).await, None);
    let stats = world.emulator.stats();
    assert_eq!((stats.acked, stats.in_flight, stats.never_acked), (1, 0, 0));
    assert!(stats.senders[ANI].unacked_ids.is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_dies_before_its_ack_is_counted() {
    let (world, ani_client, mut budi) = two().await;
    world.emulator.set_fault(Fault::AckDelay { ms: 60_000 }, FaultTarget::All);
    ani_client.say(BUDI, "last words").await;
    budi.text().await;
    assert_eq!(world.emulator.stats().senders[ANI].in_flight, 1);
    ani_client.leave().await;
    until("the ack to fail", || world.emulator.stats().senders[ANI].never_acked == 1).await;
    assert_eq!(world.emulator.stats().senders[ANI].acked, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lost_ack_never_comes_though_the_message_does() {
    let (world, mut ani_client, mut budi) = two().await;
    world.emulator.set_fault(Fault::AckLost, ani());
    let lost = ani_client.say(BUDI, "unacked").await;
    assert_eq!(budi.text().await.text, "unacked");
    world.emulator.clear_faults(&ani());
    let acked = ani_client.say(BUDI, "acked").await;
    let first = ani_client
        .wait("an ack", |event| match event {
            // The client's own traffic is acknowledged as well.
            Event::ServerAck(ack) => Some(ack.id.clone()).filter(|id| [&lost, &acked].contains(&id)),
            _ => None,
        })
        .await;
    assert_eq!(first, acked, "{lost} was acked");
    assert_eq!(world.emulator.stats().never_acked, 1);
    assert_eq!(world.emulator.stats().senders[ANI].unacked_ids.values().collect::<Vec<_>>(), [&1]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refused_message_goes_nowhere_and_says_why() {
    let (world, mut ani_client, mut budi) = two().await;
    let lock = ani_client.client.mex().fetch_reachout_timelock().await.unwrap();
    assert_eq!(lock.is_active, Some(false));
    world.emulator.set_fault(Fault::Nack { code: 463 }, ani());
    let id = ani_client.say(BUDI, "refused").await;
    assert_eq!(ani_client.ack(&id).await.as_deref(), Some("463"));
    let lock = ani_client.client.mex().fetch_reachout_timelock().await.unwrap();
    assert_eq!(lock.is_active, Some(true));
    world.emulator.clear_faults(&FaultTarget::All);
    ani_client.say(BUDI, "taken").await;
    assert_eq!(budi.text().await.text, "taken");
    let stats = world.emulator.stats();
    assert_eq!((stats.relayed, stats.nacked), (1, 1));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_may_not_write_to_strangers_may_answer_those_who_wrote() {
    let (world, mut ani_client, mut budi) = two().await;
    world.emulator.set_fault(Fault::Strangers, ani());
    let id = ani_client.say(BUDI, "do you know me?").await;
    assert_eq!(ani_client.ack(&id).await.as_deref(), Some("463"));
    let lock = ani_client.client.mex().fetch_reachout_timelock().await.unwrap();
    assert_eq!(lock.is_active, Some(true));

    budi.say(ANI, "no, who are you?").await;
    let asked = ani_client.text().await;
    let lid = world.emulator.accounts()[1].lid.clone();
    let vouched = async {
        // An entry without a token says when Ani gave one.
        while ani_client.backend.get_tc_token(&lid).await.unwrap().is_none_or(|entry| entry.token.is_empty()) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(support::LIMIT, vouched).await.expect("no token came");
    let id = ani_client.say(&asked.chat, "Ani").await;
    assert_eq!(ani_client.ack(&id).await, None);
    assert_eq!(budi.text().await.text, "Ani");
    assert_eq!(world.emulator.stats().senders[ANI].nacked, 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cut_client_comes_back() {
    for fault in [Fault::Cut, Fault::CutMidFrame] {
        let (world, mut ani_client, mut budi) = two().await;
        world.emulator.set_fault(fault, ani());
        ani_client.connected().await;
        let id = ani_client.say(BUDI, "back").await;
        assert_eq!(budi.text().await.text, "back");
        ani_client.receipt(&id).await;
        assert!(world.emulator.faults().is_empty(), "{fault} is over once it struck");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn refused_connections_work_again_when_the_fault_is_cleared() {
    let (world, mut ani_client, _budi) = two().await;
    for target in [FaultTarget::All, ani()] {
        world.emulator.set_fault(Fault::RefuseConnections, target.clone());
        world.emulator.set_fault(Fault::Cut, ani());
        until("the client to be gone", || !world.is_there(ANI)).await;
        assert_eq!(world.emulator.faults().len(), 1);
        world.emulator.clear_faults(&target);
        ani_client.connected().await;
        assert!(world.is_there(ANI));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn refused_logins_say_why() {
    let (world, ani_client, _budi) = two().await;
    let keys = ani_client.leave().await;
    world.emulator.set_fault(Fault::RefuseLogins { code: 402 }, ani());
    let url = world.emulator.whatsapp_url();
    let mut banned = Person::resume(&url, "Ani", keys).await;
    banned.wait("the ban", |event| matches!(event, Event::TemporaryBan(_)).then_some(())).await;
    let keys = banned.leave().await;
    world.emulator.set_fault(Fault::RefuseLogins { code: 401 }, ani());
    let mut out = Person::resume(&url, "Ani", keys).await;
    out.wait("being out", |event| matches!(event, Event::LoggedOut(_)).then_some(())).await;
    let keys = out.leave().await;
    world.emulator.clear_faults(&ani());
    Person::resume(&url, "Ani", keys).await.connected().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replaced_client_is_told() {
    let (world, mut ani_client, _budi) = two().await;
    world.emulator.set_fault(Fault::Replaced, ani());
    let told = |event: &Event| matches!(event, Event::StreamReplaced(_)).then_some(());
    ani_client.wait("being replaced", told).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_second_login_of_the_same_device_replaces_the_first() {
    let (world, mut ani_client, _budi) = two().await;
    let url = world.emulator.whatsapp_url();
    let mut twin = Person::resume(&url, "Ani", ani_client.backend.clone()).await;
    twin.connected().await;
    let told = |event: &Event| matches!(event, Event::StreamReplaced(_)).then_some(());
    ani_client.wait("being replaced", told).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_logged_out_client_is_told_and_its_device_is_gone() {
    let (world, mut ani_client, _budi) = two().await;
    world.emulator.set_fault(Fault::LoggedOut, ani());
    let told = |event: &Event| matches!(event, Event::LoggedOut(_)).then_some(());
    ani_client.wait("being logged out", told).await;
    assert!(world.emulator.accounts()[0].devices.is_empty());
    assert_eq!(world.emulator.accounts()[1].devices.len(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_receipts_the_author_hears_nothing() {
    let (world, mut ani_client, mut budi) = two().await;
    world.emulator.set_fault(Fault::DropReceipts, ani());
    let silent = ani_client.say(BUDI, "silent").await;
    assert_eq!(budi.text().await.text, "silent");
    until("the receipt to be swallowed", || world.emulator.stats().queued == 0).await;
    world.emulator.clear_faults(&ani());
    let loud = ani_client.say(BUDI, "loud").await;
    let first = ani_client
        .wait("a receipt", |event| match event {
            Event::Receipt(receipt) => receipt.message_ids.first().cloned(),
            _ => None,
        })
        .await;
    assert_eq!(first, loud, "{silent} was confirmed");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn receipts_for_one_device_go_nowhere_and_the_others_of_its_account_hear_them() {
    let (world, mut first, mut budi) = two().await;
    let mut second = world.link(ANI, "Ani").await;
    world.emulator.set_fault(Fault::DropReceipts, FaultTarget::Device(ANI.to_owned(), 2));
    let silent = first.say(BUDI, "silent").await;
    assert_eq!(budi.text().await.text, "silent");
    assert_eq!(delivered(&mut first).await, silent);
    until("the receipt to be swallowed", || world.emulator.stats().queued == 0).await;
    world.emulator.clear_faults(&FaultTarget::All);
    let loud = first.say(BUDI, "loud").await;
    assert_eq!(delivered(&mut first).await, loud);
    assert_eq!(delivered(&mut second).await, loud, "{silent} was told to it");
}

/// The next message that somebody hears to have been delivered.
async fn delivered(person: &mut Person) -> String {
    person
        .wait("a receipt", |event| match event {
            // The other device of the account has it, too.
            Event::Receipt(receipt) if receipt.r#type != ReceiptType::Sender => receipt.message_ids.first().cloned(),
            _ => None,
        })
        .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_fault_that_strikes_before_there_is_a_device_is_not_for_one() {
    let world = World::start().await;
    let device = FaultTarget::Device(ANI.to_owned(), 2);
    let refused = world.emulator.set_limited_fault(Fault::Passkey, device, FaultLimit::times(1)).unwrap_err();
    assert!(refused.to_string().contains("name the account"), "{refused}");
    assert!(world.emulator.faults().is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_message_never_goes_to_some_devices_only_because_the_list_of_them_could_not_be_had() {
    let world = World::start().await;
    let mut ani = world.link(ANI, "Ani").await;
    let mut budi = world.link(BUDI, "Budi").await;
    world.emulator.set_fault(Fault::RefuseLogins { code: 503 }, FaultTarget::Phone(ANI.to_owned()));
    world.emulator.set_fault(Fault::Cut, FaultTarget::Phone(ANI.to_owned()));
    until("the connection to be gone", || !ani.client.is_connected()).await;
    let client = ani.client.clone();
    let mut sending = tokio::spawn(async move {
        let message = wa::Message { conversation: Some("halo".to_owned()), ..Default::default() };
        client.send_message(Jid::pn(BUDI), message).await
    });
    // As long as there is no connection, there is no list. It may wait for one, or give up.
    let gave_up = tokio::time::timeout(Duration::from_millis(300), &mut sending).await;
    world.emulator.clear_faults(&FaultTarget::All);
    ani.connected().await;
    let sent = match gave_up {
        Ok(sent) => sent,
        Err(_) => sending.await,
    };
    match sent.unwrap() {
        Ok(sent) => assert_eq!(budi.text().await.id, sent.message_id),
        Err(error) => assert!(error.to_string().contains("not connected"), "{error}"),
    }
}
