use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::thread;
use std::time::Duration;

use parking_lot::{Condvar, Mutex};

use super::*;

/// The longest that an idle flusher sleeps before it sleeps until
/// something is written.
const LONGEST_IDLE_SLEEP: Duration = Duration::from_secs(60);

/// What the flusher waits on, and what writers wake it by.
#[derive(Debug)]
pub(crate) struct Rest {
    /// Nothing but a write or the shutdown ends this sleep.
    asleep: AtomicBool,
    state: Mutex<ShutdownState>,
    changed: Condvar,
}

impl Default for Rest {
    fn default() -> Self {
        Self {
            asleep: AtomicBool::new(false),
            state: Mutex::new(ShutdownState::Running),
            changed: Condvar::new(),
        }
    }
}

impl Rest {
    /// Called after every reservation. Its header was bumped before this
    /// looks, and the flusher looks at the header after it says that it
    /// sleeps: one of the two sees the other.
    pub(crate) fn wake(&self) {
        if self.asleep.load(SeqCst) && self.asleep.swap(false, SeqCst) {
            // held from the word to the wait, so that the wait is not missed
            drop(self.state.lock());
            let _notified = self.changed.notify_all();
        }
    }
}

#[derive(Debug, Clone, Copy)]
pub(crate) enum ShutdownState {
    Running,
    ShuttingDown,
    ShutDown,
}

impl ShutdownState {
    fn is_running(self) -> bool {
        if let ShutdownState::Running = self { true } else { false }
    }

    fn is_shutdown(self) -> bool {
        if let ShutdownState::ShutDown = self { true } else { false }
    }
}

#[derive(Debug)]
pub(crate) struct Flusher {
    rest: Arc<Rest>,
    join_handle: Mutex<Option<std::thread::JoinHandle<()>>>,
}

impl Flusher {
    /// Spawns a thread that periodically calls `callback` until dropped.
    pub(crate) fn new(
        name: String,
        pagecache: Arc<PageCache>,
        flush_every_ms: u64,
    ) -> Self {
        let rest = pagecache.log.flusher.clone();

        let join_handle = thread::Builder::new()
            .name(name)
            .spawn({
                let rest = rest.clone();
                move || run(&rest, &pagecache, flush_every_ms)
            })
            .unwrap();

        Self { rest, join_handle: Mutex::new(Some(join_handle)) }
    }
}

fn run(
    rest: &Rest,
    pagecache: &PageCache,
    flush_every_ms: u64,
) {
    let sc = &rest.changed;
    let flush_every = Duration::from_millis(flush_every_ms);
    let mut shutdown = rest.state.lock();
    let mut wrote_data = false;
    let mut idle_rounds = 0_u32;
    let mut synced_offset = None;
    while shutdown.is_running() || wrote_data {
        let before = std::time::Instant::now();
        let reserved = pagecache.log.reserved_offset();
        let mut cleaned = false;
        let cc = concurrency_control::read();
        match pagecache.log.roll_iobuf() {
            Ok(0) => {
                wrote_data = false;
                if !shutdown.is_running() {
                    break;
                }
            }
            Ok(_) => {
                wrote_data = true;
                if !shutdown.is_running() {
                    // loop right away if we're in
                    // shutdown mode, to flush data
                    // more quickly.
                    continue;
                }
            }
            Err(e) => {
                error!("failed to flush from periodic flush thread: {}", e);

                #[cfg(feature = "failpoints")]
                pagecache.set_failpoint(e);

                *shutdown = ShutdownState::ShutDown;

                // having held the mutex makes this linearized
                // with the notify below.
                drop(shutdown);

                let _notified = sc.notify_all();
                return;
            }
        }
        drop(cc);

        // so we can spend a little effort
        // cleaning up the segments. try not to
        // spend more than half of our sleep
        // time rewriting pages though.
        //
        // this looks weird because it's a rust-style do-while
        // where the conditional is the full body
        while {
            let made_progress = match pagecache.attempt_gc() {
                Err(e) => {
                    error!(
                        "failed to clean file from periodic flush thread: {}",
                        e
                    );

                    #[cfg(feature = "failpoints")]
                    pagecache.set_failpoint(e);

                    *shutdown = ShutdownState::ShutDown;

                    // having held the mutex makes this linearized
                    // with the notify below.
                    drop(shutdown);

                    let _notified = sc.notify_all();
                    return;
                }
                Ok(false) => false,
                Ok(true) => true,
            };
            cleaned |= made_progress;
            made_progress
                && shutdown.is_running()
                && before.elapsed() < flush_every / 2
        } {}

        // waya: nothing written, by whomever, is nothing to sync; and
        // who finds nothing to do looks again less often.
        let stable_offset = Some(pagecache.log.stable_offset());
        if cleaned || stable_offset != synced_offset {
            idle_rounds = 0;
            match pagecache.config.file.sync_all() {
                Ok(()) => synced_offset = stable_offset,
                Err(e) => {
                    error!("failed to fsync from periodic flush thread: {}", e)
                }
            }
        } else {
            idle_rounds = (idle_rounds + 1).min(16);
        }

        let worked = before.elapsed();
        let longest = flush_every.max(LONGEST_IDLE_SLEEP);
        let patience = flush_every.saturating_mul(1 << idle_rounds);
        let at_rest = idle_rounds > 0 && patience >= longest;
        if at_rest && shutdown.is_running() {
            rest.asleep.store(true, SeqCst);
            if pagecache.log.reserved_offset() == reserved {
                sc.wait(&mut shutdown);
            }
            rest.asleep.store(false, SeqCst);
            // what woke it gets its usual time
            idle_rounds = 0;
        }

        let sleep_duration = flush_every
            .saturating_mul(1 << idle_rounds)
            .min(longest)
            .checked_sub(worked)
            .unwrap_or_else(|| Duration::from_millis(1));

        if shutdown.is_running() {
            // only sleep before the next flush if we are
            // running normally. if we're shutting down,
            // flush faster.
            sc.wait_for(&mut shutdown, sleep_duration);
        }
    }

    *shutdown = ShutdownState::ShutDown;

    // having held the mutex makes this linearized
    // with the notify below.
    drop(shutdown);

    let _notified = sc.notify_all();
}

impl Drop for Flusher {
    fn drop(&mut self) {
        let mut shutdown = self.rest.state.lock();
        if shutdown.is_running() {
            *shutdown = ShutdownState::ShuttingDown;
            let _notified = self.rest.changed.notify_all();
        }

        while !shutdown.is_shutdown() {
            let _ = self.rest.changed.wait_for(&mut shutdown, Duration::from_millis(100));
        }

        let mut join_handle_opt = self.join_handle.lock();
        if let Some(join_handle) = join_handle_opt.take() {
            if let Err(e) = join_handle.join() {
                error!("error joining Periodic thread: {:?}", e);
            }
        }
    }
}
