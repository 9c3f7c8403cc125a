//! Pairing, logging in, and being unlinked.

#![allow(clippy::unwrap_used)]

mod support;

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::Value;
use support::{Person, World, until};
use waya_sandbox::emulator::{EmulatorConfig, Fault, FaultTarget, ScanError, passkey_answer};
use whatsapp_rust::passkey::Assertion;
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

/// The answer with one text in it changed.
fn altered(answer: &str, pointer: &str, text: impl FnOnce(String) -> String) -> Assertion {
    let mut answer: Value = serde_json::from_str(answer).unwrap();
    let place = answer.pointer_mut(pointer).unwrap();
    *place = Value::String(text(place.as_str().unwrap().to_owned()));
    let credential_id = URL_SAFE_NO_PAD.decode(answer["rawId"].as_str().unwrap()).unwrap();
    Assertion { assertion_json: answer.to_string().into_bytes(), credential_id }
}

/// The client data with a word in it replaced.
fn reworded(client_data: &str, from: &str, to: &str) -> String {
    let text = String::from_utf8(URL_SAFE_NO_PAD.decode(client_data).unwrap()).unwrap();
    assert!(text.contains(from), "{text}");
    URL_SAFE_NO_PAD.encode(text.replace(from, to))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_guarded_account_is_linked_by_its_passkey_and_by_nothing_else() {
    let world = World::start().await;
    world.emulator.set_fault(Fault::Passkey, FaultTarget::Phone(ANI.to_owned()));
    let mut ani = Person::start(&world.emulator.whatsapp_url(), "Ani").await;
    let qr = ani.qr().await;
    assert_eq!(world.emulator.scan_qr(&qr, Some(ANI)).await, Err(ScanError::PasskeyAsked));
    let request = ani
        .wait("the request", |event| match event {
            Event::PairPasskeyRequest(asked) => Some(asked.request_options_json.clone()),
            _ => None,
        })
        .await;
    let answer = passkey_answer(&request).unwrap();
    let challenge = serde_json::from_str::<Value>(&request).unwrap()["challenge"].as_str().unwrap().to_owned();
    let client_data = "/response/clientDataJSON";
    for (bad, why) in [
        (altered(&answer, "/type", |_| "password".to_owned()), "bad-assertion"),
        (altered(&answer, "/id", |id| format!("AAAA{id}")), "unknown-credential"),
        (altered(&answer, client_data, |data| reworded(&data, &challenge, "AAAA")), "another-challenge"),
        (altered(&answer, client_data, |data| reworded(&data, "web.whatsapp", "web.whatsupp")), "bad-client-data"),
        (altered(&answer, client_data, |data| reworded(&data, ".get", ".create")), "bad-client-data"),
        (altered(&answer, "/response/authenticatorData", |data| data[4..].to_owned()), "bad-assertion"),
        (altered(&answer, "/response/signature", |_| String::new()), "bad-assertion"),
    ] {
        let refused = ani.client.send_passkey_response(bad).await.unwrap_err().to_string();
        assert!(refused.contains(why), "{why}: {refused}");
    }
    assert_eq!(world.emulator.passkey_code(ANI), None);
    ani.client.send_passkey_response(altered(&answer, "/type", |kind| kind)).await.unwrap();
    let code = ani
        .wait("the code", |event| match event {
            Event::PairPasskeyConfirmation(compare) => Some(compare.code.clone()),
            _ => None,
        })
        .await;
    assert_eq!(world.emulator.passkey_code(ANI), Some(code), "both show the same");
    assert!(
        world.emulator.accounts().iter().all(|account| account.devices.is_empty()),
        "nothing before it is compared"
    );
    ani.client.send_passkey_confirmation().await.unwrap();
    ani.connected().await;
    assert_eq!(world.emulator.passkey_code(ANI), None);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_second_login_knows_the_server() {
    let world = World::start().await;
    let ani = world.link(ANI, "Ani").await;
    // A client that comes back by itself in between knows the server already, too.
    let first = world.emulator.handshakes();
    assert_eq!(first.xx, 2);
    let backend = ani.leave().await;
    let mut ani = Person::resume(&world.emulator.whatsapp_url(), "Ani", backend).await;
    ani.connected().await;
    let second = world.emulator.handshakes();
    assert!(second.xx == 2 && second.ik > first.ik, "{first:?} {second:?}");
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
async fn a_phone_links_four_devices_and_a_fifth_once_one_of_them_is_gone() {
    let world = World::start().await;
    let mut linked = Vec::new();
    for _ in 0..4 {
        linked.push(world.link(ANI, "Ani").await);
    }
    let mut fifth = Person::start(&world.emulator.whatsapp_url(), "Ani").await;
    let qr = fifth.qr().await;
    assert_eq!(world.emulator.scan_qr(&qr, Some(ANI)).await, Err(ScanError::Full));
    assert_eq!(world.emulator.accounts()[0].devices.len(), 4);
    linked.remove(0).client.logout().await;
    until("the device to be gone", || world.emulator.accounts()[0].devices.len() == 3).await;
    let device = world.emulator.scan_qr(&qr, Some(ANI)).await.unwrap();
    assert_eq!(device.device, 5, "no number is given twice");
    fifth.connected().await;
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
