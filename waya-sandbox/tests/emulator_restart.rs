//! What survives the emulator's death: nothing is flushed at the end, so stopping it or copying
//! its folder under it is as good as killing it.

#![allow(clippy::unwrap_used)]

mod support;

use std::io::Write;
use std::path::Path;

use support::{Person, World, until};
use whatsapp_rust::wacore::types::events::Event;

const ANI: &str = "6281200000001";
const BUDI: &str = "6281200000002";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_queued_is_delivered_after_a_restart_and_only_then_forgotten() {
    let folder = tempfile::tempdir().unwrap();
    let world = World::in_folder(folder.path(), None).await;
    let ani = world.link(ANI, "Ani").await;
    let group = world.emulator.ensure_group("Team", &[ANI.to_owned(), BUDI.to_owned()]);
    let budi = world.link(BUDI, "Budi").await.leave().await;
    let mut ids = Vec::new();
    for number in 0..5 {
        ids.push(ani.say(BUDI, &format!("secret number {number}")).await);
    }
    until("the messages to be taken", || world.emulator.stats().relayed == 5).await;
    let ani = ani.leave().await;
    let before = world.emulator.stats();
    world.stop().await;
    assert_secret(folder.path(), &ids);

    let world = World::in_folder(folder.path(), None).await;
    assert_eq!(world.emulator.stats().relayed, before.relayed);
    assert_eq!(world.emulator.stats().queued, before.queued);
    assert_eq!(world.emulator.groups(), vec![group]);
    let url = world.emulator.whatsapp_url();
    let mut budi = Person::resume(&url, "Budi", budi).await;
    let texts: Vec<_> = budi.texts(5).await.into_iter().map(|received| received.id).collect();
    assert_eq!(texts, ids, "in the order they were sent");
    let mut ani = Person::resume(&url, "Ani", ani).await;
    ani.receipt(&ids[4]).await;
    until("the queues to be empty", || world.emulator.stats().queued == 0).await;
    let stats = world.emulator.stats();
    assert!(stats.senders[ANI].repeated_ids.is_empty());
    drop((ani.leave().await, budi.leave().await));
    world.stop().await;

    let world = World::in_folder(folder.path(), None).await;
    assert_eq!(world.emulator.stats().queued, 0);
}

/// The server keeps the messages it carries, and cannot read them.
fn assert_secret(folder: &Path, ids: &[String]) {
    let kept = std::fs::read(folder.join("journal")).unwrap();
    let holds = |text: &str| kept.windows(text.len()).any(|window| window == text.as_bytes());
    assert!(ids.iter().all(|id| holds(id)));
    assert!(!holds("secret number"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_acked_message_is_on_disk() {
    let folder = tempfile::tempdir().unwrap();
    let world = World::in_folder(folder.path(), None).await;
    let mut ani = world.link(ANI, "Ani").await;
    let budi = world.link(BUDI, "Budi").await.leave().await;
    for number in 1..=3 {
        let id = ani.say(BUDI, "kept").await;
        assert_eq!(ani.ack(&id).await, None);
        let copy = copy_of(folder.path());
        let mut torn = std::fs::OpenOptions::new().append(true).open(copy.path().join("journal")).unwrap();
        torn.write_all(&[9, 0, 0, 0, 1, 2]).unwrap();
        let other = World::in_folder(copy.path(), None).await;
        let devices = &other.emulator.accounts()[1].devices;
        assert_eq!(other.emulator.stats().relayed, number);
        assert!(devices[0].queued >= number as usize);
    }
    let copy = copy_of(folder.path());
    let other = World::in_folder(copy.path(), None).await;
    let mut budi = Person::resume(&other.emulator.whatsapp_url(), "Budi", budi).await;
    assert_eq!(budi.texts(3).await.len(), 3);
}

fn copy_of(folder: &Path) -> tempfile::TempDir {
    let copy = tempfile::tempdir().unwrap();
    for file in ["journal", "server-key"] {
        std::fs::copy(folder.join(file), copy.path().join(file)).unwrap();
    }
    copy
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_waits_for_a_handset_is_confirmed_after_a_restart_and_once() {
    let folder = tempfile::tempdir().unwrap();
    let world = World::in_folder(folder.path(), None).await;
    let mut ani = world.link(ANI, "Ani").await;
    world.emulator.ensure_account(BUDI, "Budi");
    let mut ids = Vec::new();
    for number in 0..3 {
        let id = ani.say(BUDI, &format!("number {number}")).await;
        assert_eq!(ani.ack(&id).await, None);
        ids.push(id);
    }
    let ani = ani.leave().await;
    world.stop().await;

    // The first start reads what was appended, the second one what was rewritten.
    for _ in 0..2 {
        let world = World::in_folder(folder.path(), None).await;
        assert_eq!(world.emulator.accounts()[1].handset_queued, 3);
        world.stop().await;
    }
    let world = World::in_folder(folder.path(), None).await;
    assert!(world.emulator.set_handset_online(BUDI, true));
    assert!(world.emulator.set_handset_online(BUDI, false));
    world.stop().await;
    let world = World::in_folder(folder.path(), None).await;
    assert_eq!(world.emulator.accounts()[1].handset_queued, 0);
    assert!(world.emulator.set_handset_online(BUDI, true));

    let mut ani = Person::resume(&world.emulator.whatsapp_url(), "Ani", ani).await;
    ani.connected().await;
    ids.push(ani.say(BUDI, "it is back").await);
    let mut told = Vec::new();
    while told.len() < ids.len() {
        told.push(ani.wait("a receipt", first_of_a_receipt).await);
    }
    told.sort();
    ids.sort();
    assert_eq!(told, ids, "each of them once");
}

fn first_of_a_receipt(event: &Event) -> Option<String> {
    match event {
        Event::Receipt(receipt) => receipt.message_ids.first().cloned(),
        _ => None,
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_folder_in_use_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let _world = World::in_folder(folder.path(), None).await;
    let config =
        waya_sandbox::emulator::EmulatorConfig { data_dir: Some(folder.path().to_owned()), ..Default::default() };
    let second = waya_sandbox::emulator::Emulator::open(config).await;
    assert!(matches!(second, Err(waya_sandbox::emulator::EmulatorError::InUse(_))));
}
