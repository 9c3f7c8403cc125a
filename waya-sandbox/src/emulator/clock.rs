//! The emulator's clock: the one place that reads wall time.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

#[expect(clippy::disallowed_methods, reason = "this is the clock")]
fn since_epoch() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}

/// Unix seconds.
pub(super) fn now() -> i64 {
    since_epoch().as_secs() as i64
}

/// Unix microseconds.
pub(super) fn now_micros() -> i64 {
    since_epoch().as_micros() as i64
}
