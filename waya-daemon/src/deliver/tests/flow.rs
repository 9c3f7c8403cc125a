//! What is told, in which order, and what happens when nobody listens.

use std::time::Duration;

use super::receivers::{Answer, Receiver};
use super::{QUICK, World, message_id, only, until};
use crate::deliver::{DeliverError, Patience, TEST};
use crate::model::{Ack, EventBody, LinkState, Topic, Topics};
use crate::store::Keep;
use crate::store::conformance::incoming;
use crate::store::failing::{When, failing};

const STEPS: [Ack; 3] = [Ack::Server, Ack::Device, Ack::Read];

fn events(took: &[(String, String)], subject: &str) -> Vec<String> {
    took.iter().filter(|(_, of)| of == subject).map(|(event, _)| event.clone()).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_happens_is_told_signed_in_order_and_once() {
    let (world, receiver) = (World::new().await, Receiver::start().await);
    world.append(EventBody::Link(LinkState::Connecting)).await;
    let id = world.add(&receiver, Topics::All).await;
    let picky = Receiver::start().await;
    world.add(&picky, only(&[Topic::Read, Topic::Incoming])).await;
    for message in 0..10 {
        world.becomes(message, &STEPS).await;
    }
    world.store.journal.record_incoming(vec![incoming("A", "Halo", super::NOW)]).await.unwrap();
    world.append(EventBody::Link(LinkState::Connected)).await;
    let took = receiver.until_took(32).await;
    for message in 0..10 {
        let of = events(&took, &message_id(message).to_string());
        assert_eq!(of, ["message.sent", "message.delivered", "message.read"]);
    }
    assert_eq!(events(&took, "Halo"), ["message.incoming"]);
    assert_eq!(events(&took, "connected"), ["session.state"]);
    assert_eq!(picky.until_took(11).await.len(), 11);
    let newest = *world.store.journal.newest().borrow();
    until("its place is the newest", async || world.place(&id).await.cursor == newest).await;
    world.stop().await;
    let got = receiver.got();
    assert_eq!(got.len(), 32, "what happened before it was made is not told, and nothing twice");
    let body = &got[0].body;
    assert_eq!((&body["session"], &body["me"]["number"]), (&"default".into(), &"6281200000001".into()));
    let place = world.store.webhooks.all().await.unwrap()[0].place;
    assert_eq!((place.waiting, place.parked, place.missed), (0, 0, 0));
    assert_eq!(world.store.webhooks.deliveries(&id, 100).await.unwrap().len(), 32);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_receiver_that_was_down_misses_nothing_and_sees_the_same_ids() {
    let (mut world, receiver) = (World::new().await, Receiver::start().await);
    let id = world.add(&receiver, Topics::All).await;
    receiver.then(Some(Answer::Status(503)));
    world.becomes(1, &STEPS).await;
    world.becomes(2, &STEPS).await;
    receiver.until_got(7).await;
    assert!(receiver.got().iter().all(|got| got.event == "message.sent"), "a later one never overtakes");
    world.restart().await;
    receiver.then(None);
    let took = receiver.until_took(6).await;
    for message in [1, 2] {
        let of = events(&took, &message_id(message).to_string());
        assert_eq!(of, ["message.sent", "message.delivered", "message.read"]);
    }
    until("all is settled", async || world.place(&id).await.waiting == 0).await;
    world.stop().await;
    let got = receiver.got();
    for one in &got {
        let same = got.iter().filter(|other| other.subject == one.subject && other.event == one.event);
        assert!(same.clone().all(|other| other.id == one.id), "an event has several ids");
        assert_eq!(same.filter(|other| other.answered == Answer::Status(200)).count(), 1);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_listening_is_only_waited_for() {
    let (world, receiver) = (World::new().await, Receiver::start().await);
    let address = receiver.address();
    let id = world.add(&receiver, Topics::All).await;
    drop(receiver);
    world.becomes(1, &STEPS).await;
    until("it was tried", async || !world.deliver.deliveries(&id, 1).await.unwrap().is_empty()).await;
    let failed = world.deliver.deliveries(&id, 1).await.unwrap().remove(0);
    assert!(
        failed.status.is_none() && failed.error.as_deref().is_some_and(|error| error.starts_with("cannot connect"))
    );
    let receiver = Receiver::start_at(&address).await;
    assert_eq!(receiver.until_took(3).await.len(), 3);
    world.stop().await;
}

/// The answer of the store is lost after the row was written, or the row itself is: the same is told again, under the
/// same id.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_crash_between_a_delivery_and_its_mark_tells_the_same_again() {
    let mut failures = None;
    let wrap = |store| {
        let (store, all) = failing(store);
        failures = Some(all);
        store
    };
    let mut world = World::with(QUICK, wrap).await;
    let failures = failures.unwrap();
    let receiver = Receiver::start().await;
    world.add(&receiver, Topics::All).await;
    // It takes the event, and the answer comes only after the daemon is gone.
    receiver.next([Answer::Hang]);
    world.becomes(1, &STEPS).await;
    receiver.until_got(1).await;
    world.restart().await;
    receiver.until_took(3).await;
    let got = receiver.got();
    assert_eq!((&got[0].id, &got[0].event), (&got[1].id, &got[1].event));
    for when in [When::Before, When::After] {
        for nth in 1..8 {
            let before = receiver.took().len();
            failures.fail(nth, when);
            let changed = world.store.journal.append(EventBody::Link(LinkState::Connected), super::NOW).await;
            if changed.is_ok() || when == When::After {
                receiver.until_took(before + 1).await;
            }
        }
    }
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_never_taken_is_parked_and_told_again_on_the_users_word() {
    let patience = Patience { give_up_after: Duration::from_millis(300), ..QUICK };
    let (world, receiver) = (World::with(patience, |store| store).await, Receiver::start().await);
    let id = world.add(&receiver, Topics::All).await;
    let bad = message_id(1).to_string();
    receiver.refuses(Some((&bad, Answer::Status(500))));
    world.becomes(1, &STEPS).await;
    world.becomes(2, &STEPS).await;
    assert_eq!(receiver.until_took(3).await.len(), 3, "the other message does not wait");
    until("all three are parked", async || world.place(&id).await.parked == 3).await;
    let parked = world.deliver.parked(&id, 10).await.unwrap();
    assert_eq!(parked[0].row.reason, "it answered 500");
    assert!(parked[0].row.attempts >= 2);

    receiver.refuses(None);
    assert_eq!(world.deliver.redeliver(&id, Some(&parked[0].event_id)).await, Ok(1));
    until("the first is told", async || events(&receiver.took(), &bad) == ["message.sent"]).await;
    let again = world.deliver.redeliver(&id, Some(&parked[0].event_id)).await;
    assert_eq!(again, Err(DeliverError::NotParked(parked[0].event_id.clone())));
    assert_eq!(world.deliver.redeliver(&id, None).await, Ok(2));
    let told = ["message.sent", "message.delivered", "message.read"];
    until("the others are", async || events(&receiver.took(), &bad) == told).await;
    until("nothing is parked", async || world.place(&id).await.parked + world.place(&id).await.waiting == 0).await;
    let ids: Vec<String> = receiver
        .got()
        .into_iter()
        .filter(|got| got.event == "message.sent" && got.subject == bad)
        .map(|got| got.id)
        .collect();
    assert!(ids.iter().all(|id| *id == parked[0].event_id));
    let wrong = world.deliver.redeliver(&id, Some("evt_1")).await;
    assert!(matches!(wrong, Err(DeliverError::Event(_))));
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_receiver_that_is_gone_for_good_is_not_asked_for_a_day() {
    let (world, receiver) = (World::new().await, Receiver::start().await);
    let id = world.add(&receiver, Topics::All).await;
    receiver.next([Answer::Status(410)]);
    world.append(EventBody::Link(LinkState::Connected)).await;
    until("it is parked", async || world.place(&id).await.parked == 1).await;
    assert_eq!(receiver.got().len(), 1);
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn redirects_are_not_followed_and_endless_answers_not_read() {
    let (world, receiver, elsewhere) = (World::new().await, Receiver::start().await, Receiver::start().await);
    let id = world.add(&receiver, Topics::All).await;
    receiver.next([Answer::Redirect(elsewhere.url()), Answer::Endless]);
    world.append(EventBody::Link(LinkState::Connected)).await;
    until("it was taken", async || world.place(&id).await.succeeded_at.is_some()).await;
    world.stop().await;
    let deliveries = world.store.webhooks.deliveries(&id, 10).await.unwrap();
    let told: Vec<Option<&str>> = deliveries.iter().map(|delivery| delivery.error.as_deref()).collect();
    assert_eq!(told, [None, Some("it answered 302: redirects are not followed")]);
    assert!(elsewhere.got().is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_that_hangs_holds_nobody_else_up() {
    let (world, slow, quick) = (World::new().await, Receiver::start().await, Receiver::start().await);
    slow.then(Some(Answer::Hang));
    world.add(&slow, Topics::All).await;
    world.add(&quick, Topics::All).await;
    for message in 0..30 {
        world.becomes(message, &STEPS).await;
    }
    quick.until_took(90).await;
    assert!(slow.got().len() <= crate::deliver::window::AT_ONCE);
    // And a stop does not wait for it.
    tokio::time::timeout(Duration::from_secs(8), world.stop()).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_disabled_one_keeps_its_place_or_lets_go_of_it() {
    let (world, receiver) = (World::new().await, Receiver::start().await);
    let id = world.add(&receiver, Topics::All).await;
    world.becomes(1, &STEPS).await;
    receiver.until_took(3).await;
    world.set_enabled(&id, false).await;
    world.becomes(2, &STEPS).await;
    let tested = world.deliver.test(&id).await.unwrap();
    assert_eq!((tested.status, tested.event.as_str(), tested.error), (Some(200), TEST, None));
    assert_eq!(receiver.got().len(), 4);
    world.set_enabled(&id, true).await;
    assert_eq!(receiver.until_took(7).await.len(), 7);

    world.set_enabled(&id, false).await;
    world.becomes(3, &STEPS).await;
    let webhook = world.deliver.get(&id).await.unwrap().webhook;
    world.deliver.change(crate::model::Webhook { enabled: true, ..webhook }, true).await.unwrap();
    world.becomes(4, &STEPS).await;
    let took = receiver.until_took(10).await;
    assert_eq!(events(&took, &message_id(3).to_string()), Vec::<String>::new());
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_removed_one_is_told_nothing_more() {
    let (world, receiver) = (World::new().await, Receiver::start().await);
    let id = world.add(&receiver, Topics::All).await;
    receiver.then(Some(Answer::Status(503)));
    world.becomes(1, &STEPS).await;
    receiver.until_got(2).await;
    world.deliver.remove(&id).await.unwrap();
    let came = receiver.got().len();
    world.becomes(2, &STEPS).await;
    assert_eq!(world.deliver.remove(&id).await, Err(DeliverError::Unknown(id.clone())));
    assert_eq!(world.deliver.test(&id).await, Err(DeliverError::Unknown(id)));
    world.stop().await;
    assert_eq!(receiver.got().len(), came);
    assert_eq!(world.store.webhooks.all().await, Ok(vec![]));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_retention_took_before_it_was_told_is_counted() {
    let (world, receiver) = (World::new().await, Receiver::start().await);
    let id = world.add(&receiver, Topics::All).await;
    world.set_enabled(&id, false).await;
    for message in 0..10 {
        world.becomes(message, &STEPS).await;
    }
    let keep = Keep { age: Duration::ZERO, newest: 3 };
    let later = super::NOW.plus(Duration::from_hours(24 * 3_650));
    while world.store.journal.prune_events(keep, later).await.unwrap() > 0 {}
    world.set_enabled(&id, true).await;
    assert_eq!(receiver.until_took(3).await.len(), 3);
    until("the others are counted", async || world.place(&id).await.missed == 27).await;
    world.stop().await;
}
