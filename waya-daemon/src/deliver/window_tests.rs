//! Random lives of a window against what must never happen to what is told.

use proptest::prelude::*;

use super::*;
use crate::model::LinkState;
use uuid::Uuid;

const PATIENCE: Patience = Patience {
    first: Duration::from_secs(5),
    longest: Duration::from_secs(60),
    give_up_after: Duration::from_hours(24),
    first_probe: Duration::from_secs(1),
    longest_probe: Duration::from_secs(8),
};

fn at(seconds: u64) -> Timestamp {
    Timestamp::from_millis(1_800_000_000_000 + seconds * 1_000)
}

fn notice(cursor: u64, topic: Topic) -> Notice {
    Notice { cursor: Cursor(cursor), topic }
}

fn message(number: u8) -> Subject {
    Subject::Message(MessageId(Uuid::from_u128(u128::from(number))))
}

fn chat(number: u8) -> Subject {
    Subject::Chat(ChatId::phone(&format!("62812000000{number:02}")))
}

/// What happens to a window.
#[derive(Debug, Clone)]
enum Step {
    /// The journal has something new about this subject.
    Happens(u8),
    /// What can be told is begun.
    Begin,
    /// The n-th of what is on its way is taken …
    Told(usize),
    /// … or not.
    Refused(usize, bool),
    /// Time passes, in seconds.
    Passes(u64),
    /// The process ends and starts again, on what was written.
    Crash,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        4 => (0_u8..5).prop_map(Step::Happens),
        4 => Just(Step::Begin),
        3 => (0_usize..8).prop_map(Step::Told),
        3 => (0_usize..8, proptest::bool::weighted(0.1)).prop_map(|(n, for_good)| Step::Refused(n, for_good)),
        2 => (1_u64..60).prop_map(Step::Passes),
        1 => Just(Step::Crash),
    ];
    proptest::collection::vec(step, 1..120)
}

/// The window, and beside it what the journal and the store would have.
struct World {
    window: Window,
    journal: Vec<(Notice, Subject)>,
    rows: BTreeMap<Notice, Unsettled>,
    place: Cursor,
    parked: BTreeSet<Notice>,
    on_their_way: Vec<Notice>,
    /// In the order in which they were taken, by subject.
    told: Vec<Notice>,
    now: Timestamp,
}

impl World {
    fn new() -> Self {
        Self {
            window: Window::new(Cursor(0), PATIENCE),
            journal: Vec::new(),
            rows: BTreeMap::new(),
            place: Cursor(0),
            parked: BTreeSet::new(),
            on_their_way: Vec::new(),
            told: Vec::new(),
            now: at(0),
        }
    }

    fn subject(&self, notice: Notice) -> &Subject {
        &self.journal[usize::try_from(notice.cursor.0 - 1).unwrap()].1
    }

    fn settle(&mut self, settlements: Vec<Settlement>) {
        for settlement in settlements {
            self.rows.remove(&settlement.notice());
            match settlement {
                Settlement::Done(_) => {}
                Settlement::Waits(row) => drop(self.rows.insert(row.notice, row)),
                Settlement::Parked(row) => drop(self.parked.insert(row.notice)),
            }
        }
        self.place = self.place.max(self.window.safe());
    }

    fn read(&mut self, from: Cursor) {
        for (notice, subject) in self.journal.clone() {
            if notice.cursor > from {
                let written = self.window.read(notice, subject, self.now, self.now);
                self.settle(written.into_iter().collect());
                self.window.read_up_to(notice.cursor);
            }
        }
    }

    fn step(&mut self, step: &Step) {
        match step {
            Step::Happens(number) => {
                let cursor = self.journal.len() as u64 + 1;
                let subject = if *number == 4 {
                    Subject::Session
                } else if *number > 1 {
                    chat(*number)
                } else {
                    message(*number)
                };
                self.journal.push((notice(cursor, Topic::Sent), subject));
                self.read(Cursor(cursor - 1));
            }
            Step::Begin => {
                while let Some((next, _)) = self.window.next(self.now) {
                    self.check_order(next);
                    self.on_their_way.push(next);
                }
                assert!(self.on_their_way.len() <= AT_ONCE);
            }
            Step::Told(n) if !self.on_their_way.is_empty() => {
                let notice = self.on_their_way.swap_remove(n % self.on_their_way.len());
                self.told.push(notice);
                let done = self.window.told(notice, self.now);
                self.settle(vec![done]);
            }
            Step::Refused(n, for_good) if !self.on_their_way.is_empty() => {
                let notice = self.on_their_way.swap_remove(n % self.on_their_way.len());
                let written = self.window.refused(notice, "no".to_owned(), *for_good, self.now, 0.5);
                self.settle(written);
            }
            Step::Passes(seconds) => self.now = self.now.plus(Duration::from_secs(*seconds)),
            Step::Crash => {
                self.on_their_way.clear();
                self.window = Window::new(self.place, PATIENCE);
                for row in self.rows.values().cloned().collect::<Vec<_>>() {
                    let subject = self.subject(row.notice).clone();
                    self.window.take_back(row, subject);
                }
                self.read(self.place);
            }
            Step::Told(_) | Step::Refused(..) => {}
        }
    }

    /// Nothing of the same message or session is on its way or still to be told before it.
    fn check_order(&self, next: Notice) {
        let subject = self.subject(next);
        let same = |other: &Notice| self.subject(*other) == subject;
        assert!(!self.on_their_way.iter().any(same), "two of a subject at once");
        if subject.is_strict() {
            let before = self.journal.iter().map(|(notice, _)| notice).filter(|other| same(other) && **other < next);
            for other in before {
                let over = self.told.contains(other) || self.parked.contains(other);
                assert!(over, "{next:?} overtakes {other:?}");
            }
        }
    }
}

