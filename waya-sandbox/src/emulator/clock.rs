//! The emulator's clock: the one place that reads wall time.

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio::sync::watch;

#[expect(clippy::disallowed_methods, reason = "this is the clock")]
fn since_epoch() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}

/// The machine's clock, moved by as much as it was told to. Cheap to clone; all clones are the same one.
#[derive(Debug, Clone, Default)]
pub struct Clock(Arc<watch::Sender<i64>>);

impl Clock {
    /// Unix milliseconds.
    pub fn now_millis(&self) -> i64 {
        self.micros() / 1_000
    }

    /// By how many milliseconds it is ahead of the machine's.
    pub fn ahead_millis(&self) -> i64 {
        *self.0.borrow()
    }

    /// Moves it to so many milliseconds ahead of the machine's, or behind.
    pub fn set_ahead(&self, millis: i64) {
        self.0.send_if_modified(|ahead| std::mem::replace(ahead, millis) != millis);
    }

    /// Tells when it was moved.
    pub fn moves(&self) -> watch::Receiver<i64> {
        self.0.subscribe()
    }

    /// Unix seconds.
    pub(super) fn now(&self) -> i64 {
        self.micros() / 1_000_000
    }

    /// Unix microseconds.
    pub(super) fn micros(&self) -> i64 {
        (since_epoch().as_micros() as i64).saturating_add(self.ahead_millis().saturating_mul(1_000))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_goes_on_from_where_it_was_moved_to() {
        let clock = Clock::default();
        let before = clock.now();
        clock.set_ahead(86_400_000);
        assert!((86_400..86_460).contains(&(clock.now() - before)));
        assert_eq!(clock.clone().ahead_millis(), 86_400_000);
        clock.set_ahead(-1_000);
        assert!(clock.now_millis() < before * 1_000 + 60_000);
    }
}
