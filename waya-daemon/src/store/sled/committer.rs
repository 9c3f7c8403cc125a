//! The one thread that writes.
//!
//! It drains what waits, puts it together into one transaction, has that on disk, and only then answers everybody.
//! It wakes when something is asked of it, and never sleeps to collect more. When the engine breaks it stops
//! answering "done", opens the engine again, and goes on by itself.

use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

use tokio::sync::oneshot;

use super::counters::Counters;
use super::engine::{Broken, caught};
use super::group::{Finished, Group};
use super::recovery::{self, Place};
use super::shared::Shared;
use super::witness::Witness;
use crate::store::{StoreError, StoreHealth};

/// The most operations in a group.
const MAX_GROUP: usize = 1024;
/// A group that has so many rows takes no further operation.
const MAX_ROWS: usize = 20_000;
/// Between attempts to open a broken engine again.
const BACKOFF: std::ops::Range<Duration> = Duration::from_millis(50)..Duration::from_secs(5);
/// The engine is not opened again with less space than this.
const REOPEN_SPACE: u64 = 2 * 1024 * 1024;

/// What can be asked of the committer.
pub enum Request {
    /// Carry this out in the next group.
    Work(Box<dyn Job>),
    /// A reader found the engine broken.
    Broken(String),
    /// Finish what came before, and stop.
    Close,
}

