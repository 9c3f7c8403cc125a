//! The worker on a store in memory and a scripted WhatsApp, with time that passes only when everything waits.

use std::time::Duration;

use tokio::time::Instant;

use super::testing::{World, draft, offline, quick};
use super::{Draft, NO_ANSWER};
use crate::clock::Clock as _;
use crate::model::{Ack, ChatId, Lane, LinkState, NackReason, ReceiptKind, Status};
use crate::session::SendError;
use crate::session::fake::SendStep;
use crate::settings::Snapshot;
use crate::store::{Changed, Contact};

#[tokio::test(start_paused = true)]
async fn an_idle_queue_sends_at_once_and_a_busy_one_keeps_its_pace() {
    let world = World::new(Snapshot::default()).await;
    let start = Instant::now();
    for person in 0..4 {
        world.accept(person, Lane::Normal).await;
    }
    let mut last = world.handed_over(1).await;
    assert!(last - start < Duration::from_millis(100), "{:?}", last - start);
    for count in 2..=4 {
        let at = world.handed_over(count).await;
        assert!((5_000..6_100).contains(&(at - last).as_millis()), "{:?}", at - last);
        last = at;
    }
}

#[tokio::test(start_paused = true)]
async fn a_reply_passes_a_blast() {
    let world = World::new(Snapshot::default()).await;
    for person in 0..50 {
        world.accept(person, Lane::Normal).await;
    }
    world.handed_over(2).await;
    let asked = Instant::now();
    let reply = world.accept(99, Lane::Reply).await;
    world.handed_over(3).await;
    assert!(asked.elapsed() <= Duration::from_millis(600), "{:?}", asked.elapsed());
    assert_eq!(world.message(reply).await.attempts, 1);
}

#[tokio::test(start_paused = true)]
async fn a_chat_keeps_its_order_and_one_that_fails_holds_nobody_else() {
    let world = World::new(quick()).await;
    world.whatsapp.next_sends([SendStep::Give(Err(SendError::Transient("later".to_owned())))]);
    let first = world.accept(1, Lane::Normal).await;
    world.until(first, |message| message.retry_at.is_some()).await;
    let second = world.accept(1, Lane::Normal).await;
    let other = world.accept(2, Lane::Normal).await;
    world.sent(2).await;
    world.ack(other).await;
    assert_eq!(world.message(second).await.status, Status::Pending);
    world.sent(3).await;
    world.ack(first).await;
    world.sent(4).await;
    world.ack(second).await;
    let ids: Vec<_> = world.whatsapp.sent().into_iter().map(|sent| sent.whatsapp_id).collect();
    let id = async |id| world.message(id).await.whatsapp_id;
    assert_eq!(ids, [id(first).await, id(other).await, id(first).await, id(second).await]);
}

/// The first person, by LID.
fn by_lid() -> Draft {
    Draft { chat: ChatId::lid("991"), ..draft(1, Lane::Normal) }
}

/// The first person's phone and LID.
fn pair() -> (String, &'static str) {
    (draft(1, Lane::Normal).chat.user().to_owned(), "991")
}

#[tokio::test(start_paused = true)]
async fn what_was_accepted_by_lid_is_not_passed_once_the_phone_is_known() {
    let world = World::new(quick()).await;
    let later = || SendStep::Give(Err(SendError::Transient("later".to_owned())));
    world.whatsapp.next_sends([later()]);
    let first = world.accept_draft(by_lid()).await;
    world.until(first, |message| message.retry_at.is_some()).await;
    let (phone, lid) = pair();
    world.queue.on_pair(lid, &phone);
    let second = world.accept(1, Lane::Normal).await;
    // Somebody asked before it was known.
    let third = world.accept_draft(by_lid()).await;
    assert_eq!(world.held(second).await.map(|held| held.0), Some("backoff"));
    for (id, count) in [(first, 2), (second, 3), (third, 4)] {
        let sent = world.sent(count).await;
        assert_eq!(sent.last().unwrap().whatsapp_id, world.message(id).await.whatsapp_id);
        world.ack(id).await;
    }
    assert_eq!(world.message(first).await.chat, ChatId::lid(lid), "the row is as it was accepted");
}

