//! The command line as a whole, and how its values are written. Each command's own arguments stand beside it.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser};
use jiff::Timestamp;
use jiff::civil::DateTime;
use jiff::tz::TimeZone;

use crate::commands::Command;

/// Send and receive WhatsApp messages through a running waya daemon.
///
/// Exit codes: 0 done, 1 unexpected, 2 usage, 3 daemon not reachable, 4 refused, 5 not connected to WhatsApp,
/// 6 message failed, 7 timed out while waiting.
#[derive(Debug, Parser)]
#[command(name = "waya", version, max_term_width = 100, arg_required_else_help = true)]
pub struct Arguments {
    /// What holds for every command.
    #[command(flatten)]
    pub global: GlobalArgs,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What holds for every command.
#[derive(Debug, Clone, Default, Args)]
pub struct GlobalArgs {
    /// The daemon's profile [default: default; env: WAYA_PROFILE]
    #[arg(long, global = true, value_name = "NAME")]
    pub profile: Option<String>,
    /// The daemon's Unix socket [default: looked up by profile; env: WAYA_SOCKET]
    #[arg(long, global = true, value_name = "PATH")]
    pub socket: Option<PathBuf>,
    /// Print the body of the matching HTTP answer; with --follow one object a line
    #[arg(long, global = true)]
    pub json: bool,
    /// Print no confirmations
    #[arg(long, short, global = true)]
    pub quiet: bool,
    /// Print without colours [env: NO_COLOR]
    #[arg(long, global = true)]
    pub no_color: bool,
}

/// `60s`, `500ms`, `5m`, `2h`; a bare number is seconds.
pub fn duration(text: &str) -> Result<Duration, String> {
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let number: u64 = number.parse().map_err(|_| "expected a duration such as 60s, 500ms, 5m or 2h".to_owned())?;
    let millis = match unit {
        "ms" => Some(number),
        "" | "s" => number.checked_mul(1_000),
        "m" => number.checked_mul(60_000),
        "h" => number.checked_mul(3_600_000),
        _ => return Err("expected a duration such as 60s, 500ms, 5m or 2h".to_owned()),
    };
    // A year is longer than anybody waits, and keeps sums of times away from their limits.
    millis
        .filter(|millis| *millis <= 366 * 86_400_000)
        .map(Duration::from_millis)
        .ok_or_else(|| "is too long".to_owned())
}

/// A point in time as milliseconds since the Unix epoch: RFC 3339, the same without an offset (then on this
/// machine's clock), or milliseconds.
pub fn time(text: &str) -> Result<i64, String> {
    time_in(text, &TimeZone::system())
}

fn time_in(text: &str, zone: &TimeZone) -> Result<i64, String> {
    let expected = || "expected a time such as 2026-08-17T07:00:00+07:00, 2026-08-17T07:00, or epoch milliseconds";
    if text.bytes().all(|byte| byte.is_ascii_digit()) && !text.is_empty() {
        return text.parse().map_err(|_| expected().to_owned());
    }
    if let Ok(time) = text.parse::<Timestamp>() {
        return Ok(time.as_millisecond());
    }
    // A date alone would mean midnight, which is hardly what anybody meant.
    let local: DateTime =
        Some(text).filter(|text| text.contains(':')).and_then(|text| text.parse().ok()).ok_or_else(expected)?;
    local.to_zoned(zone.clone()).map(|time| time.timestamp().as_millisecond()).map_err(|_| expected().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory as _;
    use clap::error::ErrorKind;

    #[test]
    fn the_command_line_is_sound() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn durations_are_written_with_units() {
        assert_eq!(duration("60s"), Ok(Duration::from_mins(1)));
        assert_eq!(duration("60"), Ok(Duration::from_mins(1)));
        assert_eq!(duration("500ms"), Ok(Duration::from_millis(500)));
        assert_eq!(duration("2h"), Ok(Duration::from_hours(2)));
        for text in ["", "s", "-1s", "1.5s", "5d", "99999999999999999999s", "9999999999h"] {
            assert!(duration(text).is_err(), "{text}");
        }
    }

    #[test]
    fn times_are_read_with_and_without_offset() {
        let zone = TimeZone::fixed(jiff::tz::offset(7));
        for text in [
            "2026-08-17T07:00:00+07:00",
            "2026-08-17T00:00:00Z",
            "2026-08-17T07:00",
            "2026-08-17 07:00:00",
            "1786924800000",
        ] {
            assert_eq!(time_in(text, &zone), Ok(1_786_924_800_000), "{text}");
        }
        for text in ["", "tomorrow", "2026-08-17", "2026-13-01T00:00:00Z", "99999999999999999999"] {
            assert!(time_in(text, &zone).is_err(), "{text}");
        }
    }

    #[test]
    fn unknown_flags_and_commands_are_usage_errors() {
        for line in [
            &["waya", "--bogus", "status"][..],
            &["waya", "bogus"],
            &["waya", "send"],
            &["waya", "send", "628", "x", "--wait", "soon"],
        ] {
            let error = Arguments::try_parse_from(line).unwrap_err();
            assert_eq!(error.exit_code(), 2, "{line:?}");
        }
        assert_eq!(Arguments::try_parse_from(["waya", "--version"]).unwrap_err().kind(), ErrorKind::DisplayVersion);
    }

    #[test]
    fn global_flags_stand_anywhere() {
        let arguments = Arguments::try_parse_from(["waya", "queue", "list", "--json", "--profile", "shop"]).unwrap();
        assert!(arguments.global.json);
        assert_eq!(arguments.global.profile.as_deref(), Some("shop"));
    }
}
