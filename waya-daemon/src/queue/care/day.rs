//! Days and hours where the account lives: they follow the wall there, whatever the offset does. Pure.

use jiff::civil::{Date, Time};
use jiff::tz::TimeZone;
use jiff::{SpanRound, Timestamp as Moment, Zoned};

use crate::model::Timestamp;
use crate::settings::QuietHours;

/// A moment as the wall shows it there; times beyond what calendars hold are the last they do.
fn local(at: Timestamp, zone: &TimeZone) -> Zoned {
    let moment = i64::try_from(at.as_millis()).ok().and_then(|millis| Moment::from_millisecond(millis).ok());
    moment.unwrap_or(Moment::MAX).to_zoned(zone.clone())
}

fn timestamp(zoned: &Zoned) -> Timestamp {
    Timestamp::from_millis(u64::try_from(zoned.timestamp().as_millisecond()).unwrap_or(0))
}

/// Which day it is there.
#[must_use]
pub fn day(at: Timestamp, zone: &TimeZone) -> Date {
    local(at, zone).date()
}

/// How many days later `at` is there than `from`; none when it is not later.
#[must_use]
pub fn days_since(from: Timestamp, at: Timestamp, zone: &TimeZone) -> usize {
    let days = day(from, zone).until(day(at, zone)).ok();
    let days = days.and_then(|span| span.round(SpanRound::new().largest(jiff::Unit::Day).days_are_24_hours()).ok());
    days.and_then(|span| usize::try_from(span.get_days()).ok()).unwrap_or(0)
}

/// The first moment of the next day there; always later than `at`.
#[must_use]
pub fn next_day(at: Timestamp, zone: &TimeZone) -> Timestamp {
    let tomorrow = day(at, zone).tomorrow().ok();
    let begins = tomorrow.and_then(|date| date.to_zoned(zone.clone()).ok()).and_then(|zoned| zoned.start_of_day().ok());
    begins.map_or(Timestamp::from_millis(u64::MAX), |begins| timestamp(&begins))
}

/// While it is quiet: until when.
#[must_use]
pub fn quiet_until(at: Timestamp, zone: &TimeZone, hours: QuietHours) -> Option<Timestamp> {
    let QuietHours { start, end } = hours;
    let time = local(at, zone).time();
    let quiet = if start < end { start <= time && time < end } else { start <= time || time < end };
    quiet.then(|| next(at, zone, end))
}

/// When it becomes quiet next; later than `at`.
#[must_use]
pub fn next_quiet(at: Timestamp, zone: &TimeZone, hours: QuietHours) -> Timestamp {
    next(at, zone, hours.start)
}

/// When the wall shows `time` there next. In a gap that is the moment after it, of a time that comes twice the first.
fn next(at: Timestamp, zone: &TimeZone, time: Time) -> Timestamp {
    let mut date = day(at, zone);
    for _ in 0..3 {
        if let Ok(zoned) = date.at(time.hour(), time.minute(), 0, 0).to_zoned(zone.clone())
            && timestamp(&zoned) > at
        {
            return timestamp(&zoned);
        }
        let Ok(tomorrow) = date.tomorrow() else { break };
        date = tomorrow;
    }
    Timestamp::from_millis(u64::MAX)
}

#[cfg(test)]
pub mod testing {
    use super::{Moment, TimeZone, Timestamp};

    /// A zone of this name; they are on every machine that these tests run on.
    pub fn zone(name: &str) -> TimeZone {
        TimeZone::get(name).unwrap()
    }

