//! What the handles share: the open engine for reading, the way to the committer, and what is announced.
//!
//! Reads of single rows run where they are called: they are lookups in sled's cache, at worst one page read from the
//! disk. What goes over many rows or reads a file runs on tokio's blocking threads. A read may see a row that is
//! written but not fsynced yet; journal readers are held at the newest fsynced cursor, because a cursor must not be
//! given out twice.

use std::sync::{Arc, Mutex, PoisonError, RwLock, mpsc};

use tokio::sync::{oneshot, watch};

use super::bodies::{Bodies, Pin};
use super::committer::{Request, Typed};
use super::counters::Counters;
use super::engine::{Engine, caught};
use super::group::Group;
use super::space::Space;
use crate::model::Cursor;
use crate::store::{StoreError, StoreHealth};

/// Shared by all handles and the committer.
pub struct Shared {
    engine: RwLock<Option<Arc<Engine>>>,
    requests: mpsc::Sender<Request>,
    counters: Mutex<Counters>,
    /// The newest fsynced event.
    pub newest: watch::Sender<Cursor>,
    /// Whether the store works.
    pub health: watch::Sender<StoreHealth>,
    /// Long texts.
    pub bodies: Arc<Bodies>,
    /// Free space.
    pub space: Space,
    /// Where the next look for forgotten idempotency records begins.
    pub forgotten_from: Mutex<Vec<u8>>,
    /// Held by who writes a snapshot.
    pub snapshot: Mutex<()>,
}

impl Shared {
    /// Nothing is open yet.
    pub fn new(bodies: Arc<Bodies>, space: Space, requests: mpsc::Sender<Request>) -> Self {
        Self {
            engine: RwLock::new(None),
            requests,
            counters: Mutex::default(),
            newest: watch::channel(Cursor(0)).0,
            health: watch::channel(StoreHealth::Down("the store is opening".to_owned())).0,
            bodies,
            space,
            forgotten_from: Mutex::default(),
            snapshot: Mutex::default(),
        }
    }

    /// The engine, while it is open.
    pub fn engine(&self) -> Option<Arc<Engine>> {
        self.engine.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Announces an engine that was opened.
    pub fn opened(&self, engine: Engine, counters: Counters) {
        *self.engine.write().unwrap_or_else(PoisonError::into_inner) = Some(Arc::new(engine));
        self.publish(counters);
        self.health.send_replace(StoreHealth::Ready);
    }

    /// Takes the engine away: from now on nothing can be read or written.
    pub fn take(&self, reason: &str) -> Option<Arc<Engine>> {
        self.health.send_replace(StoreHealth::Down(reason.to_owned()));
        self.engine.write().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// What is on disk now.
    pub fn publish(&self, counters: Counters) {
        *self.counters.lock().unwrap_or_else(PoisonError::into_inner) = counters;
        self.newest.send_if_modified(|newest| std::mem::replace(newest, counters.newest) != counters.newest);
    }

    /// The counters as of the newest commit.
    pub fn counters(&self) -> Counters {
        *self.counters.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Why nothing works now.
    pub fn unavailable(&self) -> StoreError {
        let reason = match &*self.health.borrow() {
            StoreHealth::Down(reason) => reason.clone(),
            StoreHealth::Ready => "the store is closed".to_owned(),
        };
        StoreError::Unavailable(reason)
    }

    /// Reads where it is called.
    pub fn read<R>(&self, run: impl FnOnce(&Engine) -> Result<R, ReadError>) -> Result<R, StoreError> {
        let engine = self.engine().ok_or_else(|| self.unavailable())?;
        let reason = match caught(|| run(&engine)) {
            Ok(Ok(read)) => return Ok(read),
            Ok(Err(ReadError::Refused(error))) => return Err(error),
            Ok(Err(ReadError::Engine(error))) => error.to_string(),
            Err(panic) => panic.to_string(),
        };
        let _ = self.requests.send(Request::Broken(reason.clone()));
        Err(StoreError::Unavailable(reason))
    }

    /// Reads on a blocking thread.
    pub async fn read_many<R, F>(self: &Arc<Self>, run: F) -> Result<R, StoreError>
    where
        R: Send + 'static,
        F: FnOnce(&Self, &Engine) -> Result<R, ReadError> + Send + 'static,
    {
        let shared = Arc::clone(self);
        blocking(move || shared.read(|engine| run(&shared, engine))).await?
    }

    /// Has the committer carry out `work` in its next group; answers after the fsync.
    pub async fn commit<R, F>(&self, work: F) -> Result<R, StoreError>
    where
        R: Send + 'static,
        F: FnOnce(&mut Group<'_>) -> Result<R, StoreError> + Send + 'static,
    {
        let (reply, answer) = oneshot::channel();
        let request = Request::Work(Box::new(Typed::new(work, reply)));
        self.requests.send(request).map_err(|_| self.unavailable())?;
        answer.await.map_err(|_| self.unavailable())?
    }

    /// As [`Self::commit`], for those who do not wait for it.
    pub fn commit_unheard<F>(&self, work: F)
    where
        F: FnOnce(&mut Group<'_>) -> Result<(), StoreError> + Send + 'static,
    {
        let (reply, _) = oneshot::channel();
        let _ = self.requests.send(Request::Work(Box::new(Typed::new(work, reply))));
    }

    /// Puts bodies on disk.
    pub async fn store_bodies(self: &Arc<Self>, contents: Vec<Vec<u8>>) -> Result<Vec<Pin>, StoreError> {
        if contents.is_empty() {
            return Ok(Vec::new());
        }
        let shared = Arc::clone(self);
        let store_all = move || -> std::io::Result<Vec<Pin>> {
            contents.iter().map(|content| shared.bodies.store(content)).collect()
        };
        blocking(store_all).await?.map_err(|error| match error.kind() {
            std::io::ErrorKind::StorageFull => StoreError::DiskFull { free: self.space.free() },
            _ => StoreError::Unavailable(format!("cannot write a text's file: {error}")),
        })
    }
}

/// A read did not succeed.
#[derive(Debug)]
pub enum ReadError {
    /// The engine's fault.
    Engine(sled::Error),
    /// The store's answer.
    Refused(StoreError),
}

impl From<sled::Error> for ReadError {
    fn from(error: sled::Error) -> Self {
        Self::Engine(error)
    }
}

impl From<StoreError> for ReadError {
    fn from(error: StoreError) -> Self {
        Self::Refused(error)
    }
}

/// Runs on tokio's blocking threads.
async fn blocking<R: Send + 'static>(run: impl FnOnce() -> R + Send + 'static) -> Result<R, StoreError> {
    tokio::task::spawn_blocking(run).await.map_err(|error| StoreError::Unavailable(error.to_string()))
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shared").field("health", &*self.health.borrow()).finish_non_exhaustive()
    }
}
