//! Clients whose network is gone, and clients that take nothing: nobody tells the server, and it gets rid of them.

#![allow(clippy::unwrap_used)]

mod support;

use std::time::Duration;

use support::raw::{Raw, login, noise_key};
use support::{Person, World, until};
use waya_sandbox::emulator::{EmulatorConfig, Fault, FaultTarget};
use whatsapp_rust::wacore::libsignal::protocol::KeyPair;
use whatsapp_rust::wacore_binary::Node;
use whatsapp_rust::wacore_binary::builder::NodeBuilder;

const ANI: &str = "6281200000001";
const BUDI: &str = "6281200000002";
/// Longer than a test lasts.
const NEVER: Duration = Duration::from_hours(1);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_is_silent_for_too_long_is_gone_and_finds_what_was_kept() {
    let idle_limit = Duration::from_secs(2);
    let world = World::with(EmulatorConfig { idle_limit, ..support::config() }).await;
    let keys = world.link(ANI, "Ani").await.leave().await;
    until("the client to be gone", || !world.is_there(ANI)).await;
    // Its socket stays open and says nothing, like one behind a router that forgot it.
    let mut silent = Raw::log_in(world.emulator.address(), &noise_key(keys.clone()).await, &login(ANI, 1)).await;
    let there = NodeBuilder::new("presence").attr("type", "available").attr("name", "Ani").build();
    assert!(silent.send_node(&there).await);
    until("Ani to be there", || world.emulator.presence(ANI).available).await;
    until("Ani to be gone", || !world.is_there(ANI) && !world.emulator.presence(ANI).available).await;

    let budi = world.link(BUDI, "Budi").await;
    let id = budi.say(ANI, "where are you?").await;
    until("the text to be kept", || world.emulator.accounts()[0].devices[0].queued > 0).await;
    let mut ani = Person::resume(&world.emulator.whatsapp_url(), "Ani", keys).await;
    assert_eq!(ani.text().await.id, id);
    assert!(silent.ended().await);
}

/// Ani's device, which asks a lot and takes no answer.
async fn deaf(config: EmulatorConfig) -> (World, Raw, KeyPair) {
    let world = World::with(config).await;
    let keys = noise_key(world.link(ANI, "Ani").await.leave().await).await;
    until("the client to be gone", || !world.is_there(ANI)).await;
    let deaf = Raw::log_in(world.emulator.address(), &keys, &login(ANI, 1)).await;
    until("the client to be there", || world.is_there(ANI)).await;
    (world, deaf, keys)
}

/// A question with a long answer that cannot be made much smaller.
fn question(number: usize) -> Node {
    let users = (0..1_000).map(|_| {
        let phone = format!("+62{:013}", rand::random_range(0..10_u64.pow(13)));
        let contact = NodeBuilder::new("contact").string_content(phone).build();
        NodeBuilder::new("user").children([contact]).build()
    });
    let query = NodeBuilder::new("query").children([NodeBuilder::new("contact").build()]).build();
    let list = NodeBuilder::new("list").children(users).build();
    let usync = NodeBuilder::new("usync").attr("sid", number).attr("mode", "query").attr("context", "interactive");
    let iq = NodeBuilder::new("iq").attr("id", number).attr("xmlns", "usync").attr("type", "get");
    iq.attr("to", "s.whatsapp.net").children([usync.children([query, list]).build()]).build()
}

/// Asks until the server is rid of it.
async fn ask_until_gone(world: &World, deaf: &mut Raw) {
    let asking = async {
        for number in 0.. {
            if !world.is_there(ANI) || !deaf.send_node(&question(number)).await {
                return;
            }
        }
    };
    tokio::time::timeout(support::LIMIT, asking).await.expect("it is never gone");
    until("the client to be gone", || !world.is_there(ANI)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_waits_for_a_client_that_takes_nothing_has_a_limit() {
    let config = EmulatorConfig { outgoing_limit: 256 << 10, write_limit: NEVER, ..support::config() };
    let (world, mut deaf, keys) = deaf(config).await;
    ask_until_gone(&world, &mut deaf).await;
    // It may come back at once.
    let mut again = Raw::log_in(world.emulator.address(), &keys, &login(ANI, 1)).await;
    assert_eq!(again.node().await.unwrap().tag, "success");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_takes_nothing_for_a_time_is_gone() {
    let write_limit = Duration::from_millis(500);
    let config = EmulatorConfig { outgoing_limit: usize::MAX, write_limit, ..support::config() };
    let (world, mut deaf, _) = deaf(config).await;
    ask_until_gone(&world, &mut deaf).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_takes_nothing_can_be_cut() {
    let config = EmulatorConfig { outgoing_limit: usize::MAX, write_limit: NEVER, ..support::config() };
    for fault in [Fault::Cut, Fault::CutMidFrame, Fault::Restart] {
        let (world, mut deaf, _) = deaf(config.clone()).await;
        // More than the sockets hold.
        for number in 0..120 {
            assert!(deaf.send_node(&question(number)).await);
        }
        assert!(world.is_there(ANI));
        let target = if fault == Fault::Restart { FaultTarget::All } else { FaultTarget::Phone(ANI.to_owned()) };
        world.emulator.set_fault(fault, target);
        until("the client to be gone", || !world.is_there(ANI)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_client_is_told_last_reaches_it_also_when_it_talks_on() {
    let (world, mut slow, _) = deaf(support::config()).await;
    // More than its own socket holds.
    for number in 0..5 {
        assert!(slow.send_node(&question(number)).await);
    }
    let there = NodeBuilder::new("presence").attr("type", "available").attr("name", "Ani").build();
    assert!(slow.send_node(&there).await);
    until("all of it to be read", || world.emulator.presence(ANI).available).await;
    world.emulator.set_fault(Fault::Replaced, FaultTarget::Phone(ANI.to_owned()));
    until("the client to be gone", || !world.is_there(ANI)).await;
    for _ in 0..10 {
        slow.send_node(&there).await;
    }
    let told = tokio::time::timeout(support::LIMIT, slow.until("stream:error")).await;
    assert!(told.expect("the connection stays").is_some(), "it was never told why it is gone");
}
