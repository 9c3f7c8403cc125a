//! WhatsApp through proxies: everything goes through them, and what they say is told.

use waya_daemon::model::{LinkState, PairingMethod};
use waya_tests::proxy::{LetsIn, Proxy, Speaks};

use crate::world::World;

const KINDS: [(&str, Speaks); 3] = [("http", Speaks::Http), ("socks5", Speaks::Socks5), ("socks5h", Speaks::Socks5)];

#[tokio::test(flavor = "multi_thread")]
async fn a_message_gets_through_every_kind_of_proxy_and_never_around_it() {
    for (scheme, speaks) in KINDS {
        for lets_in in [LetsIn::All, LetsIn::User] {
            let proxy = Proxy::start(speaks, lets_in).await.unwrap();
            let world = World::unpaired_through(1, &proxy.url(scheme, lets_in)).await;
            world.session.pair(PairingMethod::Qr).await.unwrap();
            world.scan().await;
            world.until("connected").await;
            world.send("3EB0AA", &world.chat(0), "Halo").await.unwrap();
            assert_eq!(world.arrived(0, "Halo").await, 1, "{scheme} {lets_in:?}");
            world.say(0, "Halo juga", None).await;
            world.journal.rows(1).await;

            // One to link, one to log in; a dial around the proxy would be missing here.
            let address = world.sandbox.whatsapp_url();
            let address = address.trim_start_matches("ws://").split('/').next().unwrap().to_owned();
            assert_eq!(proxy.tunnels(), [address.clone(), address], "{scheme} {lets_in:?}");

            // The emulator is still there: whoever dials it straight gets through.
            let name = format!("proxy {} ", proxy.address().ip());
            proxy.close().await;
            let told = world.until_state(|state| reason(state).is_some_and(|reason| reason.contains(&name)));
            let told = told.await.unwrap();
            assert!(reason(&told).unwrap().starts_with("cannot connect to proxy"), "{told:?}");
            world.end().await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_proxy_that_lets_nobody_in_is_the_reason() {
    for (scheme, speaks) in KINDS {
        let proxy = Proxy::start(speaks, LetsIn::User).await.unwrap();
        let wrong = format!("{scheme}://budi:rahasia@{}", proxy.address());
        for (url, expected) in [
            (proxy.url(scheme, LetsIn::All), "it wants a user and password"),
            (wrong, "it does not take the user and password"),
        ] {
            let world = World::unpaired_through(0, &url).await;
            world.session.pair(PairingMethod::Qr).await.unwrap();
            let state = world.until("offline").await;
            let reason = reason(&state).unwrap();
            assert!(reason.starts_with(&format!("proxy {} refused: ", proxy.address())), "{reason}");
            assert!(reason.contains(expected), "{url}: {reason}");
            assert!(!reason.contains("rahasia") && !reason.contains("budi"), "{reason}");
            world.end().await;
        }
        assert!(proxy.tunnels().is_empty());
    }
}

fn reason(state: &LinkState) -> Option<&str> {
    match state {
        LinkState::Offline { reason, .. } => Some(&reason.0),
        _ => None,
    }
}
