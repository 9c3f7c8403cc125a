//! Random lives of a queue against what must hold at every step.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use proptest::prelude::*;

use super::ids::IdGenerator;
use super::state::State;
use crate::model::{ChatId, Lane, MessageId, Status, Timestamp};
use crate::store::OpenMessage;

#[derive(Debug, Clone)]
enum Step {
    Accept {
        chat: u8,
        lane: usize,
        after_ms: Option<u64>,
    },
    StartNext,
    Finish(usize),
    PutBack(usize, Option<u64>),
    Cancel(usize),
    Pass(u64),
    /// A person's LID and phone turn out to be one.
    Pair(u8),
}

/// Two people, each by phone and by LID.
fn chat(number: u8) -> ChatId {
    let digits = format!("62812000000{}", number % 2);
    if number < 2 { ChatId::phone(&digits) } else { ChatId::lid(&digits) }
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        4 => (0u8..4, 0usize..4, proptest::option::weighted(0.2, 1u64..500)).prop_map(|(chat, lane, after_ms)| Step::Accept { chat, lane, after_ms }),
        4 => Just(Step::StartNext),
        2 => (0usize..8).prop_map(Step::Finish),
        2 => ((0usize..8), proptest::option::of(1u64..500)).prop_map(|(n, at)| Step::PutBack(n, at)),
        1 => (0usize..8).prop_map(Step::Cancel),
        2 => (1u64..400).prop_map(Step::Pass),
        1 => (0u8..2).prop_map(Step::Pair),
    ];
    proptest::collection::vec(step, 1..120)
}

/// What a slow, obvious queue would know.
#[derive(Debug, Clone)]
struct Known {
    chat: ChatId,
    lane: Lane,
    due: Timestamp,
    retry_at: Option<Timestamp>,
    in_flight: bool,
    tried: bool,
}

/// The obvious choice: the best lane's oldest message that is due, is the oldest due one of its chat in its lane or
/// the one that has left before, does not back off, and has none of its chat and lane on its way.
fn obvious(known: &BTreeMap<MessageId, Known>, now: Timestamp) -> Option<MessageId> {
    let mut blocked = BTreeSet::new();
    for message in known.values().filter(|message| message.in_flight) {
        blocked.insert((message.lane, message.chat.clone()));
    }
    let mut candidates = Vec::new();
    let mut due: Vec<_> = known.iter().filter(|(_, message)| !message.in_flight && message.due <= now).collect();
    due.sort_by_key(|(id, message)| (!message.tried, **id));
    for (id, message) in due {
        // The first one seen of a line is its head; whatever it does, those behind it wait.
        if blocked.insert((message.lane, message.chat.clone())) && message.retry_at.is_none_or(|at| at <= now) {
            candidates.push((message.lane, *id));
        }
    }
    candidates.into_iter().min().map(|(_, id)| id)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]
    #[test]
    fn the_quick_queue_chooses_as_the_obvious_one(steps in steps()) {
        let ids = IdGenerator::after(None);
        let mut now = Timestamp::from_millis(1_000);
        let mut state = State::default();
        let mut known: BTreeMap<MessageId, Known> = BTreeMap::new();
        let mut paired = [false; 2];
        for step in steps {
            let nth = |n: usize, in_flight: bool, known: &BTreeMap<MessageId, Known>| {
                known.iter().filter(|(_, message)| message.in_flight == in_flight).map(|(id, _)| *id).nth(n)
            };
            match step {
                Step::Accept { chat, lane, after_ms } => {
                    let (addressed, lane) = (self::chat(chat), Lane::ALL[lane]);
                    let person = chat % 2;
                    let chat = if paired[usize::from(person)] { self::chat(person) } else { addressed.clone() };
                    let not_before = after_ms.map(|ms| now.plus(Duration::from_millis(ms)));
                    let id = ids.next(now);
                    state.insert(OpenMessage { id, chat: addressed, lane, status: Status::Pending, created_at: now, not_before, retry_at: None, claimed: false, typing: None }, now);
                    known.insert(id, Known { chat, lane, due: not_before.unwrap_or(now), retry_at: None, in_flight: false, tried: false });
                }
                Step::StartNext => {
                    let next = state.next(|_| true);
                    prop_assert_eq!(next, obvious(&known, now));
                    if let Some(id) = next {
                        state.start(id);
                        if let Some(message) = known.get_mut(&id) { message.in_flight = true; }
                    }
                }
                Step::Finish(n) => if let Some(id) = nth(n, true, &known) {
                    state.remove(id, now);
                    known.remove(&id);
                },
                Step::PutBack(n, after) => if let Some(id) = nth(n, true, &known) {
                    let retry_at = after.map(|ms| now.plus(Duration::from_millis(ms)));
                    state.put_back(id, retry_at, now);
                    if let Some(message) = known.get_mut(&id) { message.in_flight = false; message.tried = true; message.retry_at = retry_at; }
                },
                Step::Cancel(n) => if let Some(id) = nth(n, false, &known) {
                    state.remove(id, now);
                    known.remove(&id);
                },
                Step::Pair(person) => {
                    let (phone, lid) = (chat(person), chat(person + 2));
                    state.pair(&lid, &phone, now);
                    paired[usize::from(person)] = true;
                    for message in known.values_mut().filter(|message| message.chat == lid) {
                        message.chat = phone.clone();
                    }
                }
                Step::Pass(ms) => {
                    now = now.plus(Duration::from_millis(ms));
                    state.wake(now);
                }
            }
            prop_assert_eq!(state.in_flight(), known.values().filter(|message| message.in_flight).count());
        }
        // Whatever happened, everything leaves in the end.
        now = now.plus(Duration::from_secs(10));
        state.wake(now);
        for id in known.iter().filter(|(_, message)| message.in_flight).map(|(id, _)| *id).collect::<Vec<_>>() {
            state.put_back(id, None, now);
        }
        let mut left = 0;
        while let Some(id) = state.next(|_| true) {
            state.start(id);
            state.remove(id, now);
            left += 1;
        }
        prop_assert_eq!(left, known.len());
    }
}

#[test]
fn offline_time_counts_from_when_a_message_was_due() {
    let ids = IdGenerator::after(None);
    let at = Timestamp::from_millis;
    let mut state = State::default();
    let mut open = |created: u64, not_before: Option<u64>| {
        let id = ids.next(at(created));
        let chat = ChatId::phone("6281200000002");
        let open = OpenMessage {
            id,
            chat,
            lane: Lane::Normal,
            status: Status::Pending,
            created_at: at(created),
            not_before: not_before.map(at),
            retry_at: None,
            claimed: false,
            typing: None,
        };
        state.insert(open, at(created));
        id
    };
    let old = open(1_000, None);
    let young = open(90_000, None);
    let scheduled = open(1_000, Some(500_000));
    let over = state.add_trouble(at(0), at(100_000), Duration::from_mins(1));
    assert_eq!(over, [old]);
    assert_eq!(state.entry(young).map(|entry| entry.troubled), Some(10_000));
    assert_eq!(state.entry(scheduled).map(|entry| entry.troubled), Some(0));
}
