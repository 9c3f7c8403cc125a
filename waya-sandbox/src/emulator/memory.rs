//! Gives back to the system what connections that ended have left free.
//!
//! Owns nothing but a mark that it is about to. Woken by the end of a connection, works once a second at most. glibc by
//! itself gives back only the ends of its heaps, and what outlives a connection (queues, counts) lies between what the
//! connections used.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// Connections often end together; so long after the first of them it begins.
const SOON: Duration = Duration::from_secs(1);

/// Whether it is about to.
#[derive(Debug, Default)]
pub(super) struct Leftovers(Arc<AtomicBool>);

impl Leftovers {
    /// A connection has ended.
    pub(super) fn left(&self) {
        if self.0.swap(true, Ordering::Relaxed) {
            return;
        }
        let about_to = Arc::clone(&self.0);
        tokio::spawn(async move {
            tokio::time::sleep(SOON).await;
            about_to.store(false, Ordering::Relaxed);
            let _ = tokio::task::spawn_blocking(give_back).await;
        });
    }
}

#[cfg(all(target_os = "linux", target_env = "gnu"))]
#[expect(unsafe_code, reason = "there is no safe way to ask glibc for it")]
fn give_back() {
    // SAFETY: it takes no pointer, holds glibc's own locks while it looks through the heaps, and touches nothing in use.
    let any = unsafe { libc::malloc_trim(0) } == 1;
    tracing::trace!(any, "free memory given back");
}

/// Other allocators do it by themselves, or cannot.
#[cfg(not(all(target_os = "linux", target_env = "gnu")))]
const fn give_back() {}
