//! What a user is told of messages that wait, by a queue that works.

use std::time::Duration;

use super::testing::{World, draft, offline};
use super::{Draft, Outlook};
use crate::clock::Clock as _;
use crate::model::{Lane, LinkState, MessageId, OfflineReason, Status};
use crate::session::SendError;
use crate::session::fake::SendStep;
use crate::settings::Snapshot;

/// Five seconds from one to the next, without chance.
fn even() -> Snapshot {
    Snapshot { delay: Duration::from_secs(5), jitter: Duration::ZERO, ..Snapshot::default() }
}

fn within(held: Option<(&'static str, Option<Duration>)>, reason: &str, least: u64, most: u64) {
    let Some((told, Some(left))) = held else { panic!("{held:?}") };
    assert_eq!(told, reason);
    assert!(left > Duration::from_secs(least) && left <= Duration::from_secs(most), "{held:?}");
}

#[tokio::test(start_paused = true)]
async fn only_the_next_one_of_a_thousand_is_told_the_next_departure() {
    let world = World::new(even()).await;
    world.accept(1, Lane::Normal).await;
    world.handed_over(1).await;
    let drafts = (0..1_000).map(|n| draft(u8::try_from(n % 250).unwrap(), Lane::Normal)).collect();
    let super::Accepted::Fresh(placed) = world.queue.enqueue(drafts, None).await.unwrap() else { panic!("refused") };
    let ids: Vec<MessageId> = placed.iter().map(|placed| placed.id).collect();
    let holds = world.queue.outlooks(ids.clone()).await;
    let left = |outlook: Outlook| {
        let hold = outlook.hold.unwrap();
        assert_eq!(hold.reason, "pace");
        hold.until.unwrap().since(world.clock.now())
    };
    let first = left(holds[0]);
    assert!(first <= Duration::from_secs(5), "{first:?}");
    for (n, hold) in holds.into_iter().enumerate() {
        assert_eq!(left(hold), first + Duration::from_secs(5) * u32::try_from(n).unwrap(), "number {n}");
    }
    // A reply passes all of them, and its own pace is quick.
    let reply = world.accept(99, Lane::Reply).await;
    let told = world.held(reply).await;
    assert!(told.is_none_or(|(reason, left)| reason == "pace" && left <= Some(Duration::from_millis(500))), "{told:?}");
    let high = world.accept(98, Lane::High).await;
    within(world.held(high).await, "pace", 0, 6);
    within(world.held(ids[0]).await, "pace", 5, 11);
}

#[tokio::test(start_paused = true)]
async fn those_behind_one_that_backs_off_wait_for_it_and_the_others_do_not() {
    let world = World::new(Snapshot { delay: Duration::from_secs(30), ..even() }).await;
    // The sixth wait is 80 to 160 seconds.
    world.whatsapp.next_lookups_fail(vec![SendError::Transient("later".to_owned()); 6]);
    let head = world.accept(1, Lane::Normal).await;
    while world.whatsapp.asked().len() < 6 {
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    world.until(head, |message| message.retry_at.is_some()).await;
    let busy = world.accept(2, Lane::Normal).await;
    world.sent(1).await;
    world.ack(busy).await;
    let behind = world.accept(1, Lane::Normal).await;
    let elsewhere = world.accept(3, Lane::Normal).await;
    let later = world.accept(4, Lane::Normal).await;
    within(world.held(head).await, "backoff", 40, 160);
    assert_eq!(world.held(behind).await, world.held(head).await);
    // Those two stand before it in line and do not leave before it.
    within(world.held(elsewhere).await, "pace", 15, 30);
    within(world.held(later).await, "pace", 45, 60);
    // Another lane of the same chat has a line of its own.
    let high = world.accept(1, Lane::High).await;
    within(world.held(high).await, "pace", 15, 30);
}

#[tokio::test(start_paused = true)]
async fn the_strongest_reason_is_told_and_none_of_what_does_not_wait() {
    let world = World::new(even()).await;
    let in_a_minute = world.clock.now().plus(Duration::from_mins(1));
    let first = world.accept(1, Lane::Normal).await;
    world.handed_over(1).await;
    world.until_sent(first).await;
    assert_eq!(world.held(first).await, None, "it has left");
    let waiting = world.accept(2, Lane::Normal).await;
    let scheduled = world.accept_draft(Draft { not_before: Some(in_a_minute), ..draft(3, Lane::Normal) }).await;
    within(world.held(waiting).await, "pace", 0, 5);
    within(world.held(scheduled).await, "scheduled", 50, 60);
    world.whatsapp.set_link(offline());
    assert_eq!(world.held(waiting).await, Some(("offline", None)));
    let retry_at = Some(world.clock.now().plus(Duration::from_secs(9)));
    world.whatsapp.set_link(LinkState::Offline { reason: OfflineReason("no route".to_owned()), retry_at });
    assert_eq!(world.held(waiting).await, Some(("offline", Some(Duration::from_secs(9)))));
    within(world.held(scheduled).await, "scheduled", 50, 60);
    world.queue.pause().await.unwrap();
    assert_eq!(world.held(waiting).await, Some(("paused", None)));
    within(world.held(scheduled).await, "scheduled", 50, 60);
    world.queue.cancel(waiting).await.unwrap();
    assert_eq!(world.held(waiting).await, None);
    world.stop().await;
    assert_eq!(world.held(scheduled).await, None, "nobody is there to know");
}

#[tokio::test(start_paused = true)]
async fn one_behind_a_message_of_its_chat_that_awaits_its_ack_is_not_told_a_time() {
    let world = World::new(Snapshot { delay: Duration::ZERO, ..even() }).await;
    let first = world.accept(1, Lane::Normal).await;
    world.until(first, |message| message.status == Status::Sending).await;
    let second = world.accept(1, Lane::Normal).await;
    assert_eq!(world.held(second).await, Some(("pace", None)));
    assert_eq!(world.held(first).await, None);
}

#[tokio::test(start_paused = true)]
async fn a_link_that_takes_nothing_although_it_seems_up_is_offline_for_a_moment() {
    let world = World::new(even()).await;
    world.whatsapp.next_sends([SendStep::Give(Err(SendError::Offline))]);
    let id = world.accept(1, Lane::Normal).await;
    world.sent(1).await;
    world.until(id, |message| message.status == Status::Pending).await;
    within(world.held(id).await, "offline", 0, 1);
}
