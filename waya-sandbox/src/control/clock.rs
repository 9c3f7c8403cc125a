//! Moving the clock: what is asked for, and what it shows then.

use jiff::{SignedDuration, SpanRelativeTo, Timestamp};
use serde::{Deserialize, Serialize};

use super::{ControlError, Word};
use crate::emulator::Clock;

/// How far the clock may be moved: beyond, the numbers on the wire have no room.
const FARTHEST: SignedDuration = SignedDuration::from_hours(24 * 365 * 50);

/// How to move the clock: one of the two, or neither to look at it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClockRequest {
    /// To this time (`2027-01-01T07:00:00+07:00`), or `now`: to the machine's own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub set: Option<String>,
    /// By so much: seconds, or `90s`, `1h 30m`, `2d`; with a minus back.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub advance: Option<Word>,
}

/// What the clock shows.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClockView {
    /// The time, in UTC.
    pub time: String,
    /// By how many milliseconds it is ahead of the machine's clock.
    pub ahead_ms: i64,
}

/// Moves the clock as asked, and shows it.
pub(super) fn turn(clock: &Clock, request: &ClockRequest) -> Result<ClockView, ControlError> {
    let wanted = match (&request.set, &request.advance) {
        (Some(_), Some(_)) => return Err(invalid("advance", "give either set or advance, not both")),
        (Some(time), None) => Some(ahead_of(clock, time)?),
        (None, Some(by)) => Some(SignedDuration::from_millis(clock.ahead_millis()).saturating_add(length(by)?)),
        (None, None) => None,
    };
    if let Some(ahead) = wanted {
        if ahead.abs() > FARTHEST {
            return Err(invalid("advance", "stay within fifty years of the machine's clock"));
        }
        clock.set_ahead(i64::try_from(ahead.as_millis()).unwrap_or_default());
    }
    let time = Timestamp::from_millisecond(clock.now_millis()).unwrap_or(Timestamp::UNIX_EPOCH);
    Ok(ClockView { time: time.to_string(), ahead_ms: clock.ahead_millis() })
}

fn invalid(field: &'static str, problem: &str) -> ControlError {
    ControlError::Invalid { field, problem: problem.to_owned() }
}

fn ahead_of(clock: &Clock, time: &str) -> Result<SignedDuration, ControlError> {
    if time.trim().eq_ignore_ascii_case("now") {
        return Ok(SignedDuration::ZERO);
    }
    let meant: Timestamp = time.trim().parse().map_err(|_| {
        invalid("set", &format!("{time:?} is no time: give one like 2027-01-01T07:00:00+07:00, or now"))
    })?;
    let machine = clock.now_millis() - clock.ahead_millis();
    Ok(SignedDuration::from_millis(meant.as_millisecond() - machine))
}

fn length(by: &Word) -> Result<SignedDuration, ControlError> {
    let text = match by {
        Word::Number(seconds) => return Ok(SignedDuration::from_secs(i64::try_from(*seconds).unwrap_or(i64::MAX))),
        Word::Text(text) => text.trim(),
    };
    if let Ok(seconds) = text.parse::<i64>() {
        return Ok(SignedDuration::from_secs(seconds));
    }
    let span = text.parse::<jiff::Span>().and_then(|span| span.to_duration(SpanRelativeTo::days_are_24_hours()));
    span.map_err(|_| {
        invalid("advance", &format!("{text:?} is no length of time: give seconds, or one like 90s, 1h 30m or 2d"))
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn turned(clock: &Clock, set: Option<&str>, advance: Option<&str>) -> Result<i64, String> {
        let advance = advance.map(|text| Word::Text(text.to_owned()));
        let request = ClockRequest { set: set.map(str::to_owned), advance };
        turn(clock, &request).map(|view| view.ahead_ms).map_err(|error| error.to_string())
    }

    #[test]
    fn it_is_moved_by_lengths_to_times_and_back() {
        let clock = Clock::default();
        for (by, ahead) in [("90", 90), ("1h 30m", 5_490), ("2d", 178_290), ("-2d", 5_490), ("PT10S", 5_500)] {
            assert_eq!(turned(&clock, None, Some(by)), Ok(ahead * 1_000), "{by}");
        }
        assert_eq!(turned(&clock, None, None), Ok(5_500_000), "looking moves nothing");
        turned(&clock, Some("2040-01-01T07:00:00+07:00"), None).unwrap();
        assert!((0..5_000).contains(&(clock.now_millis() - 2_208_988_800_000)), "{}", clock.now_millis());
        assert_eq!(turned(&clock, Some("now"), None), Ok(0));
    }

    #[test]
    fn what_is_no_time_is_refused_and_moves_nothing() {
        let clock = Clock::default();
        for (set, advance, says) in [
            (Some("tomorrow"), None, "no time"),
            (None, Some("soon"), "no length of time"),
            (None, Some("1 month"), "no length of time"),
            (Some("now"), Some("1h"), "not both"),
            (None, Some("99999999999999"), "fifty years"),
            (Some("2999-01-01T00:00:00Z"), None, "fifty years"),
        ] {
            let error = turned(&clock, set, advance).unwrap_err();
            assert!(error.contains(says), "{set:?} {advance:?}: {error}");
            assert_eq!(clock.ahead_millis(), 0);
        }
    }
}