proptest! {
    #[test]
    fn nothing_is_lost_or_overtaken_whatever_happens(steps in steps()) {
        let mut world = World::new();
        for step in &steps {
            world.step(step);
        }
        // A receiver that takes everything is told all of it, in the end.
        for _ in 0..10_000 {
            if world.window.entries.is_empty() {
                break;
            }
            world.step(&Step::Begin);
            if world.on_their_way.is_empty() {
                let wake = world.window.wake_at(world.now);
                prop_assert!(wake.is_some() || world.window.entries.is_empty(), "it would sleep for ever");
                world.now = wake.unwrap_or(world.now).max(world.now);
            }
            world.step(&Step::Told(0));
        }
        prop_assert!(world.window.entries.is_empty(), "something is never told");
        for (notice, _) in &world.journal {
            prop_assert!(world.told.contains(notice) || world.parked.contains(notice), "{notice:?} is lost");
        }
        prop_assert!(world.rows.is_empty());
        prop_assert_eq!(world.window.safe(), Cursor(world.journal.len() as u64));
        prop_assert_eq!(world.window.on_their_way, 0);
        prop_assert!(world.window.subjects.is_empty() && world.window.due.is_empty() && world.window.unwritten.is_empty());
    }
}

#[test]
fn one_that_fails_holds_its_own_message_only() {
    let mut window = Window::new(Cursor(0), PATIENCE);
    for (cursor, subject) in [(1, message(1)), (2, message(1)), (3, message(2)), (4, chat(3)), (5, chat(3))] {
        assert_eq!(window.read(notice(cursor, Topic::Sent), subject, at(0), at(0)), None);
        window.read_up_to(Cursor(cursor));
    }
    let mut begun: Vec<u64> = Vec::new();
    while let Some((next, attempt)) = window.next(at(0)) {
        assert_eq!(attempt, 1);
        begun.push(next.cursor.0);
    }
    assert_eq!(begun, [1, 3, 4]);
    let written = window.refused(notice(1, Topic::Sent), "503".to_owned(), false, at(0), 1.0);
    let rows: Vec<(u64, u32)> = written
        .iter()
        .map(|settlement| match settlement {
            Settlement::Waits(row) => (row.notice.cursor.0, row.attempts),
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(rows, [(1, 1), (2, 0)], "what waits behind it gets a row, so that the place can go on");
    window.told(notice(3, Topic::Sent), at(0));
    window.refused(notice(4, Topic::Sent), "503".to_owned(), false, at(0), 1.0);
    assert_eq!(window.next(at(0)), Some((notice(5, Topic::Sent), 1)), "the next one in the chat does not wait");
    assert_eq!(window.next(at(0)), None);
    assert_eq!(window.safe(), Cursor(4), "5 has no row yet");
    assert_eq!(window.wake_at(at(0)), Some(at(5)));
    assert_eq!(window.next(at(5)), Some((notice(1, Topic::Sent), 2)));
}

#[test]
fn a_receiver_that_is_down_is_probed_and_all_comes_at_once_when_it_is_back() {
    let mut window = Window::new(Cursor(0), PATIENCE);
    for cursor in 1..=20 {
        window.read(notice(cursor, Topic::Incoming), chat(u8::try_from(cursor).unwrap()), at(0), at(0));
    }
    for cursor in 1..=5 {
        assert_eq!(window.next(at(0)).map(|(notice, _)| notice.cursor.0), Some(cursor));
        window.refused(notice(cursor, Topic::Incoming), "503".to_owned(), false, at(0), 1.0);
    }
    assert_eq!(window.next(at(0)), None, "it is down: not before a second has passed");
    assert_eq!(window.wake_at(at(0)), Some(at(1)));
    assert!(window.next(at(1)).is_some());
    assert_eq!(window.next(at(1)), None, "one at a time");
    window.told(notice(6, Topic::Incoming), at(1));
    let mut begun = 0;
    while window.next(at(1)).is_some() {
        begun += 1;
    }
    assert_eq!(begun, AT_ONCE);
}

#[test]
fn a_day_is_the_end_also_for_what_was_never_tried() {
    let mut window = Window::new(Cursor(0), PATIENCE);
    let day = 24 * 3_600;
    for cursor in 1..=7 {
        let since = if cursor == 7 { at(day) } else { at(0) };
        window.read(notice(cursor, Topic::Incoming), chat(u8::try_from(cursor).unwrap()), since, at(0));
    }
    assert_eq!(window.give_up_overdue(at(day), "503"), vec![], "it is not down");
    for cursor in 1..=5 {
        window.next(at(0));
        window.refused(notice(cursor, Topic::Incoming), "503".to_owned(), false, at(0), 1.0);
    }
    let given_up = window.give_up_overdue(at(day), "503");
    let reasons: Vec<(u64, &str)> = given_up
        .iter()
        .map(|settlement| match settlement {
            Settlement::Parked(row) => (row.notice.cursor.0, row.reason.as_str()),
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(reasons[..1], [(1, "503")]);
    assert_eq!(reasons[5..], [(6, "the receiver took nothing: 503")]);
    assert_eq!(window.entries.len(), 1);
    let gone =
        window.read(notice(8, Topic::Session), Subject::of(&EventBody::Link(LinkState::Connected)), at(day), at(day));
    assert_eq!(gone, None);
    window.next(at(day + 100));
    let parked = window.refused(notice(7, Topic::Incoming), "410".to_owned(), true, at(day + 100), 1.0);
    assert!(matches!(&parked[..], [Settlement::Parked(row)] if row.reason == "410"));
}
