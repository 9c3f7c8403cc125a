//! A queue that takes care of its account: strangers, shares of a day, nights, gaps.

use std::time::Duration;

use jiff::civil::time;
use jiff::tz::TimeZone;
use tokio::time::Instant;

use super::testing::{World, draft, offline, quick};
use super::{By, Draft, OPTED_OUT};
use crate::clock::Clock as _;
use crate::model::{
    Body, ChatId, Content, Lane, LinkState, MessageId, MessageKey, NackReason, ReceiptKind, Status, Timestamp,
};
use crate::session::SendError;
use crate::session::fake::SendStep;
use crate::settings::{QuietHours, Snapshot};
use crate::store::Contact;

const LOCKED: Option<NackReason> = Some(NackReason::ReachOutTimelock);

fn phone(person: u8) -> String {
    format!("62812000000{person:02}")
}

impl World {
    /// So many have written to us.
    async fn have_written(&self, people: impl IntoIterator<Item = u8>) {
        let wrote_at = Some(Timestamp::from_millis(1));
        let contact = |person| Contact { phone: Some(phone(person)), wrote_at, ..Contact::default() };
        self.store.contacts.learn(people.into_iter().map(contact).collect()).await.unwrap();
    }

    /// Answers the n-th hand-over.
    async fn answer(&self, nth: usize, refused: Option<NackReason>) {
        let whatsapp_id = self.sent(nth).await[nth - 1].whatsapp_id.clone();
        self.queue.on_server_ack(whatsapp_id, refused);
    }

