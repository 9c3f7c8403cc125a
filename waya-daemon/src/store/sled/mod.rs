//! The store on sled 0.34, used so that it loses nothing.
//!
//! One thread (`committer`) owns all writes: it puts what waits into one transaction, `flush`es, fsyncs sled's file
//! through a handle of its own, and answers only then. Long texts lie in fsynced files by hash (`bodies`). Every
//! record has a CRC; one that cannot be read is set aside (`quarantine`). Counts and a `witness` beside the database
//! show at the next start when something was lost, and a `snapshot` brings it back.
//!
//! ```text
//! <dir>/db/         sled's files            <dir>/bodies/     long texts by hash
//! <dir>/witness     how far it had come     <dir>/snapshots/  whole-store copies, newest few
//! ```

mod bodies;
mod chats;
mod codec;
mod committer;
mod contacts;
mod counters;
mod engine;
mod events;
mod group;
mod incoming;
mod journal;
mod keeper;
mod migrations;
mod options;
mod outbox;
mod prune;
mod quarantine;
mod rebuild;
mod records;
mod recovery;
mod restore;
mod rows;
mod scrub;
mod shared;
mod snapshot;
mod space;
#[cfg(test)]
mod tests;
mod trees;
mod values;
mod webhook_records;
mod webhooks;
mod witness;

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, mpsc};
use std::thread::JoinHandle;

use self::bodies::Bodies;
use self::committer::{Committer, Request};
use self::keeper::Keeper;
use self::recovery::Place;
use self::rows::Rows;
use self::shared::Shared;
use self::space::Space;
use self::witness::Witness;
use super::{Store, StoreError};

pub use self::options::{Durability, OpenError, OpenOptions, Snapshots};
pub use self::restore::{Repaired, repair};
pub use self::scrub::Scrubbed;
pub use self::snapshot::SnapshotError;

/// An open store.
#[derive(Debug)]
pub struct Opened {
    /// Its handles.
    pub store: Store,
    /// What keeps it open.
    pub handle: Handle,
}

/// Keeps the store open; closing or dropping it ends the committer thread.
#[derive(Debug)]
pub struct Handle {
    shared: Arc<Shared>,
    requests: mpsc::Sender<Request>,
    committer: Option<JoinHandle<()>>,
    snapshots: (PathBuf, usize),
    stop_keeper: Option<mpsc::Sender<()>>,
    keeper: Option<JoinHandle<()>>,
}

impl Handle {
    /// Finishes what was asked before, puts everything on disk and ends the threads. Blocks.
    pub fn close(mut self) {
        self.stop();
    }

    /// How many records could not be read and were set aside since the store was made.
    #[must_use]
    pub fn quarantined(&self) -> u64 {
        *self.shared.counters().rows_of(trees::Tree::Quarantine)
    }

    /// Looks at every record now and sets aside what cannot be read. Blocks; the store goes on meanwhile.
    ///
    /// # Errors
    /// [`StoreError`] when the records cannot all be read now.
    pub fn scrub(&self) -> Result<Scrubbed, StoreError> {
        scrub::run(&self.shared, &mut || true)
    }

    /// Makes a copy of the whole store now; where it lies. Blocks; the store goes on meanwhile.
    ///
    /// # Errors
    /// [`SnapshotError`] says why there is none.
    pub fn snapshot(&self) -> Result<PathBuf, SnapshotError> {
        snapshot::write(&self.shared, &self.snapshots.0, self.snapshots.1, &mut || true)
    }

    fn stop(&mut self) {
        drop(self.stop_keeper.take());
        if let Some(keeper) = self.keeper.take() {
            let _ = keeper.join();
        }
        let _ = self.requests.send(Request::Close);
        if let Some(committer) = self.committer.take() {
            let _ = committer.join();
        }
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.stop();
    }
}

/// Opens the store in a folder, makes it if need be. Blocks; checks counts and indexes before it returns.
///
/// # Errors
/// [`OpenError`] says what to do.
pub fn open(options: OpenOptions) -> Result<Opened, OpenError> {
    let io = |path: &Path| {
        let path = path.to_owned();
        move |cause| OpenError::Io { path, cause }
    };
    let place = Place::new(&options);
    let OpenOptions { dir, free_space_watermark, snapshots: settings, .. } = options;
    fs::create_dir_all(&dir).map_err(io(&dir))?;
    let (database, snapshots) = (place.database().join("db"), dir.join("snapshots"));
    let witness_path = dir.join("witness");
    let witness = Witness::open(&witness_path).map_err(io(&witness_path))?;
    let (engine, counters) = recovery::open(&place, &witness)?;
    let bodies_path = dir.join("bodies");
    let bodies = Arc::new(Bodies::open(&bodies_path).map_err(io(&bodies_path))?);

    let (requests, receiver) = mpsc::channel();
    let shared = Arc::new(Shared::new(bodies, Space::new(dir.clone(), free_space_watermark), requests.clone()));
    shared.opened(engine, counters);
    let committer = Committer::new(Arc::clone(&shared), receiver, place, witness, counters);
    let thread = |name: &str| std::thread::Builder::new().name(name.to_owned());
    let committer = thread("store-commit").spawn(move || committer.run()).map_err(io(&dir))?;
    let mut handle = Handle {
        shared: Arc::clone(&shared),
        requests,
        committer: Some(committer),
        snapshots: (snapshots.clone(), settings.keep),
        stop_keeper: None,
        keeper: None,
    };
    let (stop_keeper, stop) = mpsc::channel();
    let keeper = Keeper { shared: Arc::clone(&shared), database, snapshots, settings, stop };
    handle.keeper = Some(thread("store-keeper").spawn(move || keeper.run()).map_err(io(&dir))?);
    handle.stop_keeper = Some(stop_keeper);
    Ok(Opened { store: Rows::store(&shared), handle })
}
