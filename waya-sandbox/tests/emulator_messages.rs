//! Direct messages through the emulator, between real clients.

#![allow(clippy::unwrap_used)]

mod support;

use support::World;

const ANI: &str = "6281200000001";
const BUDI: &str = "6281200000002";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_text_goes_both_ways_and_is_confirmed() {
    let world = World::start().await;
    let mut ani = world.link(ANI, "Ani").await;
    let mut budi = world.link(BUDI, "Budi").await;

    let id = ani.say(BUDI, "Halo Budi").await;
    assert_eq!(ani.ack(&id).await, None);
    let received = budi.text().await;
    assert_eq!((received.text.as_str(), received.id.as_str()), ("Halo Budi", id.as_str()));
    ani.receipt(&id).await;

    let id = budi.say(&received.chat, "Halo Ani").await;
    assert_eq!(ani.text().await.text, "Halo Ani");
    budi.receipt(&id).await;

    let stats = world.emulator.stats();
    assert_eq!((stats.relayed, stats.acked, stats.nacked), (2, 2, 0));
}
