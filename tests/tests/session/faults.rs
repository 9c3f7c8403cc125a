//! Connections that are cut, refused or taken over: the state says why, and what can mend itself does.

use waya_daemon::model::{LinkState, PairingMethod};
use waya_sandbox::emulator::{Fault, FaultTarget};

use crate::world::World;

#[tokio::test(flavor = "multi_thread")]
async fn a_cut_connection_shows_why_and_comes_back() {
    let world = World::connected(0).await;
    for fault in [Fault::Cut, Fault::CutMidFrame] {
        world.fault(fault);
        let LinkState::Offline { reason, retry_at } = world.until("offline").await else { unreachable!() };
        assert!(reason.0.contains("the connection was lost"), "{fault:?}: {}", reason.0);
        assert!(retry_at.is_some());
        world.until("connected").await;
    }
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_takes_no_connections_is_told_and_tried_again() {
    let world = World::connected(1).await;
    world.emulator().set_fault(Fault::RefuseConnections, FaultTarget::All);
    world.fault(Fault::Cut);
    let refused = |state: &LinkState| match state {
        LinkState::Offline { reason, .. } => !reason.0.contains("was lost"),
        _ => false,
    };
    let LinkState::Offline { reason, retry_at } = world.until_state(refused).await.unwrap() else { unreachable!() };
    assert!(reason.0.contains("127.0.0.1") || reason.0.contains("handshake"), "{}", reason.0);
    assert!(retry_at.is_some());
    world.emulator().clear_faults(&FaultTarget::All);
    world.session.reconnect().await.unwrap();
    world.until("connected").await;
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replaced_session_stays_out_until_it_is_asked_back() {
    let world = World::connected(0).await;
    let shakes = world.emulator().handshakes();
    world.fault(Fault::Replaced);
    world.until("replaced").await;
    // Longer than the first wait of a session that would try by itself.
    tokio::time::sleep(std::time::Duration::from_secs(3)).await;
    assert_eq!(world.session.link().borrow().state, LinkState::Replaced);
    assert_eq!(world.emulator().handshakes(), shakes);
    world.session.reconnect().await.unwrap();
    world.until("connected").await;
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replaced_session_stays_out_over_a_restart_too() {
    let mut world = World::connected(0).await;
    world.fault(Fault::Replaced);
    world.until("replaced").await;
    let (before, shakes) = (world.session.link().borrow().clone(), world.emulator().handshakes());
    world.restart().await;
    // Longer than a login takes.
    tokio::time::sleep(std::time::Duration::from_secs(3)).await;
    assert_eq!(*world.session.link().borrow(), before, "state, since and account");
    assert_eq!(world.emulator().handshakes(), shakes);
    world.session.reconnect().await.unwrap();
    world.until("connected").await;

    world.restart().await;
    world.until("connected").await;
    world.end().await;
}

/// The client library sends nothing any more then, and leaves the closing to a server that may not.
#[tokio::test(flavor = "multi_thread")]
async fn a_stream_error_on_a_connection_that_stays_open_ends_it() {
    let world = World::connected(1).await;
    for (number, code) in [503, 429].into_iter().enumerate() {
        world.fault(Fault::StreamError { code });
        let LinkState::Offline { reason, retry_at } = world.until("offline").await else { unreachable!() };
        assert!(reason.0.contains(&code.to_string()), "{}", reason.0);
        assert!(retry_at.is_some());
        world.session.reconnect().await.unwrap();
        world.until("connected").await;
        let (id, text) = (format!("3EB000000000000000004{number}"), format!("after {code}"));
        world.send(&id, &world.chat(0), &text).await.unwrap();
        assert_eq!(world.arrived(0, &text).await, 1);
    }
    world.end().await;
}

/// Logs in against an emulator that refuses logins with `code`, and gives the state that follows.
async fn refused_with(code: u16, state: &str) -> (World, LinkState) {
    let world = World::connected(0).await;
    world.fault(Fault::RefuseLogins { code });
    world.fault(Fault::Cut);
    let mentions = code.to_string();
    let state = world.until_state(|link| match link {
        LinkState::Offline { reason, .. } if state == "offline" => reason.0.contains(&mentions),
        other => other.name() == state,
    });
    let state = state.await.unwrap();
    (world, state)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_locked_account_rests_with_its_keys() {
    let (mut world, _) = refused_with(403, "locked").await;
    assert!(world.has_keys());
    world.mend();
    world.restart().await;
    assert_eq!(world.session.link().borrow().state, LinkState::Locked);
    world.session.reconnect().await.unwrap();
    world.until("connected").await;
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_banned_account_waits_for_the_end_of_the_ban_over_a_restart_too() {
    let (mut world, state) = refused_with(402, "banned").await;
    assert!(world.has_keys());
    let LinkState::Banned { until } = state else { unreachable!() };
    assert!(until.is_some_and(|until| until > world.session.link().borrow().since), "{until:?}");
    world.mend();
    let (before, shakes) = (world.session.link().borrow().clone(), world.emulator().handshakes());
    world.restart().await;
    tokio::time::sleep(std::time::Duration::from_secs(3)).await;
    assert_eq!(*world.session.link().borrow(), before);
    assert_eq!(world.emulator().handshakes(), shakes);
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_outdated_client_says_so_and_keeps_its_keys() {
    let (world, _) = refused_with(405, "outdated").await;
    assert!(world.has_keys());
    world.mend();
    world.session.reconnect().await.unwrap();
    world.until("connected").await;
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unavailable_server_is_tried_again() {
    for code in [500, 503] {
        let (world, _) = refused_with(code, "offline").await;
        assert!(world.has_keys());
        world.mend();
        world.until("connected").await;
        world.end().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_wants_another_login_gets_it_by_itself() {
    let world = World::connected(1).await;
    let before = world.emulator().handshakes().ik + world.emulator().handshakes().xx;
    world.fault(Fault::StreamError { code: 515 });
    let again = async {
        while world.emulator().handshakes().ik + world.emulator().handshakes().xx == before {
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(crate::world::PATIENCE, again).await.expect("it logs in again");
    world.until("connected").await;
    let devices = world.devices();
    assert_eq!((devices.len(), devices[0].connected), (1, true));
    world.send("3EB0000000000000000032", &world.chat(0), "Halo").await.unwrap();
    assert_eq!(world.arrived(0, "Halo").await, 1);
    world.end().await;
}

/// The server does not say that the phone unlinked it, so that the keys may still be of use to somebody.
#[tokio::test(flavor = "multi_thread")]
async fn a_session_that_the_server_ends_waits_to_be_linked_again() {
    let world = World::connected(0).await;
    let kept = || std::fs::read_dir(world.folder.path()).unwrap().count();
    world.fault(Fault::StreamError { code: 516 });
    let LinkState::LoggedOut { reason } = world.until("logged_out").await else { unreachable!() };
    assert!(reason.contains("link it again"), "{reason}");
    assert!(kept() > 0, "the keys were thrown away");
    let shakes = world.emulator().handshakes();
    world.session.pair(PairingMethod::Qr).await.unwrap();
    world.scan().await;
    world.until("connected").await;
    assert!(world.emulator().handshakes().xx > shakes.xx);
    assert_eq!(world.devices().iter().filter(|device| device.connected).count(), 1);
    world.end().await;
}
