//! Wall time as the contract shows it: milliseconds since the Unix epoch.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// Milliseconds since the Unix epoch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Timestamp(u64);

impl Timestamp {
    /// From milliseconds since the Unix epoch.
    #[must_use]
    pub const fn from_millis(millis: u64) -> Self {
        Self(millis)
    }

    /// Milliseconds since the Unix epoch.
    #[must_use]
    pub const fn as_millis(self) -> u64 {
        self.0
    }

    /// This time and `duration` more; saturates.
    #[must_use]
    pub fn plus(self, duration: Duration) -> Self {
        Self(self.0.saturating_add(u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)))
    }

    /// This time less `duration`; stops at the epoch.
    #[must_use]
    pub fn minus(self, duration: Duration) -> Self {
        Self(self.0.saturating_sub(u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)))
    }

    /// How long from `earlier` to this; zero when the clock went back.
    #[must_use]
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_millis(self.0.saturating_sub(earlier.0))
    }

    /// For people to read: `2026-11-24 10:00 UTC`.
    #[must_use]
    pub fn to_minute(self) -> String {
        i64::try_from(self.0)
            .ok()
            .and_then(|millis| jiff::Timestamp::from_millisecond(millis).ok())
            .map_or_else(|| "the end of time".to_owned(), |at| at.strftime("%Y-%m-%d %H:%M UTC").to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::Timestamp;

    #[test]
    fn minutes_are_written_as_people_read_them() {
        for (seconds, text) in
            [(0, "1970-01-01 00:00 UTC"), (1_795_514_400, "2026-11-24 10:00 UTC"), (u64::MAX / 1000, "the end of time")]
        {
            assert_eq!(Timestamp::from_millis(seconds * 1000).to_minute(), text);
        }
    }
}
