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
    let moment: jiff::Timestamp = text.parse().map_err(|_| EXPECTED)?;
    u64::try_from(moment.as_millisecond()).map(Timestamp::from_millis).map_err(|_| "must not be before 1970")
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
    }

    proptest::proptest! {
        #[test]
        fn no_text_panics(text in "[0-9]{0,4}[-0-9TtZé:.+ ]{0,30}") {
            let _ = from_text(&text);
        }
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
