//! What handsets hand to the devices that they linked, and give them when they ask.

#![allow(clippy::unwrap_used)]

mod support;

use std::time::Duration;

use support::{Person, World, until};
use waya_sandbox::emulator::{Fault, FaultLimit, FaultTarget};
use whatsapp_rust::wacore::store::traits::AppSyncStore;
use whatsapp_rust::wacore::types::events::Event;
use whatsapp_rust::wacore::types::presence::ReceiptType;
use whatsapp_rust::wacore_binary::Jid;

const ANI: &str = "6281200000001";
const BUDI: &str = "6281200000002";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keys_that_cannot_be_read_are_handed_over_again() {
    let world = World::start().await;
    world.emulator.ensure_account(ANI, "Ani");
    let target = FaultTarget::Phone(ANI.to_owned());
    world.emulator.set_limited_fault(Fault::Garble, target, FaultLimit::times(1)).unwrap();
    let ani = world.link(ANI, "Ani").await;
    let keys = async {
        while ani.backend.get_latest_sync_key_id().await.unwrap().is_none() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(support::LIMIT, keys).await.expect("no keys came");
    assert!(world.emulator.faults().is_empty(), "nothing was garbled");
    until("everything to be confirmed", || world.emulator.stats().queued == 0).await;
}

/// A message that came, as its receiver asks the phone for it again.
async fn arrived(person: &mut Person, id: &str) -> std::sync::Arc<whatsapp_rust::types::message::MessageInfo> {
    person
        .wait("a message", |event| match event {
            Event::Messages(batch) => {
                batch.messages.iter().find(|message| message.info.id == id).map(|message| message.info.clone())
            }
            _ => None,
        })
        .await
}

/// Id and text of the next message that the phone gives again.
async fn given_again(person: &mut Person) -> (String, Option<String>) {
    person
        .wait("what the phone has", |event| match event {
            Event::Messages(batch) => batch.messages.iter().find_map(|message| {
                message.info.unavailable_request_id.as_ref()?;
                Some((message.info.id.clone(), message.message.conversation.clone()))
            }),
            _ => None,
        })
        .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_handset_that_is_on_gives_a_message_to_a_device_that_lacks_it() {
    let world = World::start().await;
    let ani = world.link(ANI, "Ani").await;
    let mut budi = world.link(BUDI, "Budi").await;
    world.emulator.set_handset_online(BUDI, true);
    let group = world.emulator.ensure_group("Team", &[ANI.to_owned(), BUDI.to_owned()]);
    for to in [BUDI, &group.jid] {
        let id = ani.say(to, "once more").await;
        let info = arrived(&mut budi, &id).await;
        budi.client.send_pdo_placeholder_resend_request(&info).await.unwrap();
        assert_eq!(given_again(&mut budi).await, (id, Some("once more".to_owned())));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_handset_confirms_what_its_devices_send_when_it_is_on() {
    let world = World::start().await;
    let mut ani = world.link(ANI, "Ani").await;
    world.link(BUDI, "Budi").await;
    let group = world.emulator.ensure_group("Team", &[ANI.to_owned(), BUDI.to_owned()]);
    let lid = ani.client.lid().map(|lid| lid.user.to_string());
    for to in [BUDI, &group.jid] {
        let unconfirmed = ani.say(to, "the handset is off").await;
        assert_eq!(ani.ack(&unconfirmed).await, None);
        assert_eq!(world.emulator.accounts()[0].handset_queued, 1);
        world.emulator.set_handset_online(ANI, true);
        own_receipt(&mut ani, &unconfirmed, lid.as_deref()).await;
        let confirmed = ani.say(to, "it is on").await;
        own_receipt(&mut ani, &confirmed, lid.as_deref()).await;
        world.emulator.set_handset_online(ANI, false);
    }
}

/// The next word of Ani's own handset is of this message.
async fn own_receipt(ani: &mut Person, id: &str, lid: Option<&str>) {
    let receipt = ani
        .wait("a receipt of the own handset", |event| match event {
            Event::Receipt(receipt) => (receipt.r#type == ReceiptType::Sender).then(|| receipt.clone()),
            _ => None,
        })
        .await;
    assert_eq!(receipt.message_ids, [id]);
    let sender = receipt.source.sender;
    let is_own = sender.user == ANI || lid == Some(sender.user.as_str());
    assert!(sender.device == 0 && is_own, "{sender}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_device_asks_of_a_handset_that_is_off_is_answered_when_it_is_back() {
    let world = World::start().await;
    let ani = world.link(ANI, "Ani").await;
    let mut budi = world.link(BUDI, "Budi").await;
    let id = ani.say(BUDI, "once more").await;
    let info = arrived(&mut budi, &id).await;
    budi.client.send_pdo_placeholder_resend_request(&info).await.unwrap();
    until("message and request to wait", || world.emulator.accounts()[1].handset_queued == 2).await;
    world.emulator.set_handset_online(BUDI, true);
    assert_eq!(given_again(&mut budi).await, (id, Some("once more".to_owned())));
    assert_eq!(world.emulator.accounts()[1].handset_queued, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_device_that_left_is_encrypted_for_no_more() {
    let world = World::start().await;
    let ani = world.link(ANI, "Ani").await;
    let mut first = world.link(BUDI, "Budi").await;
    ani.say(BUDI, "hello").await;
    first.text().await;
    for by_itself in [true, false] {
        let mut leaver = world.link(BUDI, "Budi").await;
        let number = world.emulator.accounts()[1].devices.last().unwrap().device;
        let knows = |number: u16| {
            let client = ani.client.clone();
            async move {
                let devices = client.signal().get_user_devices(&[Jid::pn(BUDI)]).await.unwrap();
                devices.iter().any(|device| device.device == number)
            }
        };
        let until_known = |known: bool| {
            let knows = &knows;
            async move {
                while knows(number).await != known {
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
            }
        };
        tokio::time::timeout(support::LIMIT, until_known(true)).await.expect("it is never known");
        let id = ani.say(BUDI, "to both").await;
        assert_eq!((leaver.text().await.id, first.text().await.id), (id.clone(), id));
        if by_itself {
            leaver.client.logout().await;
        } else {
            let device = FaultTarget::Device(BUDI.to_owned(), number);
            world.emulator.set_fault(Fault::LoggedOut, device);
        }
        tokio::time::timeout(support::LIMIT, until_known(false)).await.expect("it is still known");
        ani.say(BUDI, "to the one").await;
        first.text().await;
        assert_eq!(world.emulator.accounts()[1].devices.len(), 1);
    }
    until("everything to be confirmed", || world.emulator.stats().queued == 0).await;
}
