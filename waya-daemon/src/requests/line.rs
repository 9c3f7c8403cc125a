//! What waits for the log's thread: rows, and what is asked of it. Whoever hands over a row never waits.
//!
//! Only the newest rows are kept in the end, so no more than those wait: a flood writes over itself in memory.

use std::collections::VecDeque;
use std::mem;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::Command;
use super::files::KEPT;
use super::row::Passed;

/// Between those who hand over and the thread.
#[derive(Default)]
pub(super) struct Line {
    waiting: Mutex<Waiting>,
    woken: Condvar,
}

/// What waits.
#[derive(Default)]
pub(super) struct Waiting {
    /// Oldest first.
    pub(super) rows: VecDeque<Box<Passed>>,
    /// In their order.
    pub(super) commands: Vec<Command>,
    /// Nothing is taken any more.
    pub(super) closed: bool,
    /// The thread has nothing to do.
    idle: bool,
}

impl Line {
    /// Hands a row over; false once the log is closed.
    pub(super) fn hand_over(&self, passed: Box<Passed>) -> bool {
        let mut waiting = self.lock();
        if waiting.closed {
            return false;
        }
        waiting.rows.push_back(passed);
        let forgotten = if waiting.rows.len() > KEPT { waiting.rows.pop_front() } else { None };
        let wake = waiting.idle;
        drop(waiting);
        if wake {
            self.woken.notify_one();
        }
        drop(forgotten);
        true
    }

    /// Asks the thread for something; it is dropped once the log is closed. With `last` nothing more is taken.
    pub(super) fn ask(&self, command: Command, last: bool) {
        let mut waiting = self.lock();
        if !waiting.closed {
            waiting.commands.push(command);
            waiting.closed = last;
            drop(waiting);
            self.woken.notify_one();
        }
    }

    /// Takes nothing more.
    pub(super) fn close(&self) {
        self.lock().closed = true;
        self.woken.notify_one();
    }

    /// Takes nothing more, and leaves what waits undone.
    pub(super) fn end(&self) {
        *self.lock() = Waiting { closed: true, ..Waiting::default() };
    }

    /// All that waits, as soon as there is anything; nothing once it is closed.
    pub(super) fn take(&self) -> Waiting {
        let mut waiting = self.lock();
        while waiting.rows.is_empty() && waiting.commands.is_empty() && !waiting.closed {
            waiting.idle = true;
            waiting = self.woken.wait(waiting).unwrap_or_else(PoisonError::into_inner);
        }
        let closed = waiting.closed;
        mem::replace(&mut *waiting, Waiting { closed, ..Waiting::default() })
    }

    /// Lets rows come together for a time, unless something is asked for.
    pub(super) fn rest(&self, time: Duration) {
        let rests = |waiting: &mut Waiting| waiting.commands.is_empty() && !waiting.closed;
        drop(self.woken.wait_timeout_while(self.lock(), time, rests));
    }

    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl std::fmt::Debug for Line {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Line").finish_non_exhaustive()
    }
}
