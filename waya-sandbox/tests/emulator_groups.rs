//! Groups and several devices of one person.

#![allow(clippy::unwrap_used)]

mod support;

use std::time::Duration;

use support::raw::{Raw, login, noise_key, unpacked};
use support::{Person, World, until};
use whatsapp_rust::NodeFilter;
use whatsapp_rust::wacore::store::traits::ProtocolStore;
use whatsapp_rust::wacore::types::events::Event;
use whatsapp_rust::wacore_binary::builder::NodeBuilder;
use whatsapp_rust::wacore_binary::{Jid, marshal};
use whatsapp_rust::{GroupCreateOptions, GroupParticipantOptions};

const ANI: &str = "6281200000001";
const BUDI: &str = "6281200000002";
const CITRA: &str = "6281200000003";
/// The bit in front of a stanza which says that zlib made it smaller.
const COMPRESSED: u8 = 2;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_group_text_reaches_every_member_and_they_confirm_it() {
    let world = World::start().await;
    let mut ani = world.link(ANI, "Ani").await;
    let mut budi = world.link(BUDI, "Budi").await;
    let mut citra = world.link(CITRA, "Citra").await;
    let members = [ANI, BUDI, CITRA].map(ToOwned::to_owned);
    let group = world.emulator.ensure_group("Team", &members);
    assert_eq!(world.emulator.ensure_group("Team", &members), group);
    for person in [&mut ani, &mut budi, &mut citra] {
        person
            .wait("news of the group", |event| {
                matches!(event, Event::GroupUpdate(update) if update.group_jid.to_string() == group.jid).then_some(())
            })
            .await;
    }
    let known = ani.client.groups().get_participating().await.unwrap();
    assert_eq!(known[&group.jid.parse::<Jid>().unwrap()].participants.len(), 3);

    for (round, text) in ["first", "second"].into_iter().enumerate() {
        let id = ani.say(&group.jid, text).await;
        assert_eq!(ani.ack(&id).await, None, "round {round}");
        for person in [&mut budi, &mut citra] {
            let received = person.text().await;
            assert_eq!((received.text.as_str(), received.chat.as_str()), (text, group.jid.as_str()));
        }
        ani.receipt(&id).await;
        ani.receipt(&id).await;
    }
    let id = budi.say(&group.jid, "answer").await;
    assert_eq!(ani.text().await.text, "answer");
    assert_eq!(citra.text().await.text, "answer");
    budi.receipt(&id).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_large_group_comes_compressed_and_whole() {
    let world = World::start().await;
    let ani = world.link(ANI, "Ani").await;
    let others: Vec<_> = (0..200).map(|number| format!("62813{number:08}")).collect();
    for phone in &others {
        world.emulator.ensure_account(phone, "One of many");
    }
    let members = [&[ANI.to_owned()], &others[..]].concat();
    let group = world.emulator.ensure_group("Everybody", &members);
    let jid: Jid = group.jid.parse().unwrap();
    let known = ani.client.groups().get_metadata(&jid).await.unwrap();
    assert_eq!(known.participants.len(), 201);

    // What the client was sent, before it unpacks it.
    let keys = noise_key(ani.leave().await).await;
    let mut raw = Raw::log_in(world.emulator.address(), &keys, &login(ANI, 1)).await;
    let is_packed = |stanza: &[u8]| stanza[0] & COMPRESSED != 0;
    assert!(!is_packed(&raw.packed().await.unwrap()), "a short stanza comes as it is");
    let asks = NodeBuilder::new("iq").attr("id", "how-large").attr("xmlns", "w:g2").attr("type", "get").attr("to", jid);
    let what = NodeBuilder::new("query").attr("request", "interactive").build();
    assert!(raw.send_node(&asks.children([what]).build()).await);
    let answer = async {
        loop {
            let packed = raw.packed().await.expect("the connection ended");
            let node = unpacked(packed.clone());
            if node.attrs.get("id").is_some_and(|id| id.as_str() == "how-large") {
                return (packed, node);
            }
        }
    };
    let (packed, node) = tokio::time::timeout(support::LIMIT, answer).await.expect("no answer came");
    let group = node.get_optional_child("group").unwrap();
    assert_eq!(group.get_children_by_tag("participant").count(), 201);
    let plain = marshal(&node).unwrap().len();
    assert!(is_packed(&packed) && packed.len() < plain, "{} bytes of {plain}", packed.len());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_group_is_closed_to_others_and_can_be_made_by_a_client() {
    let world = World::start().await;
    let ani = world.link(ANI, "Ani").await;
    let citra = world.link(CITRA, "Citra").await;
    world.emulator.ensure_account(BUDI, "Budi");
    let group = world.emulator.ensure_group("Theirs", &[ANI.to_owned(), BUDI.to_owned()]);
    let jid: Jid = group.jid.parse().unwrap();
    assert!(citra.client.groups().get_metadata(&jid).await.is_err());
    assert_eq!(ani.client.groups().get_metadata(&jid).await.unwrap().subject, "Theirs");

    let options = GroupCreateOptions::builder()
        .subject("Mine")
        .participants(vec![GroupParticipantOptions::new(Jid::pn(CITRA))])
        .build();
    ani.client.groups().create_group(options).await.unwrap();
    let made = world.emulator.groups();
    let made = made.iter().find(|group| group.subject == "Mine").unwrap();
    assert_eq!(made.members, [ANI, CITRA]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_absent_member_gets_the_group_text_later() {
    let world = World::start().await;
    let ani = world.link(ANI, "Ani").await;
    let budi = world.link(BUDI, "Budi").await;
    let group = world.emulator.ensure_group("Team", &[ANI.to_owned(), BUDI.to_owned()]);
    let keys = budi.leave().await;
    ani.say(&group.jid, "while you were out").await;
    let mut budi = Person::resume(&world.emulator.whatsapp_url(), "Budi", keys).await;
    assert_eq!(budi.text().await.text, "while you were out");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_device_of_a_person_sees_the_same_conversation() {
    let world = World::start().await;
    let mut desk = world.link(ANI, "Ani").await;
    let mut budi = world.link(BUDI, "Budi").await;
    // Both lists of devices are known by now, and grow by one.
    budi.say(ANI, "hello").await;
    desk.text().await;
    let mut laptop = world.link(ANI, "Ani").await;
    let grown = |event: &Event| matches!(event, Event::DeviceListUpdate(_)).then_some(());
    budi.wait("the new device", grown).await;
    // The account's own devices are told the whole list.
    let known = async {
        while desk.client.signal().get_user_devices(&[Jid::pn(ANI)]).await.unwrap().len() < 3 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(support::LIMIT, known).await.expect("the own device is not known");

    let id = desk.say(BUDI, "from the desk").await;
    let received = budi.text().await;
    assert_eq!(received.text, "from the desk");
    let copy = laptop.text().await;
    assert_eq!((copy.text.as_str(), copy.id, copy.from_me), ("from the desk", id.clone(), true));
    assert_eq!(world.emulator.stats().relayed, 2, "copies for the own devices are no further messages");

    budi.say(&received.chat, "to both").await;
    assert_eq!(desk.text().await.text, "to both");
    assert_eq!(laptop.text().await.text, "to both");
    until("the queues to be empty", || world.emulator.stats().queued == 0).await;
}

/// Says something into a group; the hash that its ack tells.
async fn say_and_hear(person: &Person, group: &str, text: &str) -> Option<String> {
    let ack = person.client.wait_for_node(NodeFilter::tag("ack").attr("class", "message"));
    person.say(group, text).await;
    let ack = tokio::time::timeout(support::LIMIT, ack).await.expect("no ack came").unwrap();
    ack.get().get_attr("phash").map(|hash| hash.as_str().into_owned())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_knows_all_devices_is_told_no_hash_and_who_does_not_is_told_theirs() {
    let world = World::start().await;
    let ani = world.link(ANI, "Ani").await;
    let mut budi = world.link(BUDI, "Budi").await;
    let group = world.emulator.ensure_group("Team", &[ANI.to_owned(), BUDI.to_owned()]);
    assert_eq!(say_and_hear(&ani, &group.jid, "to all").await, None);
    assert_eq!(budi.text().await.text, "to all");

    let keys = ani.leave().await;
    let lid = world.emulator.accounts()[1].lid.clone();
    let mut struck = 0;
    for user in [BUDI, &lid] {
        if let Some(mut record) = keys.get_devices(user).await.unwrap() {
            record.devices.retain(|device| device.device_id == 0);
            keys.update_device_list(record).await.unwrap();
            struck += 1;
        }
    }
    assert!(struck > 0, "Ani knows Budi's devices by neither name");
    let mut ani = Person::resume(&world.emulator.whatsapp_url(), "Ani", keys.clone()).await;
    ani.connected().await;
    let told = say_and_hear(&ani, &group.jid, "to some").await.expect("the list was stale");
    assert!(told.starts_with("2:"), "{told}");
    // The device that was left out asks for it, and gets it.
    assert_eq!(budi.text().await.text, "to some");
    // A list that is asked for anew is right again.
    ani.leave().await;
    for user in [BUDI, &lid] {
        keys.delete_devices(user).await.unwrap();
    }
    let mut ani = Person::resume(&world.emulator.whatsapp_url(), "Ani", keys).await;
    ani.connected().await;
    assert_eq!(say_and_hear(&ani, &group.jid, "to all again").await, None);
    assert_eq!(budi.text().await.text, "to all again");
}
