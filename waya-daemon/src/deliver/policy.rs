//! When a notice is tried again, when it is given up, and how gently a receiver is treated that takes nothing. Pure.

use std::time::Duration;

use crate::model::Timestamp;

/// After so many failures in a row, whatever they were about, the receiver counts as down.
const DOWN_AFTER: u32 = 5;

/// How patient deliveries are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Patience {
    /// The first wait after a failure; it doubles from there …
    pub first: Duration,
    /// … up to this.
    pub longest: Duration,
    /// What was not taken for so long is given up.
    pub give_up_after: Duration,
    /// Between two attempts at a receiver that is down: first this long, doubling …
    pub first_probe: Duration,
    /// … up to this.
    pub longest_probe: Duration,
}

impl Default for Patience {
    fn default() -> Self {
        Self {
            first: Duration::from_secs(5),
            longest: Duration::from_mins(10),
            give_up_after: Duration::from_hours(24),
            first_probe: Duration::from_secs(1),
            longest_probe: Duration::from_mins(1),
        }
    }
}

impl Patience {
    /// The wait after so many failed attempts at one notice; `chance` in `0..1` spreads it over its upper half, so that
    /// what failed together does not come back together.
    #[must_use]
    pub fn retry_after(&self, attempts: u32, chance: f64) -> Duration {
        let full = doubled(self.first, attempts.saturating_sub(1)).min(self.longest);
        full.mul_f64(0.5 + chance.clamp(0.0, 1.0) / 2.0)
    }

    /// Whether a notice whose time counts from `since` on is given up now.
    #[must_use]
    pub fn is_over(&self, since: Timestamp, now: Timestamp) -> bool {
        now >= since.plus(self.give_up_after)
    }
}

fn doubled(first: Duration, times: u32) -> Duration {
    first.saturating_mul(1 << times.min(20))
}

/// How the receiver behind a URL does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Receiver {
    failures: u32,
    /// Not tried before this time.
    pub not_before: Option<Timestamp>,
}

impl Receiver {
    /// It takes nothing at all: it is tried with one notice at a time.
    #[must_use]
    pub const fn is_down(&self) -> bool {
        self.failures >= DOWN_AFTER
    }

    /// It took something; whether it was down until now.
    pub const fn took(&mut self) -> bool {
        let was_down = self.is_down();
        *self = Self { failures: 0, not_before: None };
        was_down
    }

    /// It did not take something.
    pub fn refused(&mut self, patience: &Patience, now: Timestamp) {
        self.failures = self.failures.saturating_add(1);
        if self.is_down() {
            let pause = doubled(patience.first_probe, self.failures - DOWN_AFTER).min(patience.longest_probe);
            self.not_before = Some(now.plus(pause));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Timestamp = Timestamp::from_millis(1_800_000_000_000);

    proptest::proptest! {
        #[test]
        fn waits_grow_and_stay_within_their_bounds(attempts in 1_u32..100_000, chance in 0.0_f64..1.0) {
            let patience = Patience::default();
            let wait = patience.retry_after(attempts, chance);
            proptest::prop_assert!(wait >= patience.first / 2 && wait <= patience.longest);
            proptest::prop_assert!(patience.retry_after(attempts + 1, 1.0) >= wait);
        }

        #[test]
        fn a_receiver_is_down_after_failures_alone_and_up_with_the_first_success(
            failures in 0_u32..200,
        ) {
            let mut receiver = Receiver::default();
            for _ in 0..failures {
                receiver.refused(&Patience::default(), NOW);
            }
            proptest::prop_assert_eq!(receiver.is_down(), failures >= DOWN_AFTER);
            let latest = NOW.plus(Patience::default().longest_probe);
            proptest::prop_assert!(receiver.not_before.is_none_or(|at| at > NOW && at <= latest));
            proptest::prop_assert_eq!(receiver.took(), failures >= DOWN_AFTER);
            proptest::prop_assert_eq!(receiver, Receiver::default());
        }
    }

    #[test]
    fn a_day_of_failures_is_over() {
        let patience = Patience::default();
        assert!(!patience.is_over(NOW, NOW.plus(Duration::from_hours(23))));
        assert!(patience.is_over(NOW, NOW.plus(Duration::from_hours(24))));
        let total: Duration = (1..200).map(|attempt| patience.retry_after(attempt, 1.0)).sum();
        assert!(total > patience.give_up_after, "200 attempts are enough for a day");
    }
}
