//! The open database: sled used so that it loses nothing.
//!
//! `flush()` of sled 0.34 is no fsync on Linux, so every commit is followed by `sync_data` on a handle of our own to
//! sled's file. `flush_async` and a flush within a transaction can deadlock; neither is used.

use std::fs::{self, File};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::time::{Duration, Instant};

use sled::IVec;
use sled::transaction::{ConflictableTransactionError, TransactionError, Transactional as _, TransactionalTree};

use super::trees::{TREES, Tree};
use super::{Durability, OpenError};

/// How long a locked database is waited for.
const LOCK_PATIENCE: Duration = Duration::from_secs(1);
const LOCK_PAUSE: Duration = Duration::from_millis(10);
/// How often sled looks for old segments to write anew; our commits flush by themselves. With nothing written it looks
/// once a minute (`vendor/sled`), and closing waits for at most half of this.
const TIDY_EVERY_MS: u64 = 5_000;

/// One write of a transaction.
pub type Write = (Tree, IVec, Option<IVec>);

/// The open database. At most one a process and folder.
pub struct Engine {
    db: sled::Db,
    trees: [sled::Tree; TREES],
    file: File,
    durability: Durability,
}

/// Something in the engine broke; it must be opened again.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Broken(pub String);

impl From<sled::Error> for Broken {
    fn from(error: sled::Error) -> Self {
        Self(error.to_string())
    }
}

impl From<std::io::Error> for Broken {
    fn from(error: std::io::Error) -> Self {
        Self(error.to_string())
    }
}

impl Engine {
    /// Opens the database in `dir`, makes it if need be.
    pub fn open(dir: &Path, cache_capacity: u64, durability: Durability) -> Result<Self, OpenError> {
        let io = |path: &Path| {
            let path = path.to_owned();
            move |cause| OpenError::Io { path, cause }
        };
        fs::create_dir_all(dir).map_err(io(dir))?;
        let damaged = |what: String| OpenError::Damaged { dir: dir.to_owned(), what, snapshot: None };
        let open = || caught(|| Self::open_trees(dir, cache_capacity)).map_err(|panic| damaged(panic.0));
        let mut opened = open()?;
        let begun = Instant::now();
        // sled's threads hold its lock for a moment after a database was closed.
        while opened.as_ref().is_err_and(is_locked) && begun.elapsed() < LOCK_PATIENCE {
            std::thread::sleep(LOCK_PAUSE);
            opened = open()?;
        }
        let (db, trees) = opened.map_err(|error| match error {
            sled::Error::Io(cause) => OpenError::Io { path: dir.to_owned(), cause },
            other => damaged(other.to_string()),
        })?;
        let path = dir.join("db");
        let file = File::open(&path).map_err(io(&path))?;
        let engine = Self { db, trees, file, durability };
        engine.sync_files(dir).map_err(io(dir))?;
        Ok(engine)
    }

    fn open_trees(dir: &Path, cache_capacity: u64) -> Result<(sled::Db, [sled::Tree; TREES]), sled::Error> {
        let db = sled::Config::new()
            .path(dir)
            .mode(sled::Mode::HighThroughput)
            .cache_capacity(cache_capacity)
            .flush_every_ms(Some(TIDY_EVERY_MS))
            .open()?;
        let mut trees = Vec::with_capacity(TREES);
        for tree in Tree::ALL {
            trees.push(db.open_tree(tree.name())?);
        }
        let trees = <[sled::Tree; TREES]>::try_from(trees)
            .map_err(|_| sled::Error::ReportableBug("as many trees as names".to_owned()))?;
        Ok((db, trees))
    }

    /// What sled made when it opened is fsynced once, with its folder and the folder above.
    fn sync_files(&self, dir: &Path) -> std::io::Result<()> {
        self.db.flush().map_err(|error| std::io::Error::other(error.to_string()))?;
        self.file.sync_all()?;
        File::open(dir.join("conf"))?.sync_all()?;
        File::open(dir)?.sync_all()?;
        dir.parent().map_or(Ok(()), |parent| File::open(parent)?.sync_all())
    }

    /// A tree, for reading.
    pub fn tree(&self, tree: Tree) -> &sled::Tree {
        &self.trees[tree as usize]
    }

    /// Writes a group in one transaction and puts it on disk.
    pub fn commit(&self, writes: &[Write]) -> Result<(), Broken> {
        caught(|| self.commit_unguarded(writes))?
    }

    fn commit_unguarded(&self, writes: &[Write]) -> Result<(), Broken> {
        // sled panics at a transaction over no tree.
        if writes.is_empty() {
            return Ok(());
        }
        let mut places = [usize::MAX; TREES];
        let mut touched = Vec::with_capacity(TREES);
        for (tree, ..) in writes {
            let place = &mut places[*tree as usize];
            if *place == usize::MAX {
                *place = touched.len();
                touched.push(self.tree(*tree));
            }
        }
        let write_all = |views: &Vec<TransactionalTree>| {
            for (tree, key, value) in writes {
                let view = &views[places[*tree as usize]];
                match value {
                    Some(value) => view.insert(key, value)?,
                    None => view.remove(key)?,
                };
            }
            Ok::<_, ConflictableTransactionError<()>>(())
        };
        touched.as_slice().transaction(write_all).map_err(|error| match error {
            TransactionError::Abort(()) => Broken("a transaction was aborted".to_owned()),
            TransactionError::Storage(error) => error.into(),
        })?;
        self.db.flush()?;
        match self.durability {
            Durability::Full => self.file.sync_data()?,
            Durability::NoSync => {}
        }
        Ok(())
    }
}

/// Whether somebody has the database open.
fn is_locked(error: &sled::Error) -> bool {
    matches!(error, sled::Error::Io(cause) if cause.to_string().contains("could not acquire lock"))
}

/// Runs what may panic inside sled.
pub fn caught<R>(run: impl FnOnce() -> R) -> Result<R, Broken> {
    catch_unwind(AssertUnwindSafe(run)).map_err(|panic| {
        let text = panic.downcast_ref::<String>().map(String::as_str).or_else(|| panic.downcast_ref::<&str>().copied());
        Broken(format!("the database stopped: {}", text.unwrap_or("unknown reason")))
    })
}

impl std::fmt::Debug for Engine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Engine").finish_non_exhaustive()
    }
}
