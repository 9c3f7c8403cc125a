//! What goes wrong between the server and a client, as real clients see it; and faults that end by themselves.

#![allow(clippy::unwrap_used)]

mod support;

use std::time::{Duration, Instant};

use support::{Person, World, until};
use waya_sandbox::emulator::{EmulatorConfig, Fault, FaultLimit, FaultTarget};
use whatsapp_rust::wacore::types::events::Event;

const ANI: &str = "6281200000001";
const BUDI: &str = "6281200000002";
const CITRA: &str = "6281200000003";

fn budi() -> FaultTarget {
    FaultTarget::Phone(BUDI.into())
}

/// Two who know each other: their sessions stand.
async fn two(world: &World) -> (Person, Person) {
    let mut ani = world.link(ANI, "Ani").await;
    let mut budi = world.link(BUDI, "Budi").await;
    let id = ani.say(BUDI, "hello").await;
    budi.text().await;
    ani.receipt(&id).await;
    (ani, budi)
}

fn once(world: &World, fault: Fault) {
    world.emulator.set_limited_fault(fault, budi(), FaultLimit::times(1)).unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dropped_message_comes_with_the_next_login() {
    let world = World::start().await;
    let (mut ani, mut budi) = two(&world).await;
    once(&world, Fault::Drop);
    let lost = ani.say(BUDI, "lost").await;
    assert_eq!(ani.ack(&lost).await, None, "the server has it");
    ani.say(BUDI, "not lost").await;
    assert_eq!(budi.text().await.text, "not lost");
    let keys = budi.leave().await;
    let mut budi = Person::resume(&world.emulator.whatsapp_url(), "Budi", keys).await;
    assert_eq!(budi.text().await.id, lost);
    ani.receipt(&lost).await;
    assert!(world.emulator.faults().is_empty(), "once was asked for");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_doubled_message_opens_once() {
    let world = World::start().await;
    let (ani, mut budi) = two(&world).await;
    once(&world, Fault::Double);
    ani.say(BUDI, "twice").await;
    ani.say(BUDI, "after").await;
    let texts: Vec<_> = budi.texts(2).await.into_iter().map(|received| received.text).collect();
    assert_eq!(texts, ["twice", "after"]);
    until("the queues to be empty", || world.emulator.stats().queued == 0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_message_is_overtaken_by_the_next_or_comes_late() {
    let world = World::start().await;
    let (ani, mut budi) = two(&world).await;
    once(&world, Fault::Reorder);
    ani.say(BUDI, "first").await;
    ani.say(BUDI, "second").await;
    let texts: Vec<_> = budi.texts(2).await.into_iter().map(|received| received.text).collect();
    assert_eq!(texts, ["second", "first"]);

    once(&world, Fault::Reorder);
    ani.say(BUDI, "alone").await;
    assert_eq!(budi.text().await.text, "alone");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_garbled_message_is_asked_for_again() {
    for pn_only in [false, true] {
        let world = World::with(EmulatorConfig { pn_only, ..support::config() }).await;
        let (mut ani, mut budi) = two(&world).await;
        once(&world, Fault::Garble);
        let id = ani.say(BUDI, "broken").await;
        budi.wait("a message that does not open", |event| {
            matches!(event, Event::UndecryptableMessage(_)).then_some(())
        })
        .await;
        let mended = budi.text().await;
        assert_eq!((mended.text.as_str(), mended.id.as_str()), ("broken", id.as_str()));
        ani.receipt(&id).await;
    }
}

/// The first message into a group brings the group's key along, those behind it do not.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_garbled_group_message_is_asked_for_again_and_opens_once() {
    for pn_only in [false, true] {
        let world = World::with(EmulatorConfig { pn_only, ..support::config() }).await;
        let mut ani = world.link(ANI, "Ani").await;
        let mut budi_client = world.link(BUDI, "Budi").await;
        let mut citra = world.link(CITRA, "Citra").await;
        let group = world.emulator.ensure_group("Team", &[ANI, BUDI, CITRA].map(ToOwned::to_owned));
        for text in ["with the key", "without it"] {
            once(&world, Fault::Garble);
            let id = ani.say(&group.jid, text).await;
            let unread = |event: &Event| match event {
                Event::UndecryptableMessage(unread) => Some(unread.info.id.clone()),
                _ => None,
            };
            assert_eq!(budi_client.wait("a message that does not open", unread).await, id);
            for person in [&mut budi_client, &mut citra] {
                let received = person.text().await;
                assert_eq!((&received.text[..], &received.id, &received.chat), (text, &id, &group.jid), "{pn_only}");
                ani.receipt(&id).await;
            }
        }
        // Behind another message each has what came before it, once.
        ani.say(&group.jid, "the end").await;
        for person in [&mut budi_client, &mut citra] {
            assert_eq!(person.text().await.text, "the end");
        }
        assert_eq!(world.emulator.stats().relayed, 3, "a resend for one device is no new message");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_key_that_its_owner_does_not_have_is_mended_by_a_retry() {
    let world = World::start().await;
    let mut ani = world.link(ANI, "Ani").await;
    let mut budi_client = world.link(BUDI, "Budi").await;
    world.emulator.set_limited_fault(Fault::StalePreKeys, budi(), FaultLimit::times(2)).unwrap();
    let id = ani.say(BUDI, "with an old key").await;
    let received = budi_client.text().await;
    assert_eq!((received.text.as_str(), received.id.as_str()), ("with an old key", id.as_str()));
    ani.receipt(&id).await;
    assert_eq!(world.emulator.stats().relayed, 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slow_link_keeps_the_order() {
    let world = World::start().await;
    let (ani, mut budi_client) = two(&world).await;
    world.emulator.set_fault(Fault::Slow { ms: 50 }, budi());
    let begun = Instant::now();
    for number in 0..6 {
        ani.say(BUDI, &number.to_string()).await;
    }
    let texts: Vec<_> = budi_client.texts(6).await.into_iter().map(|received| received.text).collect();
    assert_eq!(texts, ["0", "1", "2", "3", "4", "5"]);
    assert!(begun.elapsed() >= Duration::from_millis(300), "{:?}", begun.elapsed());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_clock_that_is_wrong_shows_in_what_the_target_gets_alone() {
    let world = World::start().await;
    let (mut ani, mut budi_client) = two(&world).await;
    world.emulator.set_fault(Fault::ClockSkew { seconds: -86_400 }, budi());
    let time = |event: &Event| match event {
        Event::Messages(batch) => batch
            .messages
            .iter()
            .find(|message| message.message.conversation.as_deref().is_some_and(|text| text.starts_with("from")))
            .map(|message| message.info.timestamp.timestamp()),
        _ => None,
    };
    ani.say(BUDI, "from yesterday").await;
    let told = budi_client.wait("a message", time).await;
    budi_client.say(ANI, "from now").await;
    let now = ani.wait("a message", time).await;
    assert!((86_390..=86_500).contains(&(now - told)), "{now} {told}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_fault_for_one_device_spares_the_other() {
    let world = World::start().await;
    let (ani, mut desk) = two(&world).await;
    let mut laptop = world.link(BUDI, "Budi").await;
    let number = world.emulator.accounts()[1].devices.iter().map(|device| device.device).max().unwrap();
    let target = FaultTarget::Device(BUDI.into(), number);
    world.emulator.set_limited_fault(Fault::Drop, target.clone(), FaultLimit::time(Duration::from_secs(600))).unwrap();
    ani.say(BUDI, "for one").await;
    assert_eq!(desk.text().await.text, "for one");
    world.emulator.clear_faults(&target);
    ani.say(BUDI, "for both").await;
    assert_eq!(laptop.text().await.text, "for both");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_starts_anew_has_lost_nothing() {
    let folder = tempfile::tempdir().unwrap();
    for keep in [true, false] {
        let config = EmulatorConfig { data_dir: keep.then(|| folder.path().to_owned()), ..support::config() };
        let world = World::with(config).await;
        let (mut ani, budi) = two(&world).await;
        let keys = budi.leave().await;
        let id = ani.say(BUDI, "over the restart").await;
        assert_eq!(ani.ack(&id).await, None);
        world.emulator.set_fault(Fault::Restart, FaultTarget::All);
        // Ani's client comes back by itself, Budi's is started again.
        ani.connected().await;
        let mut budi = Person::resume(&world.emulator.whatsapp_url(), "Budi", keys).await;
        let received = budi.text().await;
        assert_eq!(received.id, id);
        ani.receipt(&id).await;
        budi.say(&received.chat, "and on").await;
        assert_eq!(ani.text().await.text, "and on");
    }
}

#[test]
fn what_cannot_be_limited_says_so() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let world = World::start().await;
        let limited = world.emulator.set_limited_fault(Fault::Cut, FaultTarget::All, FaultLimit::times(2));
        assert!(limited.unwrap_err().to_string().contains("acts once"));
        let limited = world.emulator.set_limited_fault(Fault::Restart, budi(), FaultLimit::default());
        assert!(limited.unwrap_err().to_string().contains("hits everybody"));
    });
}
