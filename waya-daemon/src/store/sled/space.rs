//! The free-space watermark: new work is refused before the disk is full, so that what was accepted can be finished.

use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::store::StoreError;

/// How long one look at the file system is good for.
const FRESH: Duration = Duration::from_millis(200);

/// Watches the free space of the file system that holds a folder.
#[derive(Debug)]
pub struct Space {
    dir: PathBuf,
    watermark: u64,
    seen: Mutex<Option<Seen>>,
}

/// One look.
#[derive(Debug, Clone, Copy)]
struct Seen {
    at: Instant,
    free: u64,
}

impl Space {
    /// Refuses below `watermark` bytes.
    pub fn new(dir: PathBuf, watermark: u64) -> Self {
        Self { dir, watermark, seen: Mutex::new(None) }
    }

    /// Whether new work may come.
    pub fn check(&self) -> Result<(), StoreError> {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let free = match *seen {
            Some(Seen { at, free }) if at.elapsed() < FRESH => free,
            before => {
                let free = self.free();
                self.tell_a_change(before.is_some_and(|before| before.free < self.watermark), free);
                *seen = Some(Seen { at: Instant::now(), free });
                free
            }
        };
        if free < self.watermark { Err(StoreError::DiskFull { free }) } else { Ok(()) }
    }

    fn tell_a_change(&self, was_low: bool, free: u64) {
        match (was_low, free < self.watermark) {
            (false, true) => {
                tracing::error!(free, wanted = self.watermark, "the disk is almost full; new messages are refused");
            }
            (true, false) => tracing::info!(free, "there is room on the disk again; new messages are accepted"),
            _ => {}
        }
    }

    /// Bytes left now; as if plenty when the system does not say.
    pub fn free(&self) -> u64 {
        rustix::fs::statvfs(&self.dir).map_or(u64::MAX, |stat| stat.f_bavail.saturating_mul(stat.f_frsize))
    }
}