#[tokio::test(start_paused = true)]
async fn a_start_and_a_retry_by_hand_know_who_is_one_person() {
    let mut world = World::new(Snapshot { max_attempts: 1, ..quick() }).await;
    world.whatsapp.next_sends([SendStep::Give(Err(SendError::Permanent("no".to_owned())))]);
    let failed = world.accept_draft(by_lid()).await;
    world.until(failed, |message| message.status == Status::Failed).await;
    world.whatsapp.set_link(offline());
    let waits = world.accept_draft(by_lid()).await;
    let (phone, lid) = pair();
    let contact = Contact { phone: Some(phone), lid: Some(lid.to_owned()), ..Contact::default() };
    world.store.contacts.learn(vec![contact]).await.unwrap();
    world.restart().await;
    let by_phone = world.accept(1, Lane::Normal).await;
    assert!(matches!(world.queue.retry(failed).await, Ok(Changed::Yes(_))));
    world.whatsapp.set_link(LinkState::Connected);
    // One at a time, the oldest first, though nothing backs off.
    for (id, count) in [(failed, 2), (waits, 3), (by_phone, 4)] {
        let sent = world.sent(count).await;
        tokio::time::sleep(Duration::from_secs(1)).await;
        assert_eq!(world.whatsapp.sent().len(), count);
        assert_eq!(sent.last().unwrap().whatsapp_id, world.message(id).await.whatsapp_id);
        world.ack(id).await;
    }
}

#[tokio::test(start_paused = true)]
async fn without_an_ack_it_goes_again_under_its_id_and_is_told_in_the_end() {
    let world = World::new(Snapshot { max_attempts: 3, ..quick() }).await;
    let id = world.accept(1, Lane::Normal).await;
    let failed = world.until(id, |message| message.status == Status::Failed).await;
    assert_eq!((failed.attempts, failed.error.as_deref()), (3, Some(NO_ANSWER)));
    let sent = world.whatsapp.sent();
    assert_eq!(sent.len(), 3);
    assert!(sent.iter().all(|sent| sent.whatsapp_id == failed.whatsapp_id));
    assert!(world.whatsapp.probed() >= 3, "a missing ack has the connection prove that it lives");
    world.queue.on_receipt(vec![failed.whatsapp_id], &[], ReceiptKind::Delivered, world.clock.now());
    let late = world.until(id, |message| message.status == Status::Sent).await;
    assert_eq!((late.ack, late.error), (Ack::Device, None));
}

#[tokio::test(start_paused = true)]
async fn offline_costs_no_attempt_and_the_queue_goes_on_by_itself() {
    let world = World::new(quick()).await;
    world.whatsapp.set_link(offline());
    let id = world.accept(1, Lane::Normal).await;
    tokio::time::sleep(Duration::from_hours(1)).await;
    let waiting = world.message(id).await;
    assert_eq!((waiting.status, waiting.attempts), (Status::Pending, 0));
    assert_eq!(world.held(id).await, Some(("offline", None)));
    world.whatsapp.set_link(LinkState::Connected);
    world.sent(1).await;
    world.ack(id).await;
    assert_eq!(world.message(id).await.attempts, 1);
}

#[tokio::test(start_paused = true)]
async fn a_cut_before_the_ack_costs_nothing_until_the_message_is_suspect() {
    let world = World::new(Snapshot { max_attempts: 2, ..quick() }).await;
    let id = world.accept(1, Lane::Normal).await;
    for cut in 1..=4 {
        world.sent(cut).await;
        world.until(id, |message| message.status == Status::Sending).await;
        world.whatsapp.set_link(offline());
        world.until(id, |message| message.status == Status::Pending).await;
        world.whatsapp.set_link(LinkState::Connected);
    }
    assert_eq!(world.message(id).await.attempts, 1);
    world.sent(5).await;
    world.until(id, |message| message.status == Status::Sending).await;
    world.whatsapp.set_link(offline());
    let failed = world.until(id, |message| message.status == Status::Failed).await;
    assert_eq!(failed.error.as_deref(), Some(NO_ANSWER));
}

#[tokio::test(start_paused = true)]
async fn a_restart_puts_back_what_was_on_its_way_under_its_id() {
    let mut world = World::new(quick()).await;
    let id = world.accept(1, Lane::Normal).await;
    let first = world.sent(1).await[0].whatsapp_id.clone();
    world.restart().await;
    let again = world.sent(2).await[1].whatsapp_id.clone();
    assert_eq!(first, again);
    world.ack(id).await;
    assert_eq!(world.message(id).await.attempts, 1);
}

#[tokio::test(start_paused = true)]
async fn a_pause_lasts_through_a_restart() {
    let mut world = World::new(quick()).await;
    world.queue.pause().await.unwrap();
    let id = world.accept(1, Lane::Normal).await;
    world.restart().await;
    assert!(world.queue.is_paused());
    tokio::time::sleep(Duration::from_hours(1)).await;
    assert_eq!(world.held(id).await, Some(("paused", None)));
    assert!(world.whatsapp.sent().is_empty());
    world.queue.resume().await.unwrap();
    world.sent(1).await;
    world.ack(id).await;
}

