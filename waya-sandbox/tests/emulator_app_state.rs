//! What the devices of an account share, kept by the emulator and read by real clients: every patch's authentication
//! codes are checked by whoever reads it.

#![allow(clippy::unwrap_used)]

mod support;

use support::https::Https;
use support::{Person, World, until};
use whatsapp_rust::wacore::types::events::Event;
use whatsapp_rust::wacore_binary::Jid;

const ANI: &str = "6281200000001";

fn chat(number: usize) -> Jid {
    Jid::pn(format!("62813000{number:05}"))
}

/// The next pin: which chat, and whether it is one now.
async fn pinned(person: &mut Person) -> (String, bool) {
    person
        .wait("a pin", |event| match event {
            Event::PinUpdate(pin) => Some((pin.jid.to_string(), pin.action.pinned.unwrap_or_default())),
            _ => None,
        })
        .await
}

async fn pin(person: &Person, number: usize) {
    person.client.chat_actions().pin_chat(&chat(number)).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_one_device_changes_the_others_hear() {
    let world = World::start().await;
    let http = Https::new(&world);
    let desk = world.link_with(ANI, "Ani", &http).await;
    let mut laptop = world.link_with(ANI, "Ani", &http).await;
    pin(&desk, 1).await;
    assert_eq!(pinned(&mut laptop).await, (chat(1).to_string(), true));
    desk.client.chat_actions().unpin_chat(&chat(1)).await.unwrap();
    assert_eq!(pinned(&mut laptop).await, (chat(1).to_string(), false));

    // Somebody away hears it when he is back.
    let keys = laptop.leave().await;
    pin(&desk, 2).await;
    let mut laptop = Person::resume(&world.emulator.whatsapp_url(), "Ani", keys).await;
    assert_eq!(pinned(&mut laptop).await, (chat(2).to_string(), true));
    until("the queues to be empty", || world.emulator.stats().queued == 0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_who_change_the_same_collection_at_once_both_get_their_way() {
    let world = World::start().await;
    let http = Https::new(&world);
    let mut desk = world.link_with(ANI, "Ani", &http).await;
    let mut laptop = world.link_with(ANI, "Ani", &http).await;
    for round in 0..5 {
        tokio::join!(pin(&desk, 2 * round), pin(&laptop, 2 * round + 1));
    }
    for (person, theirs) in [(&mut desk, 1), (&mut laptop, 0)] {
        for round in 0..5 {
            person
                .wait("the other's pin", |event| match event {
                    Event::PinUpdate(pin) => (pin.jid == chat(2 * round + theirs)).then_some(()),
                    _ => None,
                })
                .await;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_device_begins_with_patches_or_with_a_snapshot_also_after_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    let world = World::in_folder(folder.path(), None).await;
    let http = Https::new(&world);
    let desk = world.link_with(ANI, "Ani", &http).await;
    for number in 0..3 {
        pin(&desk, number).await;
    }
    let mut second = world.link_with(ANI, "Ani", &http).await;
    for number in 0..3 {
        assert_eq!(pinned(&mut second).await, (chat(number).to_string(), true));
    }
    // More than are kept as patches.
    for number in 3..80 {
        pin(&desk, number).await;
    }
    desk.client.chat_actions().unpin_chat(&chat(0)).await.unwrap();
    desk.leave().await;
    second.leave().await;
    let port = world.stop().await;

    let world = World::in_folder(folder.path(), Some(port)).await;
    let mut third = world.link_with(ANI, "Ani", &Https::new(&world)).await;
    let mut heard = Vec::new();
    for _ in 0..80 {
        heard.push(pinned(&mut third).await);
    }
    heard.sort();
    let mut wanted: Vec<_> = (0..80).map(|number| (chat(number).to_string(), number != 0)).collect();
    wanted.sort();
    assert_eq!(heard, wanted);
    pin(&third, 99).await;
}
