//! Pairing, logging in, and being unlinked.

#![allow(clippy::unwrap_used)]

mod support;

use std::time::Duration;

use support::{Person, World, until};
use waya_sandbox::emulator::{EmulatorConfig, ScanError};
use whatsapp_rust::wacore::types::events::Event;

const ANI: &str = "6281200000001";
const BUDI: &str = "6281200000002";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_code_typed_into_the_handset_links_after_a_wrong_one_did_not() {
    let world = World::start().await;
    let mut ani = Person::with_code(&world.emulator.whatsapp_url(), "Ani", ANI).await;
    let code = ani
        .wait("a pairing code", |event| match event {
            Event::PairingCode(code) => Some(code.code.clone()),
            _ => None,
        })
        .await;
    let wrong = if code.starts_with('A') { "BBBBBBBB" } else { "AAAAAAAA" };
    assert_eq!(world.emulator.enter_pair_code(ANI, wrong).await, Err(ScanError::WrongCode));
    assert_eq!(world.emulator.enter_pair_code(BUDI, &code).await, Err(ScanError::UnknownCode));
    let typed = format!("{}-{}", &code[..4], code[4..].to_lowercase());
    let device = world.emulator.enter_pair_code(ANI, &typed).await.unwrap();
    assert_eq!((device.phone.as_str(), device.device), (ANI, 1));
    ani.connected().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_second_login_knows_the_server() {
    let world = World::start().await;
    let ani = world.link(ANI, "Ani").await;
    assert_eq!((world.emulator.handshakes().xx, world.emulator.handshakes().ik), (2, 0));
    let backend = ani.leave().await;
    let mut ani = Person::resume(&world.emulator.whatsapp_url(), "Ani", backend).await;
    ani.connected().await;
    assert_eq!((world.emulator.handshakes().xx, world.emulator.handshakes().ik), (2, 1));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_server_key_is_kept_and_a_new_one_is_accepted_in_its_place() {
    let folder = tempfile::tempdir().unwrap();
    let world = World::in_folder(folder.path(), None).await;
    let backend = world.link(ANI, "Ani").await.leave().await;
    world.stop().await;

    let world = World::in_folder(folder.path(), None).await;
    let mut ani = Person::resume(&world.emulator.whatsapp_url(), "Ani", backend).await;
    ani.connected().await;
    assert_eq!(world.emulator.handshakes().ik, 1);
    let backend = ani.leave().await;
    world.stop().await;

    std::fs::remove_file(folder.path().join("server-key")).unwrap();
    let world = World::in_folder(folder.path(), None).await;
    let mut ani = Person::resume(&world.emulator.whatsapp_url(), "Ani", backend).await;
    ani.connected().await;
    let handshakes = world.emulator.handshakes();
    assert_eq!((handshakes.ik, handshakes.xx_fallback), (0, 1));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_of_one_name_share_a_phone() {
    let world = World::start().await;
    let url = world.emulator.whatsapp_url();
    let mut devices = Vec::new();
    let mut people = Vec::new();
    for name in ["Ani", "Ani", "Budi"] {
        let mut person = Person::start(&url, name).await;
        devices.push(person.scan(&world.emulator, None).await);
        person.connected().await;
        people.push(person);
    }
    assert_eq!(devices[0].phone, devices[1].phone);
    assert_eq!((devices[0].device, devices[1].device), (1, 2));
    assert_ne!(devices[0].phone, devices[2].phone);
    assert_eq!(world.emulator.accounts().len(), 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn codes_nobody_shows_are_refused() {
    let world = World::start().await;
    assert!(matches!(world.emulator.scan_qr("hello", None).await, Err(ScanError::NotAQr(_))));
    let mut ani = Person::start(&world.emulator.whatsapp_url(), "Ani").await;
    let qr = ani.qr().await;
    let stale = qr.replacen("2@", "2@x", 1);
    assert_eq!(world.emulator.scan_qr(&stale, None).await, Err(ScanError::UnknownCode));
    let refused = world.emulator.scan_qr(&qr, Some("12x")).await;
    assert_eq!(refused, Err(ScanError::BadPhone("12x".into())));
    // Somebody who does not know the secret the client shows cannot link it.
    let fields: Vec<_> = qr.split(',').collect();
    let forged = qr.replacen(fields[3], fields[2], 1);
    let refused = world.emulator.scan_qr(&forged, Some(ANI)).await;
    assert_eq!(refused, Err(ScanError::Refused("hmac-mismatch".into())));
    assert!(world.emulator.accounts().iter().all(|account| account.devices.is_empty()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_logs_out_is_gone() {
    let world = World::start().await;
    let ani = world.link(ANI, "Ani").await;
    ani.client.logout().await;
    until("the device to be gone", || world.emulator.accounts()[0].devices.is_empty()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn unlinking_from_the_phone_logs_the_client_out() {
    let world = World::start().await;
    let mut ani = world.link(ANI, "Ani").await;
    assert_eq!(world.emulator.unlink(BUDI), 0);
    assert_eq!(world.emulator.unlink(ANI), 1);
    ani.wait("being logged out", |event| matches!(event, Event::LoggedOut(_)).then_some(())).await;
    let backend = ani.leave().await;
    let mut again = Person::resume(&world.emulator.whatsapp_url(), "Ani", backend).await;
    again.wait("being refused", |event| matches!(event, Event::LoggedOut(_)).then_some(())).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn accounts_without_lid_talk_by_number() {
    let config = EmulatorConfig { pn_only: true, first_stanza_grace: Duration::ZERO, ..EmulatorConfig::default() };
    let world = World::with(config).await;
    let mut ani = world.link(ANI, "Ani").await;
    let mut budi = world.link(BUDI, "Budi").await;
    assert!(!ani.client.is_lid_migrated().await);
    let id = ani.say(BUDI, "by number").await;
    assert_eq!(budi.text().await.sender, format!("{ANI}@s.whatsapp.net"));
    ani.receipt(&id).await;
    budi.say(ANI, "and back").await;
    assert_eq!(ani.text().await.text, "and back");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_emulator_stays_on_this_machine() {
    let config = EmulatorConfig { listen: "0.0.0.0:0".parse().unwrap(), ..Default::default() };
    assert!(waya_sandbox::emulator::Emulator::open(config).await.is_err());
}
