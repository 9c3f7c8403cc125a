//! The limits of what we start, by day and by hour, and how much of a day is used up. Pure.

use jiff::civil::Date;
use jiff::tz::TimeZone;
use serde::{Deserialize, Serialize};

use super::day;
use crate::model::Timestamp;
use crate::settings::{QuietHours, Snapshot};

/// Farther ahead than this many openings and closings nothing is reckoned.
const FARTHEST: usize = 1_000;

/// How many messages that we started were handed over on a day.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Used {
    /// Which day, where the account lives.
    #[serde(with = "written")]
    pub day: Date,
    /// How many.
    pub count: u64,
}

/// A day as it is written: `2026-11-27`.
mod written {
    use jiff::civil::Date;
    use serde::{Deserialize, Deserializer, Serializer, de};

    #[expect(clippy::trivially_copy_pass_by_ref, reason = "serde wants it so")]
    pub fn serialize<S: Serializer>(day: &Date, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(day)
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Date, D::Error> {
        String::deserialize(from)?.parse().map_err(de::Error::custom)
    }
}

/// Why nothing that we start leaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Closed {
    /// The word of the contract.
    pub reason: &'static str,
    /// Until when.
    pub until: Timestamp,
}

/// The limits as they are set, and the day's count.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    zone: TimeZone,
    cap: u64,
    warm_up: Vec<u64>,
    hours: Option<QuietHours>,
    /// Since when the account is linked, once that is known.
    linked_at: Option<Timestamp>,
    used: Option<Used>,
}

impl Limits {
    /// As they are set, with nothing used up.
    #[must_use]
    pub fn new(settings: &Snapshot) -> Self {
        Self {
            zone: settings.zone(),
            cap: settings.daily_cap,
            warm_up: settings.warm_up.clone(),
            hours: settings.quiet_hours,
            linked_at: None,
            used: None,
        }
    }

    /// The same days, with no limits.
    #[must_use]
    pub fn lifted(&self) -> Self {
        Self { cap: 0, warm_up: Vec::new(), hours: None, ..self.clone() }
    }

    /// Other settings, the same count.
    pub fn set(&mut self, settings: &Snapshot) {
        *self = Self { linked_at: self.linked_at, used: self.used, ..Self::new(settings) };
    }

    /// Since when the account is linked; `None` while that is not known.
    pub const fn linked(&mut self, at: Option<Timestamp>) {
        self.linked_at = at;
    }

    /// Goes on with a count of before.
    pub const fn resume(&mut self, used: Option<Used>) {
        self.used = used;
    }

    /// Whether a count matters to anybody.
    #[must_use]
    pub const fn counts(&self) -> bool {
        self.cap > 0 || !self.warm_up.is_empty()
    }

    /// Whether there is any limit.
    #[must_use]
    pub const fn any(&self) -> bool {
        self.counts() || self.hours.is_some()
    }

    /// The count of the day that `now` falls on.
    #[must_use]
    pub fn used(&self, now: Timestamp) -> Used {
        let today = day::day(now, &self.zone);
        // When the clock or the zone goes back over midnight, the count goes on: no day gets more than its share. A
        // count from farther ahead is of a clock that was wrong.
        let soon = today.tomorrow().unwrap_or(today);
        match self.used {
            Some(used) if used.day >= today && used.day <= soon => used,
            _ => Used { day: today, count: 0 },
        }
    }

    /// One more is on its way; the day that it counts for.
    pub fn count(&mut self, now: Timestamp) -> Date {
        let Used { day, count } = self.used(now);
        self.used = Some(Used { day, count: count + 1 });
        day
    }

    /// One that counted for that day did not leave after all.
    pub fn uncount(&mut self, day: Date) {
        if let Some(used) = self.used.as_mut().filter(|used| used.day == day) {
            used.count = used.count.saturating_sub(1);
        }
    }

    /// How many a day may have in all; `None` for any number.
    fn quota(&self, at: Timestamp) -> Option<u64> {
        let cap = (self.cap > 0).then_some(self.cap);
        // Until it is known when the account was linked, it is as good as new.
        let nth = self.linked_at.map_or(0, |linked| day::days_since(linked, at, &self.zone));
        self.warm_up.get(nth).copied().into_iter().chain(cap).min()
    }

    /// How many more may leave on the day that `at` falls on, as of `now`; `None` for any number.
    #[must_use]
    pub fn left(&self, at: Timestamp, now: Timestamp) -> Option<u64> {
        let quota = self.quota(at)?;
        let used = self.used(now);
        let same_day = used.day == day::day(at, &self.zone);
        Some(quota.saturating_sub(if same_day { used.count } else { 0 }))
    }