    /// A moment as written.
    pub fn at(text: &str) -> Timestamp {
        let moment: Moment = text.parse().unwrap();
        Timestamp::from_millis(u64::try_from(moment.as_millisecond()).unwrap())
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use jiff::civil::time;
    use proptest::prelude::*;

    use super::testing::{at, zone};
    use super::*;

    fn hours(start: (i8, i8), end: (i8, i8)) -> QuietHours {
        QuietHours { start: time(start.0, start.1, 0, 0), end: time(end.0, end.1, 0, 0) }
    }

    #[test]
    fn a_night_ends_in_the_morning_there() {
        let (jakarta, night) = (zone("Asia/Jakarta"), hours((22, 0), (7, 0)));
        // 22:00 there is 15:00 here.
        assert_eq!(quiet_until(at("2026-11-27T14:59:59Z"), &jakarta, night), None);
        let morning = Some(at("2026-11-28T00:00:00Z"));
        assert_eq!(quiet_until(at("2026-11-27T15:00:00Z"), &jakarta, night), morning);
        assert_eq!(quiet_until(at("2026-11-27T23:59:59Z"), &jakarta, night), morning);
        assert_eq!(quiet_until(at("2026-11-28T00:00:00Z"), &jakarta, night), None);
        assert_eq!(next_quiet(at("2026-11-28T00:00:00Z"), &jakarta, night), at("2026-11-28T15:00:00Z"));
    }

    #[test]
    fn nights_and_days_follow_the_wall_over_summer_time() {
        let (berlin, night) = (zone("Europe/Berlin"), hours((22, 0), (7, 0)));
        // The night of the change is an hour shorter, the one back an hour longer.
        assert_eq!(quiet_until(at("2026-03-28T21:00:00Z"), &berlin, night), Some(at("2026-03-29T05:00:00Z")));
        assert_eq!(quiet_until(at("2026-10-24T20:00:00Z"), &berlin, night), Some(at("2026-10-25T06:00:00Z")));
        assert_eq!(next_day(at("2026-03-29T00:00:00Z"), &berlin), at("2026-03-29T22:00:00Z"));
        assert_eq!(next_day(at("2026-10-25T00:00:00Z"), &berlin), at("2026-10-25T23:00:00Z"));
        // An end within the gap is the moment after it.
        let short = hours((1, 0), (2, 30));
        assert_eq!(quiet_until(at("2026-03-29T00:30:00Z"), &berlin, short), Some(at("2026-03-29T01:30:00Z")));
        assert_eq!(quiet_until(at("2026-03-29T01:00:00Z"), &berlin, short), None, "it is three o'clock");
    }

    #[test]
    fn days_are_counted_by_midnights_there() {
        let jakarta = zone("Asia/Jakarta");
        let linked = at("2026-11-27T16:00:00Z");
        assert_eq!(days_since(linked, at("2026-11-27T16:59:59Z"), &jakarta), 0);
        assert_eq!(days_since(linked, at("2026-11-27T17:00:00Z"), &jakarta), 1);
        assert_eq!(days_since(linked, at("2027-01-27T17:00:00Z"), &jakarta), 62);
        assert_eq!(days_since(linked, at("2026-11-26T17:00:00Z"), &jakarta), 0, "the clock went back");
    }

    proptest! {
        #[test]
        fn an_end_is_near_and_ends_it(
            millis in 1_700_000_000_000u64..1_900_000_000_000,
            place in 0usize..4,
            from in (0i8..24, 0i8..60),
            to in (0i8..24, 0i8..60),
        ) {
            prop_assume!(from != to);
            let zone = zone(["Asia/Jakarta", "Europe/Berlin", "America/New_York", "Australia/Lord_Howe"][place]);
            let (now, hours) = (Timestamp::from_millis(millis), hours(from, to));
            let next = next_day(now, &zone);
            prop_assert!(next > now && next.since(now) <= Duration::from_hours(25));
            prop_assert_ne!(day(next, &zone), day(now, &zone));
            if let Some(until) = quiet_until(now, &zone, hours) {
                prop_assert!(until > now && until.since(now) <= Duration::from_hours(26));
                prop_assert_eq!(quiet_until(until, &zone, hours), None);
            } else {
                let starts = next_quiet(now, &zone, hours);
                prop_assert!(starts > now && starts.since(now) <= Duration::from_hours(50));
            }
        }
    }
}
