//! Linking an account, coming back with its keys, and losing it.

use std::os::unix::fs::PermissionsExt as _;

use waya_daemon::model::{LinkState, PairingMethod};
use waya_daemon::session::{SessionError, Unlinked};
use waya_sandbox::emulator::Fault;

use crate::world::World;

#[tokio::test(flavor = "multi_thread")]
async fn pairs_by_qr_and_comes_back_with_its_keys() {
    let mut world = World::connected(0).await;
    let me = world.session.link().borrow().me.clone().unwrap();
    assert_eq!(me.phone, world.sandbox.own_phone());
    assert!(me.lid.is_some_and(|lid| !lid.is_empty()));
    assert_eq!(world.session.pair(PairingMethod::Qr).await, Err(SessionError::AlreadyLinked));
    assert!(world.session.probe().await);
    assert!(world.session.last_traffic().is_some());
    for name in ["whatsapp.db", "whatsapp.db-wal"] {
        let mode = world.folder.path().join(name).metadata().unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{name}");
    }

    let before = world.emulator().handshakes();
    world.restart().await;
    world.until("connected").await;
    assert_eq!(world.emulator().handshakes().ik, before.ik + 1, "the server's key is known by now");
    assert_eq!(world.devices().len(), 1);
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn pairs_by_a_code_that_is_typed_on_the_phone() {
    let world = World::unpaired(0).await;
    let phone = world.sandbox.own_phone();
    world.session.pair(PairingMethod::Code(phone.to_owned())).await.unwrap();
    let shown = world.until_state(|state| matches!(state, LinkState::Pairing { code: Some(_), .. })).await.unwrap();
    let LinkState::Pairing { qr, code: Some(code), expires_at: Some(_) } = shown else { panic!("{shown:?}") };
    assert_eq!(qr, None, "one way at a time");
    world.emulator().enter_pair_code(phone, &code).await.unwrap();
    world.until("connected").await;
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pairing_can_change_its_way_and_be_called_off() {
    let world = World::unpaired(0).await;
    world.session.pair(PairingMethod::Qr).await.unwrap();
    world.until_state(|state| matches!(state, LinkState::Pairing { qr: Some(_), .. })).await.unwrap();
    let phone = world.sandbox.own_phone().to_owned();
    world.session.pair(PairingMethod::Code(phone)).await.unwrap();
    world.until_state(|state| matches!(state, LinkState::Pairing { code: Some(_), .. })).await.unwrap();
    world.session.logout().await.unwrap();
    assert_eq!(world.session.link().borrow().state, LinkState::Unpaired);

    world.session.pair(PairingMethod::Qr).await.unwrap();
    world.scan().await;
    world.until("connected").await;
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn logging_out_unlinks_on_both_sides_and_the_account_can_be_linked_again() {
    let world = World::connected(0).await;
    assert_eq!(world.devices().len(), 1);
    assert_eq!(world.session.logout().await, Ok(Unlinked::Fully));
    assert_eq!(world.session.link().borrow().state, LinkState::Unpaired);
    assert_eq!(world.session.link().borrow().me, None);
    assert!(!world.has_keys());
    assert_eq!(world.devices().len(), 0, "the phone does not list it any more");

    world.session.pair(PairingMethod::Qr).await.unwrap();
    world.scan().await;
    world.until("connected").await;
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn logging_out_without_a_connection_leaves_the_device_on_the_phone_and_says_so() {
    let world = World::connected(0).await;
    world.fault(Fault::Replaced);
    world.until("replaced").await;
    assert_eq!(world.session.logout().await, Ok(Unlinked::HereOnly));
    assert!(!world.has_keys());
    assert_eq!(world.devices().len(), 1, "the phone still lists it");
    assert_eq!(world.session.logout().await, Err(SessionError::NotLinked));
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn being_unlinked_from_the_phone_deletes_the_keys_and_a_restart_still_says_so() {
    let mut world = World::connected(0).await;
    world.fault(Fault::LoggedOut);
    let LinkState::LoggedOut { reason } = world.until("logged_out").await else { unreachable!() };
    assert!(reason.contains("unlinked from the phone"), "{reason}");
    world.restart().await;
    assert_eq!(world.session.link().borrow().state, LinkState::LoggedOut { reason });
    world.session.pair(PairingMethod::Qr).await.unwrap();
    world.scan().await;
    world.until("connected").await;
    world.end().await;
}

/// A 401 at login may be the server's mistake: the keys are moved, not deleted.
#[tokio::test(flavor = "multi_thread")]
async fn a_refused_login_only_sets_the_keys_aside() {
    let world = World::connected(0).await;
    world.fault(Fault::RefuseLogins { code: 401 });
    world.fault(Fault::Cut);
    world.until("logged_out").await;
    // Answered after the keys are dealt with.
    world.session.shutdown().await;
    assert!(!world.has_keys());
    assert!(world.folder.path().join("whatsapp.db.logged-out").exists());
    world.end().await;
}