    async fn until_held(&self, id: MessageId, reason: &str) -> Option<Duration> {
        let end = Instant::now() + Duration::from_mins(1);
        loop {
            match self.held(id).await {
                Some((told, until)) if told == reason => return until,
                held => assert!(Instant::now() < end, "{held:?}"),
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// To whom the hand-overs were, by the last two digits.
    fn went_to(&self) -> Vec<u8> {
        self.whatsapp.sent().iter().map(|sent| sent.chat.user()[11..].parse().unwrap()).collect()
    }
}

#[tokio::test(start_paused = true)]
async fn a_refusal_holds_strangers_only_and_ends_with_one_that_gets_through() {
    let world = World::new(quick()).await;
    world.have_written([5]).await;
    let first = world.accept(1, Lane::Normal).await;
    world.answer(1, LOCKED).await;
    assert_eq!(world.until_held(first, "cold_contact").await, None, "WhatsApp did not say until when");
    let put_back = world.until(first, |message| message.status == Status::Pending).await;
    assert_eq!(put_back.attempts, 0);
    assert!(put_back.error.unwrap().contains("463"));
    // Other strangers wait with it; who wrote, answers and groups do not.
    let others = [world.accept(2, Lane::Normal).await, world.accept(1, Lane::High).await];
    let warm = world.accept(5, Lane::Normal).await;
    let reply = world.accept(2, Lane::Reply).await;
    let group = world.accept_draft(Draft { chat: ChatId::group("6281200000077"), ..draft(1, Lane::Low) }).await;
    for id in [warm, reply, group] {
        world.until(id, |message| message.status == Status::Sending).await;
        world.ack(id).await;
    }
    for id in others {
        world.until_held(id, "cold_contact").await;
    }
    assert_eq!(world.whatsapp.sent().len(), 4);
    // One is tried after ten minutes, under its id, and refused; the next trial takes longer.
    let begun = Instant::now();
    world.answer(5, LOCKED).await;
    assert!(begun.elapsed() > Duration::from_mins(9) && begun.elapsed() < Duration::from_mins(11));
    world.answer(6, None).await;
    assert!(begun.elapsed() > Duration::from_mins(29) && begun.elapsed() < Duration::from_mins(31));
    for nth in 7..=8 {
        world.answer(nth, None).await;
    }
    for id in [first, others[0], others[1]] {
        assert_eq!(world.until_sent(id).await.attempts, 1);
    }
    assert!(begun.elapsed() < Duration::from_mins(31), "the others leave at once");
    assert_eq!(world.whatsapp.sent().len(), 8);
    let ids: std::collections::HashSet<_> = world.whatsapp.sent().into_iter().map(|sent| sent.whatsapp_id).collect();
    assert_eq!(ids.len(), 6, "each under its own id");
}

#[tokio::test(start_paused = true)]
async fn the_end_that_whatsapp_names_is_told_and_waited_for_also_by_the_next_daemon() {
    let mut world = World::new(Snapshot { max_age: Duration::from_hours(5), ..quick() }).await;
    let end = world.clock.now().plus(Duration::from_hours(20));
    world.whatsapp.set_reach_out_locked_until(Some(end));
    let id = world.accept(1, Lane::Normal).await;
    world.answer(1, LOCKED).await;
    world.until_held(id, "cold_contact").await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    let outlook = world.queue.outlooks(vec![id]).await[0];
    assert_eq!((outlook.hold.unwrap().until, outlook.estimated_at, outlook.position), (Some(end), Some(end), 1));
    world.restart().await;
    assert_eq!(world.until_held(id, "cold_contact").await, Some(end.since(world.clock.now())));
    let late = world.accept(2, Lane::Normal).await;
    world.until_held(late, "cold_contact").await;
    // Longer than `queue.max_age`, which does not count this.
    world.sent(2).await;
    assert!(world.clock.now() > end && world.clock.now() < end.plus(Duration::from_mins(2)));
    world.answer(2, None).await;
    world.until_sent(id).await;
    world.answer(3, None).await;
    world.until_sent(late).await;
}

#[tokio::test(start_paused = true)]
async fn who_writes_is_no_stranger_from_then_on() {
    let world = World::new(quick()).await;
    let id = world.accept(1, Lane::Normal).await;
    world.answer(1, LOCKED).await;
    world.until_held(id, "cold_contact").await;
    world.have_written([1]).await;
    world.queue.on_wrote(ChatId::phone(&phone(1)));
    // What makes them known to WhatsApp comes a moment after what they wrote.
    world.answer(2, LOCKED).await;
    world.answer(3, None).await;
    world.until_sent(id).await;
    // The others are held as before.
    let stranger = world.accept(2, Lane::Normal).await;
    world.until_held(stranger, "cold_contact").await;
}

#[tokio::test(start_paused = true)]
async fn a_stranger_after_all_waits_instead_of_failing() {
    let world = World::new(Snapshot { max_attempts: 2, ..quick() }).await;
    world.have_written([1]).await;
    let id = world.accept(1, Lane::Normal).await;
    world.answer(1, LOCKED).await;
    world.answer(2, LOCKED).await;
    world.until_held(id, "cold_contact").await;
    world.answer(3, None).await;
    world.until_sent(id).await;
}

#[tokio::test(start_paused = true)]
async fn only_one_is_tried_at_a_time_and_a_trial_that_says_nothing_is_followed_by_another() {
    let world = World::new(quick()).await;
    let ids = [world.accept(1, Lane::Normal).await, world.accept(2, Lane::Normal).await];
    world.answer(1, LOCKED).await;
    world.answer(2, LOCKED).await;
    for id in ids {
        world.until_held(id, "cold_contact").await;
    }
    world.whatsapp.next_sends([SendStep::Give(Err(SendError::Transient("busy".to_owned())))]);
    world.sent(3).await;
    world.sent(4).await;
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert_eq!(world.went_to().len(), 4, "the other one waits for what becomes of this one");
    // A receipt says it as well as an ack.
    let tried = world.whatsapp.sent()[3].whatsapp_id.clone();
    world.queue.on_receipt(vec![tried], &[], ReceiptKind::Delivered, world.clock.now());
    world.answer(5, None).await;
    for id in ids {
        world.until_sent(id).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_day_has_its_share_also_over_restarts() {
    let settings = Snapshot { daily_cap: 3, timezone: Some(TimeZone::UTC), ..quick() };
    let mut world = World::new(settings).await;
    world.whatsapp.not_registered(["6281200000009"]);
    let nobody = world.accept(9, Lane::Normal).await;
    world.until(nobody, |message| message.status == Status::Failed).await;
    for person in 1..=2 {
        let id = world.accept(person, Lane::Normal).await;
        world.sent(usize::from(person)).await;
        world.ack(id).await;
    }
    world.restart().await;
    let ids =
        [world.accept(3, Lane::Normal).await, world.accept(4, Lane::High).await, world.accept(5, Lane::Low).await];
    world.sent(3).await;
    let left = world.until_held(ids[2], "cap").await.unwrap();
    let reply = world.accept(6, Lane::Reply).await;
    world.sent(4).await;
    world.ack(reply).await;
    world.ack(world_sent(&world, &ids).await).await;
    // Midnight there, and not a moment before.
    let begun = Instant::now();
    world.handed_over(6).await;
    assert!(
        begun.elapsed() >= left.saturating_sub(Duration::from_secs(1))
            && begun.elapsed() < left + Duration::from_mins(1)
    );
}

/// The one of these that is on its way.
async fn world_sent(world: &World, ids: &[MessageId]) -> MessageId {
    for id in ids {
        if world.message(*id).await.status == Status::Sending {
            return *id;
        }
    }
    panic!("none is on its way");
}

#[tokio::test(start_paused = true)]
async fn at_night_only_answers_leave_whatever_the_clock_does() {
    // It is 22:13:20 there when the world begins.
    let hours = QuietHours { start: time(22, 0, 0, 0), end: time(7, 0, 0, 0) };
    let settings = Snapshot { quiet_hours: Some(hours), timezone: Some(TimeZone::UTC), ..quick() };
    let world = World::new(settings).await;
    let id = world.accept(1, Lane::Normal).await;
    let morning = Timestamp::from_millis(1_700_031_600_000);
    assert_eq!(world.until_held(id, "quiet_hours").await, Some(morning.since(world.clock.now())));
    assert_eq!(world.queue.outlooks(vec![id]).await[0].estimated_at, Some(morning));
    let reply = world.accept(2, Lane::Reply).await;
    world.sent(1).await;
    world.ack(reply).await;
    // Somebody sets the clock an hour forward: it is noticed within half a minute.
    tokio::time::sleep(Duration::from_hours(1)).await;
    world.clock.turn(3_600);
    world.sent(2).await;
    let late = world.clock.now().since(morning);
    assert!(world.clock.now() >= morning && late <= Duration::from_secs(31), "{late:?}");
}

#[tokio::test(start_paused = true)]
async fn a_person_hears_from_us_now_and_then_only() {
    let gap = Duration::from_hours(2);
    let mut world = World::new(Snapshot { recipient_gap: gap, ..quick() }).await;
    let first = world.accept(1, Lane::Normal).await;
    world.handed_over(1).await;
    world.until_sent(first).await;
    let again = world.accept(1, Lane::High).await;
    let left = world.until_held(again, "pace").await.unwrap();
    assert!(left + Duration::from_secs(5) > gap && left <= gap, "{left:?}");
    for (count, lane, person) in [(2, Lane::Normal, 2), (3, Lane::Reply, 1)] {
        world.accept(person, lane).await;
        world.handed_over(count).await;
    }
    world.restart().await;
    let left = world.until_held(again, "pace").await.unwrap();
    assert!(left + Duration::from_mins(1) > gap, "the next daemon knows it too: {left:?}");
    let begun = Instant::now();
    world.handed_over(4).await;
    assert!(begun.elapsed() + Duration::from_secs(1) >= left, "{:?}", begun.elapsed());
    world.until_sent(again).await;
}

#[tokio::test(start_paused = true)]
async fn who_opts_out_while_a_message_is_on_its_way_to_leave_does_not_get_it() {
    let world = World::new(quick()).await;
    world.queue.pause().await.unwrap();
    let (id, reply) = (world.accept(1, Lane::Normal).await, world.accept(1, Lane::Reply).await);
    let chat = ChatId::phone(&phone(1));
    // As if the daemon had stopped before the queue was told.
    world.queue.opt_outs().said(&chat, true, world.clock.now(), super::By::Person, false).await.unwrap();
    world.queue.resume().await.unwrap();
    let failed = world.until(id, |message| message.status == Status::Failed).await;
    assert_eq!(failed.error.as_deref(), Some(OPTED_OUT));
    world.sent(1).await;
    world.ack(reply).await;
    assert_eq!(world.whatsapp.sent().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn what_would_not_fit_today_is_told_before() {
    let settings = Snapshot { daily_cap: 3, timezone: Some(TimeZone::UTC), ..quick() };
    let world = World::new(settings).await;
    world.whatsapp.set_link(super::testing::offline());
    world.accept(1, Lane::Normal).await;
    let chats: Vec<ChatId> = (10..15).map(|person| ChatId::phone(&phone(person))).collect();
    let fits = world.queue.fits(&chats, Lane::Normal, None).await.unwrap();
    assert_eq!((fits.today, fits.later, fits.strangers), (2, 3, 0));
    // 22:13 there; the third day from now begins in under two hours and a day.
    let last = fits.last_leaves_at.unwrap().since(world.clock.now());
    assert!(last > Duration::from_hours(1) && last < Duration::from_hours(2), "{last:?}");
    let high = world.queue.fits(&chats[..1], Lane::High, None).await.unwrap();
    assert_eq!((high.today, high.later), (1, 0));
}

#[tokio::test(start_paused = true)]
async fn strangers_fit_into_no_day_while_none_may_be_written_to() {
    let world = World::new(quick()).await;
    world.have_written([2]).await;
    let id = world.accept(1, Lane::Normal).await;
    world.answer(1, LOCKED).await;
    world.until_held(id, "cold_contact").await;
    let chats = [2, 3, 4].map(|person| ChatId::phone(&phone(person)));
    let fits = world.queue.fits(&chats, Lane::Normal, None).await.unwrap();
    assert_eq!((fits.today, fits.later, fits.strangers, fits.last_leaves_at), (1, 0, 2, None));
}

#[tokio::test(start_paused = true)]
async fn whoever_opts_out_gets_what_takes_back_and_answers_to_later_words() {
    let world = World::new(quick()).await;
    world.whatsapp.set_link(offline());
    let at = |seconds: u64| Timestamp::from_millis(1_700_000_000_000 + seconds * 1_000);
    let key = || MessageKey { id: "A".to_owned(), from_me: true, author: None };
    let answer = |seconds| Content { answers: Some(at(seconds)), ..Content::default() };
    let mut ids = Vec::new();
    for (text, lane, content) in [
        ("to earlier words", Lane::Reply, answer(1)),
        ("to the word itself", Lane::Reply, answer(2)),
        ("to later words", Lane::Reply, answer(3)),
        ("another text", Lane::High, Body::Edit(key()).into()),
        ("", Lane::Reply, Body::Revoke(key()).into()),
        ("", Lane::Reply, Body::Reaction(key()).into()),
        ("\u{2764}", Lane::Normal, Body::Reaction(key()).into()),
    ] {
        ids.push(world.accept_draft(Draft { text: text.to_owned(), content, ..draft(1, lane) }).await);
    }
    let budi = ChatId::phone(&phone(1));
    world.queue.opt_outs().said(&budi, true, at(2), By::Person, false).await.unwrap();
    world.queue.on_opted_out(budi);
    // What is known to be of no use fails at once, the rest as it would leave.
    for id in [ids[3], ids[6]] {
        world.until(id, |message| message.status == Status::Failed).await;
    }
    world.whatsapp.set_link(LinkState::Connected);
    for count in 1..=3 {
        world.handed_over(count).await;
    }
    for (id, status) in ids.iter().zip([
        Status::Failed,
        Status::Failed,
        Status::Sent,
        Status::Failed,
        Status::Sent,
        Status::Sent,
        Status::Failed,
    ]) {
        let message = world.until(*id, |message| message.status.is_finished()).await;
        assert_eq!(message.status, status, "{:?}", message.content);
        assert_eq!(message.error.is_some(), status == Status::Failed);
    }
}
