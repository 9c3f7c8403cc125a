//! How a store is opened, and why it may not open.

use std::path::PathBuf;
use std::time::Duration;

/// How a store is opened.
#[derive(Debug, Clone)]
pub struct OpenOptions {
    /// The store's folder; it holds nothing else.
    pub dir: PathBuf,
    /// What sled keeps in memory, in bytes. It may go over that by a few times under load.
    pub cache_capacity: u64,
    /// New messages are refused while fewer bytes are free on the file system.
    pub free_space_watermark: u64,
    /// When copies of the whole store are made by themselves.
    pub snapshots: Snapshots,
    /// Whether commits are fsynced.
    #[doc(hidden)]
    pub durability: Durability,
}

impl OpenOptions {
    /// The defaults, for a store in `dir`.
    #[must_use]
    pub fn new(dir: impl Into<PathBuf>) -> Self {
        Self {
            dir: dir.into(),
            cache_capacity: 16 * 1024 * 1024,
            free_space_watermark: 64 * 1024 * 1024,
            snapshots: Snapshots { every: Duration::from_hours(24), keep: 3 },
            durability: Durability::Full,
        }
    }
}

/// When copies of the whole store are made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Snapshots {
    /// When the newest is so much older than the store. The first one is made soon after the first start.
    pub every: Duration,
    /// How many are kept; at least one.
    pub keep: usize,
}

/// Whether a commit is on disk when it is answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Durability {
    /// It is.
    Full,
    /// It is not: what a power-cut test must be able to notice.
    NoSync,
}

/// The store cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The system said no.
    #[error("cannot open the store at {path}: {cause}; check its owner, permissions and free space")]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// What the system said.
        cause: std::io::Error,
    },
    /// Written by a newer version of the program.
    #[error(
        "the store at {dir} has schema {found}, this program knows up to {known}; start the newer version again, or restore an older snapshot"
    )]
    Newer {
        /// The store's folder.
        dir: PathBuf,
        /// Its schema.
        found: u32,
        /// The newest schema known.
        known: u32,
    },
    /// It is broken, or has lost something.
    #[error("the store at {dir} is damaged: {what}; {}", advice(.snapshot.as_ref()))]
    Damaged {
        /// The store's folder.
        dir: PathBuf,
        /// What was found.
        what: String,
        /// The newest snapshot, to be restored.
        snapshot: Option<PathBuf>,
    },
}

fn advice(snapshot: Option<&PathBuf>) -> String {
    snapshot.map_or_else(
        || "there is no snapshot; start once with --repair to keep what can still be read".to_owned(),
        |path| {
            let path = path.display();
            format!("start once with --repair to restore the newest snapshot {path} and what can still be read")
        },
    )
}
