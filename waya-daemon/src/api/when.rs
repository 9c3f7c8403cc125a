//! Times as callers write them: RFC 3339, or milliseconds since the Unix epoch.

use crate::model::Timestamp;

/// Milliseconds before this are most likely seconds: it is 3 March 1973.
const SECONDS_LOOK: u64 = 100_000_000_000;

/// A number of milliseconds.
///
/// # Errors
/// What is wrong, in words.
pub fn from_millis(millis: i64) -> Result<Timestamp, &'static str> {
    match u64::try_from(millis) {
        Err(_) => Err("must not be before 1970"),
        Ok(millis) if millis < SECONDS_LOOK => Err("looks like seconds; give milliseconds since 1970"),
        Ok(millis) => Ok(Timestamp::from_millis(millis)),
    }
}

/// `2026-11-23T08:00:00+07:00`, `2026-11-23T01:00:00.5Z`, or milliseconds in digits.
///
/// # Errors
/// What is wrong, in words.
pub fn from_text(text: &str) -> Result<Timestamp, &'static str> {
    const EXPECTED: &str =
        "must be a time with an offset such as 2026-11-23T08:00:00+07:00, or milliseconds since 1970";
    if let Ok(millis) = text.parse() {
        return from_millis(millis);
    }
    let millis = rfc3339(text).ok_or(EXPECTED)?;
    u64::try_from(millis).map(Timestamp::from_millis).map_err(|_| "must not be before 1970")
}

/// Milliseconds since the epoch.
fn rfc3339(text: &str) -> Option<i64> {
    let bytes = text.as_bytes();
    let number = |from: usize, to: usize| -> Option<i64> {
        let digits = text.get(from..to).filter(|digits| digits.bytes().all(|b| b.is_ascii_digit()))?;
        digits.parse().ok()
    };
    let sign = |at: usize, expected: &[u8]| bytes.get(at).filter(|byte| expected.contains(byte)).copied();

    let (year, month, day) = (number(0, 4)?, number(5, 7)?, number(8, 10)?);
    let (hour, minute, second) = (number(11, 13)?, number(14, 16)?, number(17, 19)?);
    sign(4, b"-").and(sign(7, b"-")).and(sign(10, b"Tt ")).and(sign(13, b":")).and(sign(16, b":"))?;
    // 60 is a leap second; it counts as the next minute's first.
    let valid = (1..=12).contains(&month)
        && (1..=days_in_month(year, month)).contains(&day)
        && hour <= 23
        && minute <= 59
        && second <= 60;
    if !valid {
        return None;
    }
    let (fraction, rest) = match text.get(19..)?.strip_prefix('.') {
        Some(rest) => {
            let digits = rest.find(|c: char| !c.is_ascii_digit()).filter(|digits| *digits > 0)?;
            let millis = format!("{:0<3}", &rest[..digits.min(3)]).parse::<i64>().ok()?;
            (millis, &rest[digits..])
        }
        None => (0, text.get(19..)?),
    };
    let seconds = days_since_epoch(year, month, day) * 86_400 + hour * 3600 + minute * 60 + second - offset(rest)?;
    Some(seconds * 1000 + fraction)
}

/// Seconds east of UTC: `Z`, `+07:00`.
fn offset(text: &str) -> Option<i64> {
    if matches!(text, "Z" | "z") {
        return Some(0);
    }
    let (sign, rest) = match text.split_at_checked(1)? {
        ("+", rest) => (1, rest),
        ("-", rest) => (-1, rest),
        _ => return None,
    };
    let (hours, minutes) = rest.split_once(':')?;
    let two = |digits: &str| -> Option<i64> {
        (digits.len() == 2 && digits.bytes().all(|b| b.is_ascii_digit())).then(|| digits.parse().ok())?
    };
    let (hours, minutes) = (two(hours)?, two(minutes)?);
    (hours <= 23 && minutes <= 59).then_some(sign * (hours * 3600 + minutes * 60))
}

fn days_in_month(year: i64, month: i64) -> i64 {
    match month {
        4 | 6 | 9 | 11 => 30,
        2 if year % 4 == 0 && (year % 100 != 0 || year % 400 == 0) => 29,
        2 => 28,
        _ => 31,
    }
}

/// Days from 1970-01-01, in the Gregorian calendar; years counted from March make the leap day the last one.
fn days_since_epoch(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let era = year.div_euclid(400);
    let year_of_era = year.rem_euclid(400);
    let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
    era * 146_097 + day_of_era - 719_468
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::from_text;

    fn millis(text: &str) -> u64 {
        from_text(text).unwrap().as_millis()
    }

    #[test]
    fn every_spelling_of_a_moment_is_the_same() {
        for text in [
            "2026-11-23T01:00:00Z",
            "2026-11-23t01:00:00z",
            "2026-11-23 08:00:00+07:00",
            "2026-11-22T20:30:00.000-04:30",
            "1795395600000",
        ] {
            assert_eq!(millis(text), 1_795_395_600_000, "{text}");
        }
        assert_eq!(millis("2000-02-29T12:00:00.1Z"), 951_825_600_100);
        assert_eq!(millis("2000-02-29T12:00:00.123999Z"), 951_825_600_123);
        assert_eq!(millis("2016-12-31T23:59:60Z"), millis("2017-01-01T00:00:00Z"));
    }

    proptest::proptest! {
        #[test]
        fn no_text_panics(text in "[0-9]{0,4}[-0-9TtZé:.+ ]{0,30}") {
            let _ = from_text(&text);
        }

        #[test]
        fn days_follow_each_other(day in 0i64..2_932_896) {
            // Walks by a day in each unit that the calendar has.
            let (year, month, date) = civil(day);
            let at = |year: i64, month: i64, date: i64| super::days_since_epoch(year, month, date);
            proptest::prop_assert_eq!(at(year, month, date), day);
            let next = if date < super::days_in_month(year, month) {
                at(year, month, date + 1)
            } else if month < 12 {
                at(year, month + 1, 1)
            } else {
                at(year + 1, 1, 1)
            };
            proptest::prop_assert_eq!(next, day + 1);
        }
    }

    /// The date of a day, found by halving.
    fn civil(day: i64) -> (i64, i64, i64) {
        let first = |year: i64, month: i64| super::days_since_epoch(year, month, 1);
        let year = (0..10_000).collect::<Vec<i64>>().partition_point(|year| first(*year, 1) <= day) as i64 - 1;
        let month = (1..=12).rev().find(|month| first(year, *month) <= day).unwrap();
        (year, month, day - first(year, month) + 1)
    }

    #[test]
    fn what_is_no_moment_is_refused() {
        for text in [
            "",
            "tomorrow",
            "2026-11-23",
            "2026-11-23T01:00:00",
            "2026-02-29T01:00:00Z",
            "2026-13-01T01:00:00Z",
            "2026-11-23T24:00:00Z",
            "2026-11-23T01:00:00.Z",
            "2026-11-23T01:00:00+7:00",
            "2026-11-23T01:00:00Zz",
            "1960-01-01T00:00:00Z",
            "1795395600",
            "-5",
            "2026-11-23T01:00:00é",
        ] {
            assert!(from_text(text).is_err(), "{text}");
        }
    }
}