#[tokio::test(start_paused = true)]
async fn what_waited_too_long_offline_is_given_up_and_what_is_scheduled_is_not() {
    let mut world = World::new(Snapshot { max_age: Duration::from_hours(2), ..quick() }).await;
    world.whatsapp.set_link(offline());
    let id = world.accept(1, Lane::Normal).await;
    let tomorrow = world.clock.now().plus(Duration::from_hours(24));
    let scheduled = world.accept_draft(Draft { not_before: Some(tomorrow), ..draft(2, Lane::Normal) }).await;
    tokio::time::sleep(Duration::from_mins(90)).await;
    // The count goes on over a restart.
    world.restart().await;
    tokio::time::sleep(Duration::from_mins(25)).await;
    assert_eq!(world.message(id).await.status, Status::Pending);
    tokio::time::sleep(Duration::from_mins(10)).await;
    let failed = world.message(id).await;
    assert_eq!(failed.status, Status::Failed);
    assert!(failed.error.unwrap().contains("queue.max_age"));
    assert_eq!(world.message(scheduled).await.status, Status::Pending);
}

#[tokio::test(start_paused = true)]
async fn a_number_is_asked_for_once_a_day_and_one_that_is_not_there_fails() {
    let world = World::new(quick()).await;
    world.whatsapp.not_registered(["6281200000001"]);
    let nobody = world.accept(1, Lane::Normal).await;
    let failed = world.until(nobody, |message| message.status == Status::Failed).await;
    assert_eq!(failed.error.as_deref(), Some("6281200000001 is not on WhatsApp"));
    for count in 1..=2 {
        let id = world.accept(2, Lane::Normal).await;
        world.sent(count).await;
        world.ack(id).await;
    }
    assert_eq!(world.whatsapp.asked(), ["6281200000001", "6281200000002"]);
    tokio::time::sleep(Duration::from_hours(25)).await;
    world.accept(2, Lane::Normal).await;
    world.sent(3).await;
    assert_eq!(world.whatsapp.asked().len(), 3);
}

#[tokio::test(start_paused = true)]
async fn a_refusal_that_lasts_fails_and_one_that_passes_is_tried_again() {
    let world = World::new(quick()).await;
    let locked = world.accept(1, Lane::Normal).await;
    world.sent(1).await;
    let whatsapp_id = world.message(locked).await.whatsapp_id;
    world.queue.on_server_ack(whatsapp_id, Some(NackReason::NotAllowed(403)));
    let failed = world.until(locked, |message| message.status == Status::Failed).await;
    assert!(failed.error.unwrap().contains("403"));
    let busy = world.accept(2, Lane::Normal).await;
    world.sent(2).await;
    let whatsapp_id = world.message(busy).await.whatsapp_id;
    world.queue.on_server_ack(whatsapp_id, Some(NackReason::ServerTrouble(503)));
    world.sent(3).await;
    world.ack(busy).await;
}

#[tokio::test(start_paused = true)]
async fn a_store_that_fails_for_a_while_loses_and_doubles_nothing() {
    let world = World::new(quick()).await;
    let id = world.accept(1, Lane::Normal).await;
    world.sent(1).await;
    let whatsapp_id = world.message(id).await.whatsapp_id;
    world.memory.set_down(true);
    world.queue.on_server_ack(whatsapp_id, None);
    tokio::time::sleep(Duration::from_mins(5)).await;
    world.memory.set_down(false);
    world.until(id, |message| message.status == Status::Sent).await;
    assert_eq!(world.whatsapp.sent().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn what_is_cancelled_never_leaves_and_can_be_tried_by_hand() {
    let world = World::new(quick()).await;
    world.queue.pause().await.unwrap();
    let id = world.accept(1, Lane::Normal).await;
    let second = world.accept(2, Lane::Normal).await;
    assert_eq!((world.queue.position(id).await, world.queue.position(second).await), (1, 2));
    world.queue.cancel(id).await.unwrap();
    assert_eq!(world.queue.position(second).await, 1);
    world.queue.resume().await.unwrap();
    world.sent(1).await;
    world.ack(second).await;
    assert_eq!(world.message(id).await.status, Status::Cancelled);
    world.queue.retry(id).await.unwrap();
    world.sent(2).await;
    world.ack(id).await;
}
