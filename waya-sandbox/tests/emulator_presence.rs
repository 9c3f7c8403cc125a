//! Who types where, and who is there, also after the server was away.

#![allow(clippy::unwrap_used)]

mod support;

use support::{Person, World, until};
use waya_sandbox::emulator::{Fault, FaultTarget};
use whatsapp_rust::types::presence::{ChatPresence, ChatPresenceMedia};
use whatsapp_rust::wacore::types::events::Event;
use whatsapp_rust::wacore_binary::Jid;

const ANI: &str = "6281200000001";
const BUDI: &str = "6281200000002";
const CITRA: &str = "6281200000003";
const DEWI: &str = "6281200000004";

/// The next notice that somebody types: where, who, and how.
async fn typing(person: &mut Person) -> (Jid, Jid, ChatPresence, ChatPresenceMedia) {
    person
        .wait("somebody who types", |event| match event {
            Event::ChatPresence(typing) => {
                let source = &typing.source;
                Some((source.chat.to_non_ad(), source.sender.to_non_ad(), typing.state, typing.media))
            }
            _ => None,
        })
        .await
}

/// As groups name somebody.
fn named(world: &World, phone: &str) -> Jid {
    if support::config().pn_only {
        return Jid::pn(phone);
    }
    let accounts = world.emulator.accounts();
    Jid::lid(accounts.into_iter().find(|account| account.phone == phone).unwrap().lid)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_types_in_a_group_is_seen_by_the_others_in_it() {
    let world = World::start().await;
    let mut ani = world.link(ANI, "Ani").await;
    let mut budi = world.link(BUDI, "Budi").await;
    let mut citra = world.link(CITRA, "Citra").await;
    let mut dewi = world.link(DEWI, "Dewi").await;
    let group = world.emulator.ensure_group("Team", &[ANI, BUDI, CITRA].map(ToOwned::to_owned));
    let group: Jid = group.jid.parse().unwrap();
    let by_ani = ani.client.chatstate();
    by_ani.send_composing(&group).await.unwrap();
    for person in [&mut budi, &mut citra] {
        let seen = typing(person).await;
        assert_eq!(seen, (group.clone(), named(&world, ANI), ChatPresence::Composing, ChatPresenceMedia::Text));
    }
    by_ani.send_recording(&group).await.unwrap();
    for person in [&mut budi, &mut citra] {
        assert_eq!(typing(person).await.3, ChatPresenceMedia::Audio);
    }
    by_ani.send_paused(&group).await.unwrap();
    for person in [&mut budi, &mut citra] {
        assert_eq!(typing(person).await.2, ChatPresence::Paused);
    }
    // Neither who types nor who is in another chat has heard of it before this.
    for (phone, person) in [(ANI, &mut ani), (DEWI, &mut dewi)] {
        citra.client.chatstate().send_composing(&Jid::pn(phone)).await.unwrap();
        assert_eq!(typing(person).await.0, Jid::pn(CITRA));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn everybody_who_still_types_in_a_group_is_told_to_who_comes_back() {
    let world = World::start().await;
    let ani = world.link(ANI, "Ani").await;
    let mut budi = world.link(BUDI, "Budi").await;
    let citra = world.link(CITRA, "Citra").await;
    let group = world.emulator.ensure_group("Team", &[ANI, BUDI, CITRA].map(ToOwned::to_owned));
    let group: Jid = group.jid.parse().unwrap();
    let keys = citra.leave().await;
    until("Citra to be gone", || !world.is_there(CITRA)).await;
    ani.client.chatstate().send_composing(&group).await.unwrap();
    // What Budi saw the server has.
    typing(&mut budi).await;
    budi.client.chatstate().send_recording(&group).await.unwrap();
    let mut ani = ani;
    typing(&mut ani).await;
    let mut citra = Person::resume(&world.emulator.whatsapp_url(), "Citra", keys).await;
    let mut seen = Vec::new();
    for _ in 0..2 {
        let (chat, who, _, media) = typing(&mut citra).await;
        assert_eq!(chat, group);
        seen.push((who.to_string(), media));
    }
    seen.sort_by(|one, other| one.0.cmp(&other.0));
    let mut wanted = vec![
        (named(&world, ANI).to_string(), ChatPresenceMedia::Text),
        (named(&world, BUDI).to_string(), ChatPresenceMedia::Audio),
    ];
    wanted.sort_by(|one, other| one.0.cmp(&other.0));
    assert_eq!(seen, wanted);
}

/// The next presence that somebody shows: there, or not.
async fn there(person: &mut Person) -> bool {
    person
        .wait("a presence", |event| match event {
            Event::Presence(presence) => Some(!presence.unavailable),
            _ => None,
        })
        .await
}

/// The server remembers nobody's wish to be told; the client library asks anew on each connection.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_asks_for_a_presence_is_told_also_after_the_server_was_away() {
    for dies in [false, true] {
        let folder = tempfile::tempdir().unwrap();
        let mut world = World::in_folder(folder.path(), None).await;
        let mut ani = world.link(ANI, "Ani").await;
        let mut budi = world.link(BUDI, "Budi").await;
        budi.client.presence().set_available().await.unwrap();
        budi.client.presence().subscribe(&Jid::pn(ANI)).await.unwrap();
        ani.client.presence().set_available().await.unwrap();
        assert!(there(&mut budi).await);
        ani.client.presence().set_unavailable().await.unwrap();
        assert!(!there(&mut budi).await);

        let come_back = [ani.come_back_at_once(), budi.come_back_at_once()];
        if dies {
            let port = world.stop().await;
            world = World::in_folder(folder.path(), Some(port)).await;
        } else {
            world.emulator.set_fault(Fault::Restart, FaultTarget::All);
        }
        // Whoever comes back says by itself that it is there.
        ani.connected().await;
        budi.connected().await;
        assert!(there(&mut budi).await, "dies: {dies}");
        ani.client.presence().set_unavailable().await.unwrap();
        assert!(!there(&mut budi).await, "dies: {dies}");
        assert!(!world.emulator.presence(ANI).available && world.emulator.presence(BUDI).available);
        come_back.iter().for_each(tokio::task::JoinHandle::abort);
    }
}
