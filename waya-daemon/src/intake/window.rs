//! Which files are still to be fetched, by the place of their message in the journal, and when. Pure: moments come from
//! outside.
//!
//! It holds places, no contents, and no more than [`MOST`] of them: the rest waits in the journal.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::time::Instant;

use crate::model::Cursor;

/// So many wait here; a page more may come on top.
const MOST: usize = 1_000;
/// The first wait after a fetch that did not succeed; it doubles …
const FIRST_WAIT: Duration = Duration::from_secs(15);
/// … up to this.
const LONGEST_WAIT: Duration = Duration::from_mins(30);
/// So often a file is asked for, over some two hours, before it is given up.
const MOST_TRIES: u32 = 10;
/// What could not even be tried comes round again after this.
const NOT_NOW: Duration = Duration::from_secs(5);

/// What became of a fetch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Outcome {
    /// The file is there, or nobody needs it any more.
    Done,
    /// It cannot be had; why.
    GivenUp(String),
    /// It may be had later; why not now.
    Again(String),
    /// It could not be tried. Counts as no try.
    NotNow,
}

/// Where a file stands after a fetch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Verdict {
    /// It is tried again.
    Waits,
    /// There is nothing more to do.
    Over,
    /// It is not tried any more; why.
    GivenUp(String),
}

/// One file.
#[derive(Debug, Default)]
struct Wanted {
    tries: u32,
    /// Not before; `None`: at once.
    due: Option<Instant>,
    under_way: bool,
}

/// What is still to be fetched.
#[derive(Debug)]
pub(super) struct Window {
    read: Cursor,
    wanted: BTreeMap<Cursor, Wanted>,
}

impl Window {
    /// Everything up to `place` is done.
    pub(super) const fn new(place: Cursor) -> Self {
        Self { read: place, wanted: BTreeMap::new() }
    }

    /// Up to where the journal was looked at.
    pub(super) const fn read_up_to(&self) -> Cursor {
        self.read
    }

    /// Whether more may be read.
    pub(super) fn has_room(&self) -> bool {
        self.wanted.len() < MOST
    }

    /// The message there has a file that is wanted.
    pub(super) fn add(&mut self, cursor: Cursor) {
        if cursor > self.read {
            self.wanted.entry(cursor).or_default();
        }
    }

    /// The journal was looked at up to there.
    pub(super) fn read(&mut self, cursor: Cursor) {
        self.read = self.read.max(cursor);
    }

    /// Everything up to there is fetched or given up.
    pub(super) fn done_up_to(&self) -> Cursor {
        match self.wanted.first_key_value() {
            Some((first, _)) => Cursor(first.0.saturating_sub(1)).min(self.read),
            None => self.read,
        }
    }

    /// The oldest that may be fetched now; it is under way then.
    pub(super) fn next(&mut self, now: Instant) -> Option<Cursor> {
        let may = |wanted: &Wanted| !wanted.under_way && wanted.due.is_none_or(|due| due <= now);
        let (cursor, wanted) = self.wanted.iter_mut().find(|(_, wanted)| may(wanted))?;
        wanted.under_way = true;
        Some(*cursor)
    }

    /// When the next one that waits for a time may be fetched.
    pub(super) fn next_due(&self) -> Option<Instant> {
        self.wanted.values().filter(|wanted| !wanted.under_way).filter_map(|wanted| wanted.due).min()
    }

    /// A fetch ended.
    pub(super) fn settle(&mut self, cursor: Cursor, outcome: Outcome, now: Instant) -> Verdict {
        let Some(wanted) = self.wanted.get_mut(&cursor) else { return Verdict::Over };
        wanted.under_way = false;
        let verdict = match outcome {
            Outcome::Done => Verdict::Over,
            Outcome::GivenUp(reason) => Verdict::GivenUp(reason),
            Outcome::Again(reason) => {
                wanted.tries += 1;
                wanted.due = Some(now + wait_after(wanted.tries));
                if wanted.tries < MOST_TRIES { Verdict::Waits } else { Verdict::GivenUp(reason) }
            }
            Outcome::NotNow => {
                wanted.due = Some(now + NOT_NOW);
                Verdict::Waits
            }
        };
        if verdict != Verdict::Waits {
            self.wanted.remove(&cursor);
        }
        verdict
    }

    /// Whatever was under way is not any more, and nobody knows why.
    pub(super) fn nothing_is_under_way(&mut self, now: Instant) {
        for wanted in self.wanted.values_mut().filter(|wanted| wanted.under_way) {
            wanted.under_way = false;
            wanted.tries += 1;
            wanted.due = Some(now + wait_after(wanted.tries));
        }
        self.wanted.retain(|_, wanted| wanted.tries < MOST_TRIES);
    }
}

