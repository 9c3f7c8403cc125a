//! The day's count on disk, so that a crash gives no day more than its share.
//!
//! It is written before a message is handed over, so it may be ahead of what left, never behind. The worker counts;
//! whoever hands over waits here until its count is safe.

use std::sync::{Mutex, PoisonError};

use super::limits::Used;
use super::marks;
use crate::queue::ledger::Ledger;

/// What is to be on disk, and what is.
#[derive(Debug, Default)]
pub struct Tally {
    /// `None` while no limit asks for a count.
    wanted: Mutex<Option<Used>>,
    written: tokio::sync::Mutex<Option<Used>>,
}

impl Tally {
    /// The count as the worker has it, with all that are on their way.
    pub fn set(&self, used: Option<Used>) {
        *self.wanted.lock().unwrap_or_else(PoisonError::into_inner) = used;
    }

    fn wanted(&self) -> Option<Used> {
        *self.wanted.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns once the count is on disk.
    pub async fn secure(&self, ledger: &Ledger) {
        let mut written = self.written.lock().await;
        // Read under the lock: it has everything that is being handed over by now, this one too.
        let wanted = self.wanted();
        if let Some(used) = wanted
            && *written != wanted
        {
            marks::write(ledger, marks::USED, Some(&used)).await;
            *written = wanted;
        }
    }
}