    /// Why nothing that we start leaves at `now`.
    #[must_use]
    pub fn closed(&self, now: Timestamp) -> Option<Closed> {
        if self.counts() && self.is_used_up(now) {
            return Some(Closed { reason: "cap", until: day::next_day(now, &self.zone) });
        }
        let until = self.hours.and_then(|hours| day::quiet_until(now, &self.zone, hours))?;
        Some(Closed { reason: "quiet_hours", until })
    }

    fn is_used_up(&self, now: Timestamp) -> bool {
        self.quota(now).is_some_and(|quota| self.used(now).count >= quota)
    }

    /// When one that is to leave at `from` or later may do so, with so many of that day's share left as `left` says.
    #[must_use]
    pub fn opens(&self, from: Timestamp, left: impl Fn(Timestamp) -> Option<u64>) -> Option<Timestamp> {
        let mut at = from;
        for _ in 0..FARTHEST {
            if left(at) == Some(0) {
                at = day::next_day(at, &self.zone);
            } else if let Some(until) = self.hours.and_then(|hours| day::quiet_until(at, &self.zone, hours)) {
                at = until;
            } else {
                return Some(at);
            }
        }
        None
    }

    /// When that which is open at `at` closes by itself, or its day ends.
    #[must_use]
    pub fn closes(&self, at: Timestamp) -> Option<Timestamp> {
        let quiet = self.hours.map(|hours| day::next_quiet(at, &self.zone, hours));
        let day = self.counts().then(|| self.end_of_day(at));
        quiet.into_iter().chain(day).min()
    }

    /// The first moment of the next day.
    #[must_use]
    pub fn end_of_day(&self, at: Timestamp) -> Timestamp {
        day::next_day(at, &self.zone)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;

    use super::super::day::testing::{at, zone};
    use super::*;

    fn settings() -> Snapshot {
        Snapshot { timezone: Some(zone("Asia/Jakarta")), ..Snapshot::default() }
    }

    #[test]
    fn a_day_has_its_share_and_the_next_one_another() {
        let mut limits = Limits::new(&Snapshot { daily_cap: 2, ..settings() });
        let now = at("2026-11-27T05:00:00Z");
        assert_eq!((limits.left(now, now), limits.closed(now)), (Some(2), None));
        let today = limits.count(now);
        limits.count(now);
        let midnight = at("2026-11-27T17:00:00Z");
        assert_eq!(limits.closed(now), Some(Closed { reason: "cap", until: midnight }));
        assert_eq!((limits.closed(midnight), limits.left(midnight, now)), (None, Some(2)));
        limits.uncount(today);
        assert_eq!((limits.left(now, now), limits.closed(now)), (Some(1), None));
        // A clock that goes back over midnight gives no day a second share.
        limits.resume(Some(Used { day: day::day(midnight, &zone("Asia/Jakarta")), count: 2 }));
        assert!(limits.closed(now).is_some());
        limits.resume(Some(Used { day: jiff::civil::date(2030, 1, 1), count: 2 }));
        assert_eq!(limits.closed(now), None, "that clock was wrong");
    }

    #[test]
    fn a_fresh_account_warms_up_and_then_has_the_cap() {
        let mut limits = Limits::new(&Snapshot { warm_up: vec![1, 3, 9], daily_cap: 5, ..settings() });
        let linked = at("2026-11-27T16:00:00Z");
        let on = |limits: &Limits, days: u64| limits.left(linked.plus(Duration::from_hours(days * 24)), linked);
        assert_eq!(on(&limits, 7), Some(1), "it is not known yet when it was linked");
        limits.linked(Some(linked));
        let shares: Vec<_> = (0..4).map(|days| on(&limits, days)).collect();
        assert_eq!(shares, [Some(1), Some(3), Some(5), Some(5)]);
        limits.set(&Snapshot { warm_up: vec![1], ..settings() });
        assert_eq!((on(&limits, 0), on(&limits, 1)), (Some(1), None));
    }

    proptest! {
        /// Whatever the clock does, no day gets more than its share.
        #[test]
        fn no_day_gets_more_than_its_share(cap in 1u64..5, steps in proptest::collection::vec(0u64..20_000_000, 1..200)) {
            let mut limits = Limits::new(&Snapshot { daily_cap: cap, ..settings() });
            let mut now = Timestamp::from_millis(1_800_000_000_000);
            let mut days = std::collections::BTreeMap::new();
            for step in steps {
                now = if step % 5 == 0 { now.minus(Duration::from_millis(step / 4)) } else { now.plus(Duration::from_millis(step)) };
                if limits.closed(now).is_none() {
                    limits.count(now);
                    *days.entry(limits.used(now).day).or_insert(0) += 1;
                }
            }
            prop_assert!(days.values().all(|count| *count <= cap), "{:?}", days);
        }
    }
}