fn wait_after(tries: u32) -> Duration {
    FIRST_WAIT.saturating_mul(1 << tries.saturating_sub(1).min(16)).min(LONGEST_WAIT)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[derive(Debug, Clone)]
    enum Step {
        Read(u64, bool),
        Next,
        Settle(usize, u8),
        Wait(u64),
        Panic,
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let step = prop_oneof![
            4 => (1_u64..4, any::<bool>()).prop_map(|(by, wanted)| Step::Read(by, wanted)),
            4 => Just(Step::Next),
            4 => (any::<usize>(), 0_u8..4).prop_map(|(which, how)| Step::Settle(which, how)),
            1 => (0_u64..2_000).prop_map(Step::Wait),
            1 => Just(Step::Panic),
        ];
        prop::collection::vec(step, 0..120)
    }

    proptest! {
        #[test]
        fn the_place_never_passes_what_is_not_done_and_nothing_is_fetched_twice_at_once(steps in steps()) {
            let mut window = Window::new(Cursor(10));
            let (mut now, mut cursor) = (Instant::now(), 10);
            let (mut open, mut under_way): (Vec<Cursor>, Vec<Cursor>) = (Vec::new(), Vec::new());
            for step in steps {
                let before = window.done_up_to();
                match step {
                    Step::Read(by, wanted) => {
                        cursor += by;
                        if wanted {
                            window.add(Cursor(cursor));
                            open.push(Cursor(cursor));
                        }
                        window.read(Cursor(cursor));
                    }
                    Step::Next => {
                        if let Some(next) = window.next(now) {
                            prop_assert!(open.contains(&next) && !under_way.contains(&next));
                            under_way.push(next);
                        }
                    }
                    Step::Settle(which, how) if !under_way.is_empty() => {
                        let done = under_way.remove(which % under_way.len());
                        let outcome = match how {
                            0 => Outcome::Done,
                            1 => Outcome::GivenUp("gone".to_owned()),
                            2 => Outcome::NotNow,
                            _ => Outcome::Again("busy".to_owned()),
                        };
                        if window.settle(done, outcome, now) != Verdict::Waits {
                            open.retain(|open| *open != done);
                        }
                        prop_assert!(how > 1 || !open.contains(&done));
                    }
                    Step::Settle(..) => {}
                    Step::Wait(seconds) => now += Duration::from_secs(seconds),
                    Step::Panic => {
                        under_way.clear();
                        window.nothing_is_under_way(now);
                        open.retain(|open| window.wanted.contains_key(open));
                    }
                }
                let done = window.done_up_to();
                prop_assert!(done >= before && done <= Cursor(cursor));
                prop_assert!(open.iter().all(|open| *open > done));
                prop_assert_eq!(window.wanted.len(), open.len());
            }
        }
    }

    #[test]
    fn what_cannot_be_had_is_given_up_in_the_end() {
        let mut window = Window::new(Cursor(0));
        window.add(Cursor(1));
        window.read(Cursor(1));
        let mut now = Instant::now();
        let began = now;
        for n in 1.. {
            assert_eq!(window.next(now), Some(Cursor(1)));
            assert_eq!(window.next(now), None);
            if let Verdict::GivenUp(reason) = window.settle(Cursor(1), Outcome::Again("busy".to_owned()), now) {
                assert_eq!((n, reason.as_str()), (MOST_TRIES, "busy"));
                break;
            }
            assert_eq!(window.done_up_to(), Cursor(0));
            now = window.next_due().unwrap();
        }
        assert!(now - began > Duration::from_hours(1) && now - began < Duration::from_hours(4), "{:?}", now - began);
        assert_eq!((window.done_up_to(), window.next_due()), (Cursor(1), None));
        // Being offline is nobody's fault.
        window.add(Cursor(2));
        for _ in 0..100 {
            assert_eq!(window.next(now), Some(Cursor(2)));
            assert_eq!(window.settle(Cursor(2), Outcome::NotNow, now), Verdict::Waits);
            now = window.next_due().unwrap();
        }
    }

    #[test]
    fn it_does_not_grow_without_end() {
        let mut window = Window::new(Cursor(0));
        for n in 1..=MOST as u64 {
            assert!(window.has_room());
            window.add(Cursor(n));
        }
        assert!(!window.has_room());
        window.next(Instant::now());
        window.settle(Cursor(1), Outcome::Done, Instant::now());
        assert!(window.has_room());
    }
}