/// One operation and who waits for it.
pub trait Job: Send {
    /// Puts its writes into the group; whether they may stay.
    fn evaluate(&mut self, group: &mut Group<'_>) -> bool;
    /// Tells the waiter: what came out of it, or `failure`.
    fn answer(self: Box<Self>, failure: Option<StoreError>);
}

/// A [`Job`] from a closure.
pub struct Typed<F, R> {
    work: Option<F>,
    outcome: Option<Result<R, StoreError>>,
    reply: oneshot::Sender<Result<R, StoreError>>,
}

impl<F, R> Typed<F, R> {
    /// `reply` is answered after the fsync.
    pub fn new(work: F, reply: oneshot::Sender<Result<R, StoreError>>) -> Self {
        Self { work: Some(work), outcome: None, reply }
    }
}

impl<F, R> Job for Typed<F, R>
where
    R: Send,
    F: FnOnce(&mut Group<'_>) -> Result<R, StoreError> + Send,
{
    fn evaluate(&mut self, group: &mut Group<'_>) -> bool {
        let Some(work) = self.work.take() else { return false };
        let outcome = caught(|| work(group)).unwrap_or_else(|Broken(why)| Err(StoreError::Unavailable(why)));
        let keep = outcome.is_ok();
        self.outcome = Some(outcome);
        keep
    }

    fn answer(self: Box<Self>, failure: Option<StoreError>) {
        let Self { outcome, reply, .. } = *self;
        let not_run = || Err(StoreError::Unavailable("the store is closed".to_owned()));
        let _ = reply.send(failure.map_or_else(|| outcome.unwrap_or_else(not_run), Err));
    }
}

/// The thread's own things.
pub struct Committer {
    shared: Arc<Shared>,
    requests: mpsc::Receiver<Request>,
    place: Place,
    witness: Witness,
    counters: Counters,
}

impl Committer {
    /// `counters` are those of the engine that `shared` has open.
    pub fn new(
        shared: Arc<Shared>,
        requests: mpsc::Receiver<Request>,
        place: Place,
        witness: Witness,
        counters: Counters,
    ) -> Self {
        Self { shared, requests, place, witness, counters }
    }

    /// Until it is told to close.
    pub fn run(mut self) {
        let mut next = self.requests.recv().ok();
        while let Some(request) = next.take() {
            match request {
                Request::Close => break,
                Request::Broken(reason) if !self.recover(&reason) => break,
                Request::Broken(_) => {}
                Request::Work(job) => match self.group(job) {
                    (Ok(()), after) => next = after,
                    (Err(Broken(reason)), after) => {
                        if !self.recover(&reason) || matches!(after, Some(Request::Close)) {
                            break;
                        }
                    }
                },
            }
            next = next.or_else(|| self.requests.recv().ok());
        }
        self.close();
    }

    /// One group, beginning with `first`; and what came up that belongs to no group.
    fn group(&mut self, first: Box<dyn Job>) -> (Result<(), Broken>, Option<Request>) {
        let Some(engine) = self.shared.engine() else {
            first.answer(Some(self.shared.unavailable()));
            return (Ok(()), None);
        };
        let mut group = Group::new(&engine, &self.shared.bodies, self.counters);
        let mut jobs = Vec::with_capacity(64);
        let mut after = None;
        let mut next = Some(first);
        while let Some(mut job) = next.take() {
            group.begin();
            if !job.evaluate(&mut group) {
                group.undo();
            }
            jobs.push(job);
            if jobs.len() == MAX_GROUP || group.len() >= MAX_ROWS {
                break;
            }
            match self.requests.try_recv() {
                Ok(Request::Work(job)) => next = Some(job),
                Ok(other) => after = Some(other),
                Err(_) => {}
            }
        }
        let broken = group.broken().map(|reason| Broken(reason.to_owned()));
        let finished = group.finish();
        let committed = match broken {
            Some(broken) => Err(broken),
            None if finished.writes.is_empty() => Ok(()),
            None => engine.commit(&finished.writes),
        };
        let failure = committed.as_ref().err().map(|Broken(reason)| StoreError::Unavailable(reason.clone()));
        if committed.is_ok() {
            self.committed(&finished);
        }
        for job in jobs {
            job.answer(failure.clone());
        }
        (committed, after)
    }

    /// The group is on disk: announce it, and let go of what it no longer names.
    fn committed(&mut self, finished: &Finished) {
        if finished.writes.is_empty() {
            return;
        }
        self.counters = finished.counters;
        self.shared.publish(self.counters);
        if let Err(error) = self.witness.note(self.counters.commits) {
            tracing::warn!(%error, "cannot write the store's witness");
        }
        for hash in &finished.unnamed {
            self.shared.bodies.forget(*hash);
        }
    }

    /// Opens the engine again, however long that takes; `false` when it was told to close meanwhile.
    fn recover(&mut self, reason: &str) -> bool {
        tracing::error!(%reason, "the store stopped working; opening it again");
        let mut old = self.shared.take(reason);
        let mut pause = BACKOFF.start;
        loop {
            if !self.refuse_for(pause) {
                return false;
            }
            pause = (pause * 2).min(BACKOFF.end);
            // Readers may still hold it; sled's file lock goes with the last of them.
            if let Some(shared) = old.take() {
                match Arc::try_unwrap(shared) {
                    Ok(engine) => drop(caught(|| drop(engine))),
                    Err(shared) => {
                        old = Some(shared);
                        continue;
                    }
                }
            }
            if self.reopen() {
                return true;
            }
        }
    }

    fn reopen(&mut self) -> bool {
        let free = self.shared.space.free();
        let opened = if free < REOPEN_SPACE {
            Err(format!("the disk is full ({free} bytes left); free some space"))
        } else {
            recovery::open(&self.place, &self.witness).map_err(|error| error.to_string())
        };
        match opened {
            Ok((engine, counters)) => {
                self.counters = counters;
                self.shared.opened(engine, counters);
                tracing::info!("the store works again");
                true
            }
            Err(reason) => {
                self.shared.health.send_replace(StoreHealth::Down(reason));
                false
            }
        }
    }

    /// Answers everything with a refusal for so long; `false` when told to close.
    fn refuse_for(&self, pause: Duration) -> bool {
        let until = Instant::now() + pause;
        loop {
            match self.requests.recv_timeout(until.saturating_duration_since(Instant::now())) {
                Ok(Request::Work(job)) => job.answer(Some(self.shared.unavailable())),
                Ok(Request::Broken(_)) => {}
                Ok(Request::Close) | Err(mpsc::RecvTimeoutError::Disconnected) => return false,
                Err(mpsc::RecvTimeoutError::Timeout) => return true,
            }
        }
    }

    /// Nothing more comes: refuse what is left, and close the engine.
    fn close(self) {
        let engine = self.shared.take("the store is closed");
        while let Ok(request) = self.requests.try_recv() {
            if let Request::Work(job) = request {
                job.answer(Some(self.shared.unavailable()));
            }
        }
        if let Err(error) = self.witness.sync() {
            tracing::warn!(%error, "cannot sync the store's witness");
        }
        drop(caught(|| drop(engine)));
    }
}
