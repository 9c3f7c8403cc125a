//! When those that wait will leave, as far as pace and limits decide it. Pure.

use std::time::Duration;

use super::limits::Limits;
use crate::model::Timestamp;

/// More stretches of time than this are not looked at: what leaves later than that leaves at a time nobody knows.
const MOST: usize = 800;

/// A stretch of time in which messages leave one after the other.
#[derive(Debug, Clone, Copy)]
struct Stretch {
    /// How many leave before it.
    before: u64,
    /// How many leave in it.
    fits: u64,
    start: Timestamp,
}

/// When each of those in line will leave.
#[derive(Debug, Clone)]
pub struct Forecast {
    stretches: Vec<Stretch>,
    gap: Duration,
}

impl Forecast {
    /// For up to `most` messages of which the first leaves at `from`, each `gap` after the one before, as `limits`
    /// stand at `now`.
    #[must_use]
    pub fn new(from: Timestamp, gap: Duration, limits: &Limits, now: Timestamp, most: u64) -> Self {
        let mut stretches = Vec::new();
        if !limits.any() {
            stretches.push(Stretch { before: 0, fits: u64::MAX, start: from });
            return Self { stretches, gap };
        }
        let (mut at, mut before) = (from.max(now), 0);
        // How much of the day that is being filled is taken by those before, and when that day ends.
        let (mut taken, mut day_ends) = (0, limits.end_of_day(at));
        while before < most && stretches.len() < MOST {
            let left = |at: Timestamp| {
                let taken = if at < day_ends { taken } else { 0 };
                limits.left(at, now).map(|left| left.saturating_sub(taken))
            };
            let Some(start) = limits.opens(at, left) else { break };
            let share = left(start).unwrap_or(u64::MAX);
            let time = limits.closes(start).map_or(u64::MAX, |end| fit(end.since(start), gap));
            let fits = share.min(time).max(1);
            if start >= day_ends {
                (taken, day_ends) = (0, limits.end_of_day(start));
            }
            taken = taken.saturating_add(fits);
            stretches.push(Stretch { before, fits, start });
            before = before.saturating_add(fits);
            // Without a pace time stands still while they leave; the share decides, or the stretch ends.
            at = if gap.is_zero() { limits.closes(start).unwrap_or(start) } else { start.plus(times(gap, fits)) };
        }
        Self { stretches, gap }
    }

    /// When the one behind so many others leaves; `None` when that is farther away than is reckoned.
    #[must_use]
    pub fn at(&self, ahead: u64) -> Option<Timestamp> {
        let after = self.stretches.partition_point(|stretch| stretch.before <= ahead);
        let stretch = self.stretches.get(after.checked_sub(1)?)?;
        let nth = ahead - stretch.before;
        (nth < stretch.fits).then(|| stretch.start.plus(times(self.gap, nth)))
    }

    /// How many of `count` that stand behind `ahead` others leave before `end`.
    #[must_use]
    pub fn before(&self, end: Timestamp, ahead: u64, count: u64) -> u64 {
        let (mut low, mut high) = (0, count);
        while low < high {
            let middle = u64::midpoint(low, high);
            if self.at(ahead.saturating_add(middle)).is_some_and(|at| at < end) {
                low = middle + 1;
            } else {
                high = middle;
            }
        }
        low
    }
}

/// How many leave within so long, the first at its beginning.
fn fit(long: Duration, gap: Duration) -> u64 {
    let (long, gap) = (long.as_millis(), gap.as_millis());
    if gap == 0 { u64::MAX } else { u64::try_from(long.div_ceil(gap)).unwrap_or(u64::MAX) }
}

fn times(gap: Duration, count: u64) -> Duration {
    let millis = u64::try_from(gap.as_millis()).unwrap_or(u64::MAX);
    Duration::from_millis(millis.saturating_mul(count))
}
