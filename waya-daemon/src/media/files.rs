//! The folder of the files. A file appears under its hash once it is whole and on disk, never before.

use std::fs::{self, File, FileTimes, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use sha2::{Digest as _, Sha256};

use super::MediaError;
use crate::model::MediaHash;

/// So much of the beginning is kept to tell what a file is.
const HEAD: usize = 4096;
/// What a file is called while it is written.
const UNFINISHED: &str = "new";

/// A file that is kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stored {
    /// What it is kept under.
    pub hash: MediaHash,
    /// Its length in bytes.
    pub size: u64,
    /// Its beginning.
    pub head: Vec<u8>,
}

/// The folder; cheap to clone.
#[derive(Debug, Clone)]
pub(super) struct Files(Arc<Folder>);

#[derive(Debug)]
struct Folder {
    dir: PathBuf,
    temporary: AtomicU64,
}

impl Files {
    /// Makes the folder if need be, and drops what a crash left half-written.
    pub(super) fn open(dir: &Path) -> io::Result<Self> {
        match fs::DirBuilder::new().mode(0o700).create(dir) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
            _ => {}
        }
        for entry in fs::read_dir(dir)? {
            let path = entry?.path();
            if path.extension().is_some_and(|extension| extension == UNFINISHED) {
                fs::remove_file(&path)?;
            }
        }
        Ok(Self(Arc::new(Folder { dir: dir.to_owned(), temporary: AtomicU64::new(0) })))
    }

    pub(super) fn dir(&self) -> &Path {
        &self.0.dir
    }

    pub(super) fn path(&self, hash: MediaHash) -> PathBuf {
        self.0.dir.join(hash.to_string())
    }

    /// A new file of at most `limit` bytes.
    pub(super) fn writer(&self, limit: u64) -> Result<Writer, MediaError> {
        let number = self.0.temporary.fetch_add(1, Ordering::Relaxed);
        let path = self.0.dir.join(format!("{number}.{UNFINISHED}"));
        let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path)?;
        Ok(Writer {
            files: self.clone(),
            unfinished: Unfinished(path),
            file,
            hash: Sha256::new(),
            size: 0,
            limit,
            head: Vec::new(),
        })
    }

    /// A file that was kept before; counts as a use of it.
    pub(super) fn stored(&self, hash: MediaHash) -> Result<Stored, MediaError> {
        let file = File::open(self.path(hash)).map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => MediaError::Gone,
            _ => MediaError::Io(error),
        })?;
        let size = file.metadata()?.len();
        let mut head = Vec::new();
        file.take(HEAD as u64).read_to_end(&mut head)?;
        self.touch(hash);
        Ok(Stored { hash, size, head })
    }

    /// Puts off the day when the sweep takes it.
    pub(super) fn touch(&self, hash: MediaHash) {
        let now = FileTimes::new().set_modified(wall_time());
        let touched = OpenOptions::new().write(true).open(self.path(hash)).and_then(|file| file.set_times(now));
        if let Err(error) = touched
            && error.kind() != io::ErrorKind::NotFound
        {
            tracing::warn!(%error, "a file's last use cannot be noted");
        }
    }
}

/// The machine's own time: what files are stamped with, whatever clock the daemon goes by.
#[expect(clippy::disallowed_methods, reason = "compared with the file system's stamps only")]
pub(super) fn wall_time() -> std::time::SystemTime {
    std::time::SystemTime::now()
}

/// Removes a file that was not finished.
#[derive(Debug)]
struct Unfinished(PathBuf);

impl Drop for Unfinished {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

/// A file on its way in. Dropped before it is finished, it leaves nothing.
pub struct Writer {
    files: Files,
    unfinished: Unfinished,
    file: File,
    hash: Sha256,
    size: u64,
    limit: u64,
    head: Vec<u8>,
}

impl Writer {
    /// Adds a piece. Goes to the page cache only, so that small pieces may be written from anywhere.
    ///
    /// # Errors
    /// [`MediaError::TooLarge`], and what the disk says.
    pub fn write(&mut self, piece: &[u8]) -> Result<(), MediaError> {
        self.size += piece.len() as u64;
        if self.size > self.limit {
            return Err(MediaError::TooLarge { what: "files", limit: self.limit, setting: "media.max_document_size" });
        }
        let wanted = HEAD.saturating_sub(self.head.len()).min(piece.len());
        self.head.extend_from_slice(&piece[..wanted]);
        self.hash.update(piece);
        self.file.write_all(piece)?;
        Ok(())
    }

    /// The file itself, for whoever writes it in another way; [`Writer::reread`] follows.
    pub(super) fn path(&self) -> &Path {
        &self.unfinished.0
    }

    /// Another handle to the file, for whoever writes it in another way; [`Writer::reread`] follows.
    ///
    /// # Errors
    /// What the disk says.
    pub fn handle(&self) -> io::Result<File> {
        OpenOptions::new().read(true).write(true).open(&self.unfinished.0)
    }

    /// Takes in what somebody else wrote into the file. Blocks.
    ///
    /// # Errors
    /// [`MediaError::TooLarge`], and what the disk says.
    pub fn reread(mut self) -> Result<Self, MediaError> {
        let mut written = File::open(&self.unfinished.0)?;
        (self.hash, self.size, self.head) = (Sha256::new(), 0, Vec::new());
        let mut piece = vec![0; 64 * 1024];
        loop {
            let count = written.read(&mut piece)?;
            if count == 0 {
                return Ok(self);
            }
            self.size += count as u64;
            if self.size > self.limit {
                return Err(MediaError::TooLarge { what: "files", limit: self.limit, setting: "media.max_size" });
            }
            let wanted = HEAD.saturating_sub(self.head.len()).min(count);
            self.head.extend_from_slice(&piece[..wanted]);
            self.hash.update(&piece[..count]);
        }
    }

    /// As [`Writer::reread`] and [`Writer::finish`].
    ///
    /// # Errors
    /// As those.
    pub async fn reread_finish(self) -> Result<Stored, MediaError> {
        super::blocking(move || self.reread()?.finish_blocking()).await
    }

    /// How much there is so far.
    #[must_use]
    pub const fn size(&self) -> u64 {
        self.size
    }

    /// Has it on disk, under its hash.
    ///
    /// # Errors
    /// [`MediaError::Empty`], and what the disk says.
    pub async fn finish(self) -> Result<Stored, MediaError> {
        super::blocking(move || self.finish_blocking()).await
    }

    fn finish_blocking(self) -> Result<Stored, MediaError> {
        if self.size == 0 {
            return Err(MediaError::Empty);
        }
        let hash = MediaHash(self.hash.finalize().into());
        let path = self.files.path(hash);
        if fs::metadata(&path).is_ok_and(|there| there.len() == self.size) {
            self.files.touch(hash);
        } else {
            self.file.sync_all()?;
            fs::rename(&self.unfinished.0, &path)?;
        }
        // Also where the file was there: whoever wrote it may not have come to this yet.
        File::open(self.files.dir())?.sync_all()?;
        Ok(Stored { hash, size: self.size, head: self.head })
    }
}

impl std::fmt::Debug for Writer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Writer").field("size", &self.size).finish_non_exhaustive()
    }
}
