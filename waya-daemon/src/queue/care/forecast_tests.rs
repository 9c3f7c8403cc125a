//! The forecast against a clock that ticks through it.

use std::time::Duration;

use jiff::civil::time;
use proptest::prelude::*;

use super::day::testing::{at, zone};
use super::forecast::Forecast;
use super::limits::Limits;
use crate::model::Timestamp;
use crate::settings::{QuietHours, Snapshot};

fn settings() -> Snapshot {
    Snapshot { timezone: Some(zone("Asia/Jakarta")), ..Snapshot::default() }
}

/// Sends one after the other, as the worker does.
fn sent(limits: &Limits, from: Timestamp, gap: Duration, count: usize) -> Vec<Timestamp> {
    let (mut limits, mut now, mut sent) = (limits.clone(), from, Vec::new());
    while sent.len() < count {
        if let Some(closed) = limits.closed(now) {
            now = closed.until;
        } else {
            limits.count(now);
            sent.push(now);
            now = now.plus(gap);
        }
    }
    sent
}

#[test]
fn without_limits_only_the_pace_counts() {
    let (limits, now, gap) = (Limits::new(&settings()), at("2026-11-27T05:00:00Z"), Duration::from_secs(5));
    let forecast = Forecast::new(now, gap, &limits, now, 1);
    assert_eq!(forecast.at(1_000_000), Some(now.plus(Duration::from_secs(5_000_000))));
    assert_eq!(forecast.before(now.plus(Duration::from_secs(11)), 1, 100), 2);
}

#[test]
fn a_blast_over_the_cap_goes_on_after_midnight_when_the_night_is_over() {
    let night = QuietHours { start: time(22, 0, 0, 0), end: time(7, 0, 0, 0) };
    let limits = Limits::new(&Snapshot { daily_cap: 3, quiet_hours: Some(night), ..settings() });
    // 21:59:50 there: two fit before it is quiet.
    let (now, gap) = (at("2026-11-27T14:59:50Z"), Duration::from_secs(5));
    let forecast = Forecast::new(now, gap, &limits, now, 100);
    assert_eq!(forecast.at(1), Some(at("2026-11-27T14:59:55Z")));
    assert_eq!(forecast.at(2), Some(at("2026-11-28T00:00:00Z")));
    assert_eq!(forecast.at(4), Some(at("2026-11-28T00:00:10Z")));
    assert_eq!(forecast.at(5), Some(at("2026-11-29T00:00:00Z")));
    assert_eq!(forecast.before(limits.end_of_day(now), 0, 100), 2);
}

#[test]
fn what_leaves_in_years_leaves_at_a_time_nobody_knows() {
    let limits = Limits::new(&Snapshot { daily_cap: 1, ..settings() });
    let now = at("2026-11-27T05:00:00Z");
    let forecast = Forecast::new(now, Duration::ZERO, &limits, now, 10_000);
    assert!(forecast.at(300).is_some());
    assert_eq!(forecast.at(9_999), None);
}

proptest! {
    #[test]
    fn it_is_what_happens(
        millis in 1_790_000_000_000u64..1_800_000_000_000,
        seconds in 1u64..20_000,
        cap in 0u64..6,
        used in 0u64..6,
        warm_up in proptest::collection::vec(1u64..4, 0..3),
        hours in proptest::option::of((0i8..24, 0i8..24)),
    ) {
        let (now, gap) = (Timestamp::from_millis(millis), Duration::from_secs(seconds));
        let hours = hours.filter(|(from, to)| from != to);
        let quiet_hours = hours.map(|(from, to)| QuietHours { start: time(from, 0, 0, 0), end: time(to, 0, 0, 0) });
        let mut limits = Limits::new(&Snapshot { daily_cap: cap, warm_up, quiet_hours, ..settings() });
        limits.linked(Some(now));
        for _ in 0..used {
            limits.count(now);
        }
        let forecast = Forecast::new(now, gap, &limits, now, 40);
        let told: Vec<_> = (0..40).map(|ahead| forecast.at(ahead).unwrap()).collect();
        prop_assert_eq!(told, sent(&limits, now, gap, 40));
    }
}
