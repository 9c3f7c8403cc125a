//! WhatsApp keeps this account from writing to people who never wrote to it (463): since when, until when as far as it
//! says so, and when one message is tried again. Pure.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::model::Timestamp;

/// The first wait before one is tried again; it doubles with every refusal …
const FIRST_WAIT: Duration = Duration::from_mins(10);
/// … up to this.
const LONGEST_WAIT: Duration = Duration::from_hours(6);
/// How long after the end that WhatsApp named one is tried: clocks differ a little.
const AFTER_THE_END: Duration = Duration::from_secs(30);
/// How long after a trial that said nothing the next one is due.
const AFTER_NOTHING: Duration = Duration::from_mins(1);
/// No end lies farther away; if one does, the clock went back or the answer was nonsense.
const FARTHEST: Duration = Duration::from_hours(14 * 24);

/// The refusal, as it stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lock {
    /// When it was first heard of.
    since: Timestamp,
    /// When it ends, by WhatsApp's word.
    until: Option<Timestamp>,
    /// How often it was heard of in a row.
    refusals: u32,
    /// When one message is tried again.
    next_try: Timestamp,
}

impl Lock {
    /// The first refusal.
    #[must_use]
    pub fn begin(now: Timestamp) -> Self {
        Self { since: now, until: None, refusals: 1, next_try: now.plus(wait(1)) }
    }

    /// The one that was tried was refused too.
    pub fn refused_again(&mut self, now: Timestamp) {
        self.refusals = self.refusals.saturating_add(1);
        self.until = None;
        self.next_try = now.plus(wait(self.refusals));
    }

    /// What WhatsApp says of the end; `None` when it says nothing, or one that has passed.
    pub fn told(&mut self, until: Option<Timestamp>, now: Timestamp) {
        self.until = until.filter(|at| *at > now && at.since(now) <= FARTHEST);
        if let Some(until) = self.until {
            self.next_try = until.plus(AFTER_THE_END);
        }
    }

    /// The one that was tried came back without an answer.
    pub fn unclear(&mut self, now: Timestamp) {
        self.next_try = now.plus(AFTER_NOTHING);
    }

    /// Whether one may be tried now.
    #[must_use]
    pub fn may_try(&self, now: Timestamp) -> bool {
        self.next_try <= now || self.next_try.since(now) > FARTHEST + AFTER_THE_END
    }

    /// When one is tried again.
    #[must_use]
    pub const fn next_try(&self) -> Timestamp {
        self.next_try
    }

    /// When it ends, by WhatsApp's word, while that lies ahead.
    #[must_use]
    pub fn until(&self, now: Timestamp) -> Option<Timestamp> {
        self.until.filter(|at| *at > now)
    }
}

fn wait(refusals: u32) -> Duration {
    FIRST_WAIT.saturating_mul(1 << refusals.saturating_sub(1).min(16)).min(LONGEST_WAIT)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const NOW: Timestamp = Timestamp::from_millis(1_800_000_000_000);

    #[test]
    fn without_a_word_of_the_end_the_waits_grow() {
        let (mut lock, mut now, mut waits) = (Lock::begin(NOW), NOW, Vec::new());
        for _ in 0..8 {
            waits.push(lock.next_try().since(now).as_secs() / 60);
            now = lock.next_try();
            lock.refused_again(now);
        }
        assert_eq!(waits, [10, 20, 40, 80, 160, 320, 360, 360]);
    }

    #[test]
    fn a_named_end_is_waited_for() {
        let mut lock = Lock::begin(NOW);
        let end = NOW.plus(Duration::from_hours(30));
        lock.told(Some(end), NOW);
        assert_eq!((lock.until(NOW), lock.until(end)), (Some(end), None));
        assert!(!lock.may_try(end) && lock.may_try(end.plus(AFTER_THE_END)));
        let before = lock.next_try();
        lock.refused_again(before);
        assert_eq!(lock.until(before), None, "that end was wrong");
        lock.told(Some(NOW), before);
        assert!(lock.next_try() > before);
    }

    proptest! {
        #[test]
        fn it_always_comes_to_another_trial(steps in proptest::collection::vec((0u8..4, 0u64..40_000_000), 0..40)) {
            let (mut lock, mut now) = (Lock::begin(NOW), NOW);
            for (step, millis) in steps {
                match step {
                    0 => lock.refused_again(now),
                    1 => lock.told(Some(now.plus(Duration::from_millis(millis * 100))), now),
                    2 => lock.unclear(now),
                    // The clock goes either way.
                    _ => now = if millis % 2 == 0 { now.plus(Duration::from_millis(millis)) } else { now.minus(Duration::from_millis(millis)) },
                }
                prop_assert!(lock.may_try(now.plus(FARTHEST + AFTER_THE_END)) || lock.next_try().since(now) > FARTHEST);
                prop_assert!(lock.until(now).is_none_or(|at| at > now && lock.next_try() > at || lock.refusals > 0));
            }
        }
    }
}
