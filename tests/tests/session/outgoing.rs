//! Texts that leave: by phone although the account is addressed by LID, with acks and receipts by our own id.

use waya_daemon::model::{ChatId, NackReason, ReceiptKind, WhatsAppId};
use waya_daemon::session::{Person, SendError, WaEvent};
use waya_sandbox::emulator::Fault;

use crate::world::World;

fn ack_of(id: &str) -> impl Fn(&WaEvent) -> Option<Option<NackReason>> {
    let wanted = WhatsAppId(id.to_owned());
    move |event| match event {
        WaEvent::ServerAck { id, refused } if *id == wanted => Some(*refused),
        _ => None,
    }
}

/// Chat and sender of a receipt.
fn receipt_of(id: &str, wanted: ReceiptKind) -> impl Fn(&WaEvent) -> Option<(ChatId, ChatId)> {
    let id = WhatsAppId(id.to_owned());
    move |event| match event {
        WaEvent::Receipt { ids, chat, from, kind, .. } if ids.contains(&id) && *kind == wanted => {
            Some((chat.clone(), from.clone()))
        }
        _ => None,
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_text_arrives_and_its_ack_and_receipts_come_back() {
    let mut world = World::connected(1).await;
    let (chat, text) = (world.chat(0), " Halo\n\u{1f44b} dunia ");
    world.send("3EB0000000000000000001", &chat, text).await.unwrap();
    assert_eq!(world.arrived(0, text).await, 1);
    assert_eq!(world.event(ack_of("3EB0000000000000000001")).await, None);
    for kind in [ReceiptKind::Delivered, ReceiptKind::Read] {
        let (in_chat, from) = world.event(receipt_of("3EB0000000000000000001", kind)).await;
        assert_eq!((in_chat, from), (chat.clone(), chat.clone()));
    }
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_group_text_arrives_at_every_member_and_receipts_name_them() {
    let mut world = World::connected(2).await;
    let group: ChatId = world.emulator().groups()[0].jid.parse().unwrap();
    world.send("3EB0000000000000000002", &group, "Halo grup").await.unwrap();
    for who in 0..2 {
        assert_eq!(world.arrived(who, "Halo grup").await, 1);
    }
    assert_eq!(world.event(ack_of("3EB0000000000000000002")).await, None);
    let mut readers = Vec::new();
    for _ in 0..2 {
        let (chat, from) = world.event(receipt_of("3EB0000000000000000002", ReceiptKind::Read)).await;
        assert_eq!(chat, group);
        readers.push(from);
    }
    readers.sort();
    assert_eq!(readers, [world.chat(0), world.chat(1)]);
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refusal_is_told_with_its_reason() {
    let mut world = World::connected(1).await;
    world.fault(Fault::Nack { code: 463 });
    world.send("3EB0000000000000000003", &world.chat(0), "Halo").await.unwrap();
    assert_eq!(world.event(ack_of("3EB0000000000000000003")).await, Some(NackReason::ReachOutTimelock));
    let until = world.session.reach_out_locked_until().await;
    assert!(until.is_some_and(|until| until > world.session.link().borrow().since), "{until:?}");

    world.mend();
    assert_eq!(world.session.reach_out_locked_until().await, None);
    world.send("3EB0000000000000000003", &world.chat(0), "Halo").await.unwrap();
    assert_eq!(world.event(ack_of("3EB0000000000000000003")).await, None);
    assert_eq!(world.arrived(0, "Halo").await, 1);
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_ack_is_not_made_up() {
    let mut world = World::connected(1).await;
    world.fault(Fault::AckLost);
    world.fault(Fault::DropReceipts);
    world.send("3EB0000000000000000004", &world.chat(0), "Halo").await.unwrap();
    world.arrived(0, "Halo").await;
    // Another message through the same connection: by its ack, the lost one would have come.
    world.mend();
    world.send("3EB0000000000000000005", &world.chat(0), "Halo lagi").await.unwrap();
    world.event(ack_of("3EB0000000000000000005")).await;
    assert!(!world.untaken().iter().any(|event| ack_of("3EB0000000000000000004")(event).is_some()));
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn only_numbers_on_whatsapp_are_registered() {
    let mut world = World::connected(2).await;
    let (first, second) = (world.phone(0), world.phone(1));
    let mut phones: Vec<String> = (0..60).map(|n| format!("62899900000{n:02}")).collect();
    phones.insert(3, first.clone());
    phones.push(second.clone());
    let known = world.session.registered(&phones).await.unwrap();
    let registered: Vec<_> = phones.iter().zip(known).filter_map(|(phone, known)| known.then_some(phone)).collect();
    assert_eq!(registered, [&first, &second]);
    let lid = world.event(|event| match event {
        WaEvent::Person(Person { phone: Some(phone), lid, .. }) if *phone == first => Some(lid.clone()),
        _ => None,
    });
    assert!(lid.await.is_some(), "its LID is learnt by the way");
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_connection_nothing_is_handed_over() {
    let world = World::connected(1).await;
    world.fault(Fault::Replaced);
    world.until("replaced").await;
    assert_eq!(world.send("3EB0000000000000000006", &world.chat(0), "Halo").await, Err(SendError::Offline));
    assert!(!world.session.probe().await);
    world.end().await;
}
