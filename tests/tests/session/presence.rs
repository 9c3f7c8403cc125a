//! Whether the account is shown as online. The client library says so by itself at each login and with each new name;
//! the phone would not ring any more.

use std::time::Duration;

use waya_sandbox::emulator::{Fault, PresenceInfo};

use crate::world::{PATIENCE, World};

fn presence(world: &World) -> PresenceInfo {
    world.emulator().presence(world.sandbox.own_phone())
}

/// Waits until the account has spoken of it `more` times since `before`, and is shown as `available`.
async fn until(world: &World, before: u64, more: u64, available: bool) -> PresenceInfo {
    let waiting = async {
        loop {
            let now = presence(world);
            if now.said >= before + more && now.available == available {
                return now;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let waited = tokio::time::timeout(PATIENCE, waiting).await;
    waited.unwrap_or_else(|_| panic!("{:?} after {before} and {more}", presence(world)))
}

fn rename(world: &World, name: &str) {
    assert!(world.emulator().rename(world.sandbox.own_phone(), name));
}

#[tokio::test(flavor = "multi_thread")]
async fn neither_a_name_nor_a_login_puts_the_account_online() {
    let mut world = World::connected(0).await;
    let mut said = presence(&world).said;
    for name in ["Toko", "Toko Maju"] {
        rename(&world, name);
        said = until(&world, said, 2, false).await.said;
    }
    let name = world.session.link().borrow().me.as_ref().map(|me| me.push_name.clone());
    assert_eq!(name.as_deref(), Some("Toko Maju"));

    // The library says it at a login unless its first sync was cut short; the daemon does in any case, and last.
    world.restart().await;
    said = until(&world, said, 1, false).await.said;
    world.fault(Fault::Cut);
    until(&world, said, 1, false).await;
    world.until("connected").await;
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_setting_holds_at_once_and_over_a_reconnect() {
    let world = World::connected(0).await;
    rename(&world, "Toko");
    let said = until(&world, 0, 2, false).await.said;
    world.online.send_replace(true);
    let said = until(&world, said, 1, true).await.said;
    world.fault(Fault::Cut);
    let said = until(&world, said, 1, true).await.said;
    world.until("connected").await;
    rename(&world, "Toko Maju");
    let said = until(&world, said, 2, true).await.said;
    world.online.send_replace(false);
    until(&world, said, 1, false).await;
    world.end().await;
}
