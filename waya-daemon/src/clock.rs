//! The time seam: the only place that reads wall time.

use std::fmt::Debug;
use std::time::{SystemTime, UNIX_EPOCH};

use tokio::sync::watch;

use crate::model::Timestamp;

/// Where the rest of the daemon gets the time from.
pub trait Clock: Debug + Send + Sync {
    /// Wall time, in milliseconds since the Unix epoch.
    fn now(&self) -> Timestamp;

    /// When the time is moved by somebody, where that can be. Whoever sleeps until some time looks at it again then.
    fn moves(&self) -> Moves {
        Moves(None)
    }
}

/// Tells when the time was moved.
#[derive(Debug)]
pub struct Moves(Option<watch::Receiver<i64>>);

impl Moves {
    /// Whenever this changes.
    #[must_use]
    pub fn told_by(moved: watch::Receiver<i64>) -> Self {
        Self(Some(moved))
    }

    /// Returns after the next move; of a clock that nobody moves, never.
    pub async fn next(&mut self) {
        let told = match &mut self.0 {
            Some(moved) => moved.changed().await.is_ok(),
            None => false,
        };
        if !told {
            std::future::pending::<()>().await;
        }
    }
}

/// The machine's clock.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    #[expect(clippy::disallowed_methods, reason = "this is the one place that reads wall time")]
    fn now(&self) -> Timestamp {
        let elapsed = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Timestamp::from_millis(u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX))
    }
}

/// A clock that follows tokio's timer, so that paused time moves it too.
#[derive(Debug, Clone)]
pub struct TokioClock {
    epoch: Timestamp,
    start: tokio::time::Instant,
}

impl TokioClock {
    /// Starts at `epoch` now.
    #[must_use]
    pub fn starting_at(epoch: Timestamp) -> Self {
        Self { epoch, start: tokio::time::Instant::now() }
    }
}

impl Clock for TokioClock {
    fn now(&self) -> Timestamp {
        self.epoch.plus(self.start.elapsed())
    }
}
