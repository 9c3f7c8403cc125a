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
mod codec;
mod committer;
mod contacts;
mod counters;
mod engine;
mod events;
mod group;
mod incoming;
mod journal;
mod migrations;
mod options;
mod outbox;
mod prune;
mod quarantine;
mod rebuild;
mod records;
mod recovery;
mod rows;
mod shared;
mod snapshot;
mod space;
#[cfg(test)]
mod tests;
mod trees;
mod values;
mod witness;

use std::fs;
use std::path::Path;
use std::sync::{Arc, mpsc};
use std::thread::JoinHandle;

use self::bodies::Bodies;
use self::committer::{Committer, Request};
use self::recovery::Place;
use self::rows::Rows;
use self::shared::Shared;
use self::space::Space;
use self::witness::Witness;
use super::Store;

pub use self::options::{Durability, OpenError, OpenOptions};

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

    fn stop(&mut self) {
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
    let dir = options.dir.clone();
    fs::create_dir_all(&dir).map_err(io(&dir))?;
    let place = Place::new(&options);
    let witness_path = dir.join("witness");
    let witness = Witness::open(&witness_path).map_err(io(&witness_path))?;
    let (engine, counters) = recovery::open(&place, &witness)?;
    let bodies_path = dir.join("bodies");
    let bodies = Arc::new(Bodies::open(&bodies_path).map_err(io(&bodies_path))?);

    let (requests, receiver) = mpsc::channel();
    let shared = Arc::new(Shared::new(bodies, Space::new(dir.clone(), options.free_space_watermark), requests.clone()));
    shared.opened(engine, counters);
    let committer = Committer::new(Arc::clone(&shared), receiver, place, witness, counters);
    let thread = std::thread::Builder::new().name("store-commit".to_owned());
    let committer = thread.spawn(move || committer.run()).map_err(io(&dir))?;
    let handle = Handle { shared: Arc::clone(&shared), requests, committer: Some(committer) };
    Ok(Opened { store: Rows::store(&shared), handle })
}
