//! How long messages have waited for the link, so that what waited longer than `queue.max_age` is given up.
//!
//! Time counts while the account is not connected and the queue is not paused; each message counts it from its own due
//! time on, and adds what it spent backing off. Since when that has been so is written down, so that a restart does
//! not begin the count again: when the daemon stopped offline, the time it was off counts too. A clock that jumps while it
//! runs does not count.

use std::time::Duration;

use tokio::sync::watch;

use super::ledger::Ledger;
use super::{MARKS, state::State};
use crate::model::{MessageId, Timestamp};

/// The count is brought up to date this often at least.
const STEP: Duration = Duration::from_mins(1);
/// Since when, in the store.
const OFFLINE_SINCE: &str = "queue.offline_since";

/// The count.
#[derive(Debug)]
pub(super) struct Trouble {
    /// Up to when it has been counted; `None` while there is no trouble.
    counted: Option<Timestamp>,
    /// `counted` is from the last run: the time in between may be of any length.
    from_before: bool,
    mark: watch::Sender<Option<Timestamp>>,
}

impl Trouble {
    /// Goes on where the last run of the daemon left off. `true` at first: a link that has not come up yet is down.
    pub(super) async fn open(ledger: &Ledger) -> Self {
        let mark = ledger.store.values.get(MARKS, OFFLINE_SINCE).await.unwrap_or_default();
        let since = mark.and_then(|bytes| String::from_utf8(bytes).ok()).and_then(|text| text.parse().ok());
        let from_before = since.is_some();
        let since = since.map_or_else(|| ledger.clock.now(), Timestamp::from_millis);
        let (mark, marked) = watch::channel(Some(since));
        tokio::spawn(write_down(ledger.clone(), marked));
        Self { counted: Some(since), from_before, mark }
    }

    /// Brings the count up to date and says who has waited too long. `now_in_trouble` holds from now on.
    pub(super) fn count(
        &mut self,
        state: &mut State,
        now: Timestamp,
        now_in_trouble: bool,
        most: Duration,
    ) -> Vec<MessageId> {
        let Some(from) = self.counted else {
            if now_in_trouble {
                self.counted = Some(now);
                self.mark.send_replace(Some(now));
            }
            return Vec::new();
        };
        if now_in_trouble && now.since(from) < STEP {
            return Vec::new();
        }
        // While it runs the count is never that far behind: the clock jumped, or the machine slept.
        let from = if self.from_before { from } else { from.max(now.minus(2 * STEP)) };
        self.from_before = false;
        self.counted = now_in_trouble.then_some(now);
        if !now_in_trouble {
            self.mark.send_replace(None);
        }
        state.add_trouble(from, now, most)
    }

    /// How long until the count is due again.
    pub(super) fn due(&self, now: Timestamp) -> Option<Duration> {
        self.counted.map(|from| STEP.saturating_sub(now.since(from)))
    }
}

/// Keeps the mark in the store as it should be; ends with the count.
async fn write_down(ledger: Ledger, mut mark: watch::Receiver<Option<Timestamp>>) {
    loop {
        let value = mark.borrow_and_update().map(|at| at.as_millis().to_string().into_bytes());
        while let Err(error) = ledger.store.values.put(MARKS, OFFLINE_SINCE, value.clone()).await {
            ledger.wait(&error).await;
        }
        if mark.changed().await.is_err() {
            return;
        }
    }
}
