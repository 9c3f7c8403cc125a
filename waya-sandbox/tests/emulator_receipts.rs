//! Who hears of what was delivered, read and played, and by which name.

#![allow(clippy::unwrap_used)]

mod support;

use support::{Person, World};
use whatsapp_rust::NodeFilter;
use whatsapp_rust::wacore::types::events::Event;
use whatsapp_rust::wacore::types::presence::ReceiptType;
use whatsapp_rust::wacore_binary::builder::NodeBuilder;
use whatsapp_rust::wacore_binary::{Jid, Server};

const ANI: &str = "6281200000001";
const BUDI: &str = "6281200000002";
const SITI: &str = "6281200000003";

async fn told_of(person: &mut Person, id: &str, kind: ReceiptType) {
    person
        .wait("a receipt of that kind", |event| match event {
            Event::Receipt(receipt) => {
                (receipt.r#type == kind && receipt.message_ids.iter().any(|known| known == id)).then_some(())
            }
            _ => None,
        })
        .await;
}

/// What a device of Budi is told of what another one of his did: who by, and in which chat.
async fn own_receipt(person: &Person, id: &str, kind: &str, done: impl Future<Output = ()>) -> (Jid, Option<Jid>) {
    let told = person.client.wait_for_node(NodeFilter::tag("receipt").attr("id", id).attr("type", kind));
    done.await;
    let told = tokio::time::timeout(support::LIMIT, told).await.expect("the other device is not told").unwrap();
    let named = |name: &str| told.get().get_attr(name)?.to_jid();
    (named("from").unwrap(), named("recipient").or_else(|| named("participant")))
}

/// Whether somebody hears of being read or played before a text behind it.
async fn hears_of_reading(person: &mut Person, text: &str) -> bool {
    person
        .wait("a text or a receipt", |event| match event {
            Event::Receipt(receipt) => {
                let read =
                    !matches!(receipt.r#type, ReceiptType::Delivered | ReceiptType::Inactive | ReceiptType::Sender);
                read.then_some(true)
            }
            Event::Messages(batch) => {
                let said = |message: &whatsapp_rust::wacore::types::events::InboundMessage| {
                    message.message.conversation.as_deref() == Some(text)
                };
                batch.messages.iter().any(said).then_some(false)
            }
            _ => None,
        })
        .await
}

/// Whether somebody hears of anything being delivered before a text behind it.
async fn hears_of_delivery(person: &mut Person, text: &str) -> bool {
    person
        .wait("a text or a receipt", |event| match event {
            Event::Receipt(_) => Some(true),
            Event::Messages(batch) => {
                let said = |message: &whatsapp_rust::wacore::types::events::InboundMessage| {
                    message.message.conversation.as_deref() == Some(text)
                };
                batch.messages.iter().any(said).then_some(false)
            }
            _ => None,
        })
        .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_one_device_reads_the_others_of_its_account_know() {
    let world = World::start().await;
    let mut ani = world.link(ANI, "Ani").await;
    let mut first = world.link(BUDI, "Budi").await;
    let mut second = world.link(BUDI, "Budi").await;

    for (private, read, played) in [(false, "read", "played"), (true, "read-self", "played-self")] {
        let id = ani.say(BUDI, "read me").await;
        let (received, _) = (first.text().await, second.text().await);
        let chat: Jid = received.chat.parse().unwrap();
        let own = if chat.server == Server::Lid { first.client.lid() } else { first.client.pn() }.unwrap();
        // As clients do whose owner lets nobody know: they look at that setting when they log in.
        let tell = async |kind: &'static str| {
            let receipt = NodeBuilder::new("receipt").attr("to", &chat).attr("id", id.as_str()).attr("type", kind);
            first.client.send_node(receipt.attr("t", 1).build()).await.unwrap();
        };
        for kind in [read, played] {
            let told = own_receipt(&second, &id, kind, tell(kind)).await;
            assert_eq!(told, (own.clone(), Some(chat.clone())), "{kind}");
        }
        first.say(&received.chat, "and behind that").await;
        if private {
            assert!(!hears_of_reading(&mut ani, "and behind that").await, "that is not for her");
        } else {
            told_of(&mut ani, &id, ReceiptType::Read).await;
            told_of(&mut ani, &id, ReceiptType::Played).await;
            ani.text().await;
        }
        second.text().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_one_device_reads_in_a_group_the_others_know_too() {
    let world = World::start().await;
    let mut ani = world.link(ANI, "Ani").await;
    let mut first = world.link(BUDI, "Budi").await;
    let mut second = world.link(BUDI, "Budi").await;
    let group: Jid = world.emulator.ensure_group("Team", &[ANI.to_owned(), BUDI.to_owned()]).jid.parse().unwrap();
    let id = ani.say(&group.to_string(), "all of you").await;
    let received = first.text().await;
    second.text().await;
    let author: Jid = received.sender.parse().unwrap();
    let reads = async { first.client.mark_as_read(&group, Some(&author), &[&id]).await.unwrap() };
    let own = if author.server == Server::Lid { first.client.lid() } else { first.client.pn() };
    assert_eq!(own_receipt(&second, &id, "read", reads).await, (group, own));
    told_of(&mut ani, &id, ReceiptType::Read).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_handset_in_a_group_is_named_as_the_message_names_people_and_the_other_way_too() {
    let world = World::start().await;
    let ani = world.link(ANI, "Ani").await;
    let lid = world.emulator.ensure_account(BUDI, "Budi").lid;
    world.emulator.set_handset_online(BUDI, true);
    let group = world.emulator.ensure_group("Team", &[ANI.to_owned(), BUDI.to_owned()]);
    let told = ani.client.wait_for_node(NodeFilter::tag("receipt"));
    ani.say(&group.jid, "on your phone").await;
    let told = tokio::time::timeout(support::LIMIT, told).await.expect("no receipt came").unwrap();
    let named = |name: &str| told.get().get_attr(name)?.to_jid();
    let (by_number, by_lid) = (Jid::pn(BUDI), Jid::lid(lid.as_str()));
    if support::config().pn_only {
        assert_eq!((named("participant"), named("participant_lid")), (Some(by_number), Some(by_lid)));
    } else {
        assert_eq!((named("participant"), named("participant_pn")), (Some(by_lid), Some(by_number)));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_handset_that_was_off_confirms_what_it_missed_when_it_is_back() {
    let world = World::start().await;
    let mut ani = world.link(ANI, "Ani").await;
    let siti = world.link(SITI, "Siti").await;
    world.emulator.ensure_account(BUDI, "Budi");
    let handset = || world.emulator.accounts()[1].clone();
    let mut ids = Vec::new();
    for on in [true, false, false] {
        world.emulator.set_handset_online(BUDI, on);
        let id = ani.say(BUDI, "to the phone").await;
        assert_eq!(ani.ack(&id).await, None);
        ids.push(id);
    }
    let (first, missed) = (ids.remove(0), ids);
    ani.receipt(&first).await;
    assert_eq!((handset().handset_online, handset().handset_queued), (false, 2));
    siti.say(ANI, "meanwhile").await;
    assert!(!hears_of_delivery(&mut ani, "meanwhile").await, "nobody was there to confirm anything");

    world.emulator.set_handset_online(BUDI, true);
    assert_eq!(handset().handset_queued, 0);
    let last = ani.say(BUDI, "it is back").await;
    let mut all = [missed, vec![last]].concat();
    let mut told = Vec::new();
    while told.len() < all.len() {
        let next = ani.wait("a receipt", |event| match event {
            Event::Receipt(receipt) => receipt.message_ids.first().cloned(),
            _ => None,
        });
        told.push(next.await);
    }
    // The client handles receipts side by side: it may tell of them in another order than they came in.
    told.sort();
    all.sort();
    assert_eq!(told, all, "each of them once");
}
