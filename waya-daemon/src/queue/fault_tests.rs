//! What a task, the store, the link or the clock may do wrong, one at a time.

use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures_util::FutureExt as _;
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::testing::{Call, Deed, Fault, Shaky, Wild, World, draft, offline, quick};
use super::{Accepted, Draft};
use crate::bus::BusEvent;
use crate::clock::Clock as _;
use crate::model::{Ack, Change, ChatId, Lane, LinkState, Member, Message, NackReason, ReceiptKind, Status};
use crate::session::fake::SendStep;
use crate::session::{Outgoing, SendError, WhatsApp};
use crate::settings::Snapshot;

/// Does `first` with the first messages, then takes everything; tells of each.
fn wild(first: impl IntoIterator<Item = Deed>) -> (Arc<Wild>, mpsc::UnboundedReceiver<Outgoing>) {
    let (tell, told) = mpsc::unbounded_channel();
    let mut deeds: std::collections::VecDeque<Deed> = first.into_iter().collect();
    let wild = Wild::new(move |outgoing| {
        let _ = tell.send(outgoing.clone());
        deeds.pop_front().unwrap_or(Deed::Give(Ok(())))
    });
    (wild, told)
}

/// The first change that fits has this fault.
fn once(fits: impl Fn(&Change) -> bool + Send + 'static, fault: Fault) -> impl FnMut(&Call) -> Fault + Send + 'static {
    let mut done = false;
    move |call| match call {
        Call::Change(_, change) if !done && fits(change) => {
            done = true;
            fault
        }
        _ => Fault::None,
    }
}

#[tokio::test(start_paused = true)]
async fn a_hand_over_that_hangs_or_panics_holds_the_rest_for_a_minute_at_most() {
    for deed in [Deed::Hang, Deed::Panic] {
        let (wild, mut told) = wild([deed]);
        let world = World::with(Snapshot::default(), Some(wild as Arc<dyn WhatsApp>), |store| store).await;
        let bad = world.accept(1, Lane::Normal).await;
        let good = world.accept(2, Lane::Normal).await;
        let (start, mut seen) = (Instant::now(), Vec::new());
        let wanted = [world.message(bad).await.whatsapp_id, world.message(good).await.whatsapp_id];
        // The bad one goes again under its id.
        while seen.iter().filter(|id| **id == wanted[0]).count() < 2 || !seen.contains(&wanted[1]) {
            seen.push(told.recv().await.unwrap().whatsapp_id);
        }
        assert!(start.elapsed() < Duration::from_secs(75), "{:?}", start.elapsed());
        world.ack(bad).await;
        world.ack(good).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_row_that_cannot_be_read_holds_nobody() {
    let damage = once(|change| *change == Change::Claim, Fault::Damaged);
    let world = World::with(Snapshot::default(), None, |store| Shaky::wrap(store, damage)).await;
    let bad = world.accept(1, Lane::Normal).await;
    let good = world.accept(2, Lane::Normal).await;
    world.sent(1).await;
    world.ack(good).await;
    assert_eq!(world.queue.position(bad).await, 0);
}

#[tokio::test(start_paused = true)]
async fn a_link_that_only_seems_to_be_up_spins_nobody_and_costs_no_attempt() {
    let offline = Deed::Give(Err(SendError::Offline));
    let (wild, mut told) = wild(vec![offline; 5]);
    let world = World::with(quick(), Some(wild as Arc<dyn WhatsApp>), |store| store).await;
    let (id, start) = (world.accept(1, Lane::Normal).await, Instant::now());
    for _ in 0..6 {
        told.recv().await.unwrap();
    }
    assert!(start.elapsed() >= Duration::from_secs(5), "{:?}", start.elapsed());
    world.ack(id).await;
    assert_eq!(world.message(id).await.attempts, 1);
}

#[tokio::test(start_paused = true)]
async fn what_the_store_did_without_saying_so_is_not_lost_and_not_done_twice() {
    for change in ["claim", "acked", "retry"] {
        let fits = move |found: &Change| match change {
            "claim" => *found == Change::Claim,
            "acked" => *found == Change::Acked,
            _ => matches!(found, Change::Retry { .. }),
        };
        let world = World::with(quick(), None, |store| Shaky::wrap(store, once(fits, Fault::After))).await;
        if change == "retry" {
            world.whatsapp.next_sends([SendStep::Give(Err(SendError::Transient("busy".to_owned())))]);
        }
        let sends = if change == "retry" { 2 } else { 1 };
        let id = world.accept(1, Lane::Normal).await;
        world.sent(sends).await;
        world.ack(id).await;
        tokio::time::sleep(Duration::from_mins(10)).await;
        assert_eq!(world.whatsapp.sent().len(), sends, "after {change}");
        assert_eq!(world.message(id).await.attempts as usize, sends);
    }
}

#[tokio::test(start_paused = true)]
async fn what_was_accepted_leaves_even_when_nobody_could_be_told() {
    let mut calls = 0;
    let shake = move |call: &Call| {
        calls += usize::from(*call == Call::Enqueue);
        if *call == Call::Enqueue && calls == 1 { Fault::After } else { Fault::None }
    };
    let world = World::with(quick(), None, |store| Shaky::wrap(store, shake)).await;
    // The store wrote it and broke before it could say so.
    world.queue.enqueue(vec![draft(1, Lane::Normal)], None).await.unwrap_err();
    assert_eq!(world.sent(1).await[0].chat, draft(1, Lane::Normal).chat);
    // The caller went away while the store wrote.
    assert!(world.queue.enqueue(vec![draft(2, Lane::Normal)], None).now_or_never().is_none());
    assert_eq!(world.sent(2).await[1].chat, draft(2, Lane::Normal).chat);
}

#[tokio::test(start_paused = true)]
async fn an_ack_that_comes_while_a_retry_is_written_keeps_it_from_leaving_again() {
    let (tell, mut told) = mpsc::unbounded_channel();
    let memory: Arc<Mutex<Option<Arc<crate::api::testing::Memory>>>> = Arc::default();
    let handle = Arc::clone(&memory);
    let wild = Wild::new(move |outgoing| {
        // It left, the library says it does not know, and the store breaks in that moment.
        handle.lock().unwrap().as_ref().unwrap().set_down(true);
        let _ = tell.send(outgoing.whatsapp_id.clone());
        Deed::Give(Err(SendError::Transient("no idea".to_owned())))
    });
    let world = World::with(quick(), Some(wild as Arc<dyn WhatsApp>), |store| store).await;
    *memory.lock().unwrap() = Some(Arc::clone(&world.memory));
    let id = world.accept(1, Lane::Normal).await;
    let whatsapp_id = told.recv().await.unwrap();
    tokio::time::sleep(Duration::from_secs(3)).await;
    world.queue.on_server_ack(whatsapp_id, None);
    tokio::time::sleep(Duration::from_mins(1)).await;
    world.memory.set_down(false);
    world.until_sent(id).await;
    tokio::time::sleep(Duration::from_mins(10)).await;
    assert!(told.try_recv().is_err(), "it left again");
}

#[tokio::test(start_paused = true)]
async fn a_clock_that_is_set_changes_neither_pace_nor_patience() {
    let world = World::new(Snapshot::default()).await;
    world.accept(1, Lane::Normal).await;
    let first = world.handed_over(1).await;
    world.clock.turn(-7200);
    world.accept(2, Lane::Normal).await;
    let second = world.handed_over(2).await;
    assert!((5_000..6_100).contains(&(second - first).as_millis()), "{:?}", second - first);
    // Forward, while an ack is awaited.
    let id = world.accept(3, Lane::Normal).await;
    world.sent(3).await;
    world.clock.turn(7200);
    tokio::time::sleep(Duration::from_secs(15)).await;
    world.ack(id).await;
    assert_eq!((world.whatsapp.sent().len(), world.whatsapp.probed()), (3, 0));
}

#[tokio::test(start_paused = true)]
async fn a_clock_that_went_back_does_not_stretch_a_backoff() {
    let world = World::new(quick()).await;
    world.whatsapp.next_sends([SendStep::Give(Err(SendError::Transient("busy".to_owned())))]);
    let id = world.accept(1, Lane::Normal).await;
    world.until(id, |message| message.retry_at.is_some()).await;
    world.clock.turn(-86_400);
    let set = Instant::now();
    world.sent(2).await;
    assert!(set.elapsed() < Duration::from_mins(1), "{:?}", set.elapsed());
}

#[tokio::test(start_paused = true)]
async fn an_ack_that_came_just_before_the_cut_counts() {
    let world = World::new(quick()).await;
    let id = world.accept(1, Lane::Normal).await;
    let whatsapp_id = world.sent(1).await[0].whatsapp_id.clone();
    world.whatsapp.set_link(offline());
    tokio::time::sleep(Duration::from_millis(50)).await;
    world.queue.on_server_ack(whatsapp_id, None);
    world.whatsapp.set_link(LinkState::Connected);
    world.until_sent(id).await;
    tokio::time::sleep(Duration::from_mins(10)).await;
    assert_eq!(world.whatsapp.sent().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_link_that_was_replaced_between_two_looks_is_noticed() {
    let (wild, mut told) = wild([]);
    let world = World::with(quick(), Some(Arc::clone(&wild) as Arc<dyn WhatsApp>), |store| store).await;
    let id = world.accept(1, Lane::Normal).await;
    told.recv().await.unwrap();
    world.until(id, |message| message.status == Status::Sending).await;
    let cut = Instant::now();
    wild.set(offline());
    wild.set(LinkState::Connected);
    told.recv().await.unwrap();
    assert!(cut.elapsed() < Duration::from_secs(2), "{:?}", cut.elapsed());
    world.ack(id).await;
    assert_eq!(world.message(id).await.attempts, 1);
}

#[tokio::test(start_paused = true)]
async fn a_blast_whose_acks_do_not_come_holds_no_reply() {
    let world = World::new(quick()).await;
    for person in 0..90 {
        world.accept(person, Lane::Normal).await;
    }
    world.sent(64).await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(world.whatsapp.sent().len(), 64, "no more than a window at once");
    let asked = Instant::now();
    world.accept(95, Lane::Reply).await;
    world.sent(65).await;
    assert!(asked.elapsed() < Duration::from_secs(1), "{:?}", asked.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_number_that_was_not_there_is_asked_for_again_when_the_user_says_so() {
    let world = World::new(quick()).await;
    world.whatsapp.not_registered(["6281200000001"]);
    let id = world.accept(1, Lane::Normal).await;
    for asked in 1..=3 {
        while world.whatsapp.asked().len() < asked {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        let failed = world.until(id, |message| message.status == Status::Failed).await;
        assert_eq!(failed.error.as_deref(), Some("6281200000001 is not on WhatsApp"));
        world.queue.retry(id).await.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn time_in_a_pause_makes_nothing_too_old() {
    let world = World::new(Snapshot { max_age: Duration::from_hours(2), ..quick() }).await;
    world.whatsapp.set_link(offline());
    world.queue.pause().await.unwrap();
    let id = world.accept(1, Lane::Normal).await;
    tokio::time::sleep(Duration::from_hours(5)).await;
    world.queue.resume().await.unwrap();
    tokio::time::sleep(Duration::from_mins(110)).await;
    assert_eq!(world.message(id).await.status, Status::Pending);
    tokio::time::sleep(Duration::from_mins(15)).await;
    let failed = world.message(id).await;
    assert_eq!(failed.error.as_deref(), Some("waited longer than 2 h without reaching WhatsApp (queue.max_age)"));
    // By hand it gets its time anew.
    world.queue.retry(id).await.unwrap();
    tokio::time::sleep(Duration::from_mins(110)).await;
    assert_eq!(world.message(id).await.status, Status::Pending);
}

#[tokio::test(start_paused = true)]
async fn a_stop_puts_back_what_no_ack_came_for_and_spends_no_attempt() {
    let world = World::new(quick()).await;
    let id = world.accept(1, Lane::Normal).await;
    let acked = world.accept(2, Lane::Normal).await;
    let sent = world.sent(2).await;
    let queue = world.queue.clone();
    let stopping = Instant::now();
    tokio::join!(world.stop(), async {
        tokio::time::sleep(Duration::from_secs(1)).await;
        queue.on_server_ack(sent[1].whatsapp_id.clone(), None);
    });
    assert!(stopping.elapsed() < Duration::from_secs(8), "{:?}", stopping.elapsed());
    let back = world.message(id).await;
    assert_eq!((back.status, back.attempts), (Status::Pending, 0));
    assert_eq!(world.message(acked).await.status, Status::Sent, "an ack during the stop counts");
}

#[tokio::test(start_paused = true)]
async fn settings_work_at_once_and_a_time_of_its_own_is_kept() {
    let world = World::new(Snapshot { delay: Duration::from_hours(1), ..Snapshot::default() }).await;
    let at = world.clock.now().plus(Duration::from_mins(90));
    let scheduled = world.accept_draft(Draft { not_before: Some(at), ..draft(9, Lane::High) }).await;
    for person in 1..=3 {
        world.accept(person, Lane::Normal).await;
    }
    world.handed_over(1).await;
    let standing = world.queue.standing();
    assert_eq!((standing.waiting, standing.scheduled), ([0, 0, 2, 0], 1));
    assert!(standing.next_departure.is_some());
    let changed = Instant::now();
    world.settings.send_modify(|settings| settings.delay = Duration::ZERO);
    world.handed_over(3).await;
    assert!(changed.elapsed() < Duration::from_secs(1), "{:?}", changed.elapsed());
    world.sent(4).await;
    let late = world.clock.now().since(at);
    assert!(world.clock.now() >= at && late < Duration::from_secs(1), "{late:?}");
    world.ack(scheduled).await;
}

#[tokio::test(start_paused = true)]
async fn a_late_refusal_ends_what_waits_for_another_attempt() {
    let world = World::new(quick()).await;
    world.whatsapp.next_sends([SendStep::Give(Err(SendError::Transient("busy".to_owned())))]);
    let id = world.accept(1, Lane::Normal).await;
    let waiting = world.until(id, |message| message.retry_at.is_some()).await;
    world.queue.on_server_ack(waiting.whatsapp_id, Some(NackReason::NotAllowed(403)));
    let failed = world.until(id, |message| message.status == Status::Failed).await;
    assert!(failed.error.unwrap().contains("403"));
    tokio::time::sleep(Duration::from_hours(1)).await;
    assert_eq!(world.whatsapp.sent().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn receipts_only_lead_forward_and_the_bus_never_goes_back() {
    let world = World::new(quick()).await;
    let mut heard = world.bus.subscribe();
    let id = world.accept(1, Lane::Normal).await;
    let whatsapp_id = world.sent(1).await[0].whatsapp_id.clone();
    // The receipts overtake the ack, and one is nobody's.
    let at = world.clock.now();
    world.queue.on_receipt(
        vec![whatsapp_id.clone(), crate::model::WhatsAppId("3EB0".to_owned())],
        &[],
        ReceiptKind::Read,
        at,
    );
    world.queue.on_receipt(vec![whatsapp_id.clone()], &[], ReceiptKind::Delivered, at);
    world.queue.on_server_ack(whatsapp_id, None);
    world.until(id, |message| message.ack == Ack::Read).await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    let mut seen = Vec::new();
    while let Ok(BusEvent::Message(message)) = heard.try_recv() {
        seen.push((message.status, message.ack));
    }
    assert_eq!(seen, [(Status::Pending, Ack::None), (Status::Sending, Ack::None), (Status::Sent, Ack::Read)]);
}

#[tokio::test(start_paused = true)]
async fn a_group_message_counts_its_members_whatever_their_address() {
    let world = World::new(quick()).await;
    let (budi, siti) = (ChatId::phone("6281200000002"), ChatId::lid("123456789012345"));
    world.whatsapp.set_members(vec![budi.clone(), siti.clone()]);
    let group = ChatId::group("120363");
    let id = world.accept_draft(Draft { chat: group, ..draft(1, Lane::Normal) }).await;
    let whatsapp_id = world.sent(1).await[0].whatsapp_id.clone();
    world.ack(id).await;
    let member = |chat: &ChatId| Member::of(chat).unwrap();
    let says =
        |from: Vec<Member>, kind| world.queue.on_receipt(vec![whatsapp_id.clone()], &from, kind, world.clock.now());
    // Two devices of one person, by both addresses; and somebody who came later.
    says(vec![member(&budi)], ReceiptKind::Delivered);
    says(vec![member(&ChatId::lid("999")), member(&budi)], ReceiptKind::Delivered);
    says(vec![member(&ChatId::phone("6281299999999"))], ReceiptKind::Read);
    let seen = |message: &Message| message.receipts.as_ref().map(|seen| (seen.members, seen.delivered(), seen.read()));
    world.until(id, |message| seen(message) == Some((2, 1, 0))).await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!((world.message(id).await.ack, seen(&world.message(id).await)), (Ack::Server, Some((2, 1, 0))));
    // Her phone was learnt since.
    says(vec![member(&ChatId::phone("6281200000003")), member(&siti)], ReceiptKind::Read);
    let delivered = world.until(id, |message| message.ack == Ack::Device).await;
    assert_eq!(seen(&delivered), Some((2, 2, 1)));
    says(vec![member(&budi)], ReceiptKind::Read);
    world.until(id, |message| message.ack == Ack::Read && message.read_at.is_some()).await;
}

#[tokio::test(start_paused = true)]
async fn a_group_whose_members_are_not_known_gets_its_message_all_the_same() {
    let world = World::new(quick()).await;
    let id = world.accept_draft(Draft { chat: ChatId::group("120363"), ..draft(1, Lane::Normal) }).await;
    world.sent(1).await;
    world.ack(id).await;
    let sent = world.message(id).await;
    let from = vec![Member::of(&ChatId::phone("6281200000002")).unwrap()];
    world.queue.on_receipt(vec![sent.whatsapp_id], &from, ReceiptKind::Read, world.clock.now());
    assert_eq!(world.until(id, |message| message.ack == Ack::Read).await.receipts, None);
}

#[tokio::test(start_paused = true)]
async fn positions_are_told_at_once_and_lanes_leave_in_order() {
    let world = World::new(Snapshot::default()).await;
    world.queue.pause().await.unwrap();
    let drafts = [(1, Lane::Low), (2, Lane::Normal), (3, Lane::High), (4, Lane::Reply), (5, Lane::Normal)];
    let drafts = drafts.into_iter().map(|(person, lane)| draft(person, lane)).collect();
    let Ok(Accepted::Fresh(placed)) = world.queue.enqueue(drafts, None).await else { panic!("refused") };
    assert_eq!(placed.iter().map(|placed| placed.position).collect::<Vec<_>>(), [1, 1, 1, 1, 4]);
    let mut positions = Vec::new();
    for placed in &placed {
        positions.push(world.queue.position(placed.id).await);
    }
    assert_eq!(positions, [5, 3, 2, 1, 4]);
    world.queue.resume().await.unwrap();
    let sent = world.sent(5).await;
    let order: Vec<_> = sent.iter().map(|sent| sent.chat.user()[10..].to_owned()).collect();
    assert_eq!(order, ["004", "003", "002", "005", "001"]);
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_says_nothing_about_the_number_is_no_verdict() {
    let (wild, mut told) = wild([]);
    wild.unclear.store(1, Ordering::Relaxed);
    let world = World::with(quick(), Some(wild as Arc<dyn WhatsApp>), |store| store).await;
    let id = world.accept(1, Lane::Normal).await;
    told.recv().await.unwrap();
    world.ack(id).await;
    assert_eq!(world.message(id).await.attempts, 1);
}

/// Refused lookups are about the account: they must not use up the attempts of all that waits.
#[tokio::test(start_paused = true)]
async fn an_hour_without_answers_about_numbers_costs_no_message_its_attempts() {
    let (wild, mut told) = wild([]);
    wild.unclear.store(usize::MAX, Ordering::Relaxed);
    let world = World::with(quick(), Some(Arc::clone(&wild) as Arc<dyn WhatsApp>), |store| store).await;
    let id = world.accept(1, Lane::Normal).await;
    tokio::time::sleep(Duration::from_hours(1)).await;
    let questions = usize::MAX - wild.unclear.load(Ordering::Relaxed);
    assert!((8..30).contains(&questions), "{questions}");
    let waiting = world.message(id).await;
    assert_eq!((waiting.status, waiting.attempts), (Status::Pending, 0));
    assert_eq!(waiting.error.as_deref(), Some("WhatsApp did not say whether the number is on it"));
    wild.unclear.store(0, Ordering::Relaxed);
    told.recv().await.unwrap();
    world.ack(id).await;
    assert_eq!(world.message(id).await.attempts, 1);
}

#[tokio::test(start_paused = true)]
async fn questions_without_answers_end_with_the_message_s_age() {
    let (wild, _told) = wild([]);
    wild.unclear.store(usize::MAX, Ordering::Relaxed);
    let settings = Snapshot { max_age: Duration::from_hours(2), ..quick() };
    let world = World::with(settings, Some(wild as Arc<dyn WhatsApp>), |store| store).await;
    let id = world.accept(1, Lane::Normal).await;
    tokio::time::sleep(Duration::from_mins(115)).await;
    assert_eq!(world.message(id).await.status, Status::Pending);
    tokio::time::sleep(Duration::from_mins(30)).await;
    let failed = world.message(id).await;
    assert_eq!(failed.status, Status::Failed);
    let error = failed.error.unwrap();
    assert!(error.contains("queue.max_age") && error.contains("whether the number is on it"), "{error}");
}
