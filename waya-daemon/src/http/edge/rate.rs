//! Token buckets, one for each key or address; pure, and bounded in memory.
//!
//! A bucket is the moment at which it will be full again, so that a full one need not be kept. Buckets live in two
//! generations: every minute, or when there are too many, the old one goes. A bucket is full a minute after it was used
//! last, so nothing is forgotten but under a flood of callers, and then the ones that rested longest are.

use std::collections::HashMap;
use std::hash::Hash;
use std::time::Duration;

use crate::api::RateLimit;

/// Buckets of one generation.
const CAPACITY: usize = 10_000;
/// After so long a rest every bucket is full: a burst is at most a minute's worth.
const GENERATION: Duration = Duration::from_mins(1);

/// The buckets of all callers; times are since some fixed moment.
#[derive(Debug)]
pub(super) struct Buckets<K> {
    young: HashMap<K, Duration>,
    old: HashMap<K, Duration>,
    turned: Duration,
}

impl<K> Default for Buckets<K> {
    fn default() -> Self {
        Self { young: HashMap::new(), old: HashMap::new(), turned: Duration::ZERO }
    }
}

impl<K: Eq + Hash> Buckets<K> {
    /// Takes one token.
    ///
    /// # Errors
    /// After how long there is one again.
    pub(super) fn take(&mut self, key: K, rate: RateLimit, now: Duration) -> Result<(), Duration> {
        if self.young.len() >= CAPACITY || now.saturating_sub(self.turned) >= GENERATION {
            self.old = std::mem::take(&mut self.young);
            self.turned = now;
        }
        let one = GENERATION / rate.per_minute.get();
        let full_at = self.young.get(&key).or_else(|| self.old.get(&key)).copied().unwrap_or_default().max(now);
        let empty_at = now + one * (rate.burst.get() - 1);
        if full_at > empty_at {
            return Err(full_at.saturating_sub(empty_at));
        }
        self.young.insert(key, full_at + one);
        Ok(())
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn rate(per_minute: u32, burst: u32) -> RateLimit {
        RateLimit { per_minute: per_minute.try_into().unwrap(), burst: burst.try_into().unwrap() }
    }

    proptest! {
        #[test]
        fn no_stretch_of_time_has_more_than_the_burst_and_its_share(
            per_minute in 1u32..600,
            share in 1u32..100,
            steps in proptest::collection::vec(0u64..20_000, 1..300),
        ) {
            let rate = rate(per_minute, (per_minute * share / 100).max(1));
            let (mut buckets, mut now, mut taken) = (Buckets::default(), Duration::ZERO, Vec::new());
            for step in steps {
                now += Duration::from_millis(step);
                match buckets.take("k", rate, now) {
                    Ok(()) => taken.push(now),
                    Err(wait) => {
                        prop_assert!(wait > Duration::ZERO && wait <= GENERATION);
                        // Exactly then, and not before.
                        let just_before = now + wait.saturating_sub(Duration::from_nanos(1));
                        prop_assert!(buckets.take("k", rate, just_before).is_err());
                        now += wait;
                        prop_assert!(buckets.take("k", rate, now).is_ok());
                        taken.push(now);
                    }
                }
            }
            let one = GENERATION / per_minute;
            for (index, first) in taken.iter().enumerate() {
                for (count, last) in taken[index..].iter().enumerate() {
                    let stretch = last.saturating_sub(*first);
                    let share = u64::try_from(stretch.as_nanos() / one.as_nanos()).unwrap();
                    prop_assert!(count as u64 <= u64::from(rate.burst.get()) + share, "{count} in {stretch:?}");
                }
            }
        }

        #[test]
        fn a_burst_passes_at_once_after_a_rest(burst in 1u32..100, rest in 60_000u64..600_000) {
            let (rate, mut buckets) = (rate(100, burst), Buckets::default());
            for start in [Duration::ZERO, Duration::from_millis(rest)] {
                for _ in 0..burst {
                    prop_assert!(buckets.take("k", rate, start).is_ok());
                }
                prop_assert!(buckets.take("k", rate, start).is_err());
            }
        }
    }

    #[test]
    fn callers_do_not_share_and_their_number_is_bounded() {
        let (rate, mut buckets) = (rate(1, 1), Buckets::default());
        for caller in 0..3 * CAPACITY {
            assert!(buckets.take(caller, rate, Duration::ZERO).is_ok());
            assert!(buckets.take(caller, rate, Duration::ZERO).is_err());
            assert!(buckets.young.len() + buckets.old.len() <= 2 * CAPACITY);
        }
    }
}
