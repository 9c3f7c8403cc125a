//! Long texts as files named by their hash, beside the database.
//!
//! A file is fsynced before the record that names it commits, and unlinked after the last record that named it is
//! gone. While a request is on its way it holds a [`Pin`], so that nobody unlinks what it is about to name.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use sha2::{Digest as _, Sha256};

/// What a body file is named by: the SHA-256 of its content.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct BodyHash(pub [u8; 32]);

/// A body cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum BodyError {
    /// The file is gone.
    #[error("the file of its text is missing")]
    Missing,
    /// Its content is not what it was.
    #[error("the file of its text has changed")]
    Changed,
    /// The system said no; it may work later.
    #[error("cannot use the file of a text: {0}")]
    Io(#[from] io::Error),
}

/// The folder of the body files.
#[derive(Debug)]
pub struct Bodies {
    dir: PathBuf,
    pins: Mutex<HashMap<BodyHash, usize>>,
    temporary: AtomicU64,
}

/// Keeps a body file from being unlinked.
#[derive(Debug)]
pub struct Pin {
    bodies: Arc<Bodies>,
    hash: BodyHash,
}

impl Pin {
    /// What is pinned.
    pub fn hash(&self) -> BodyHash {
        self.hash
    }
}

impl Drop for Pin {
    fn drop(&mut self) {
        let mut pins = self.bodies.pins();
        if let Some(count) = pins.get_mut(&self.hash) {
            *count -= 1;
            if *count == 0 {
                pins.remove(&self.hash);
            }
        }
    }
}

impl Bodies {
    /// Makes the folder if need be, and drops what a crash left half-written.
    pub fn open(dir: &Path) -> io::Result<Self> {
        fs::create_dir_all(dir)?;
        for entry in fs::read_dir(dir)? {
            let path = entry?.path();
            if path.extension().is_some_and(|extension| extension == "new") {
                fs::remove_file(&path)?;
            }
        }
        Ok(Self { dir: dir.to_owned(), pins: Mutex::default(), temporary: AtomicU64::new(0) })
    }

    /// Puts a body on disk, fsynced. Blocks.
    pub fn store(self: &Arc<Self>, content: &[u8]) -> io::Result<Pin> {
        let pin = self.pin(BodyHash::of(content));
        let path = self.path(pin.hash);
        if fs::metadata(&path).is_ok_and(|there| there.len() == content.len() as u64) {
            // Whoever wrote it may not have come to the folder's fsync yet.
            File::open(&self.dir)?.sync_all()?;
            return Ok(pin);
        }
        let number = self.temporary.fetch_add(1, Ordering::Relaxed);
        let temporary = self.dir.join(format!("{number}.new"));
        let written = write_synced(&temporary, content).and_then(|()| fs::rename(&temporary, &path));
        if let Err(error) = written {
            let _ = fs::remove_file(&temporary);
            return Err(error);
        }
        File::open(&self.dir)?.sync_all()?;
        Ok(pin)
    }

    /// Reads a body and checks it. Blocks.
    pub fn read(&self, hash: BodyHash) -> Result<Vec<u8>, BodyError> {
        match fs::read(self.path(hash)) {
            Ok(content) if BodyHash::of(&content) == hash => Ok(content),
            Ok(_) => Err(BodyError::Changed),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Err(BodyError::Missing),
            Err(error) => Err(error.into()),
        }
    }

    /// Unlinks a body that no record names, unless somebody is about to name it.
    pub fn forget(&self, hash: BodyHash) {
        self.forget_unless(hash, || false);
    }

    /// As [`Self::forget`], unless `named` says, at the last moment, that a record names it; whether it went.
    pub fn forget_unless(&self, hash: BodyHash, named: impl FnOnce() -> bool) -> bool {
        // Held while unlinking: who pins later finds the file gone and writes it again, and who pinned before has
        // either committed, which `named` sees, or is still there.
        let pins = self.pins();
        if pins.contains_key(&hash) || named() {
            return false;
        }
        match fs::remove_file(self.path(hash)) {
            Ok(()) => true,
            Err(error) if error.kind() == io::ErrorKind::NotFound => false,
            Err(error) => {
                tracing::warn!(%error, "cannot remove the file of a text that nothing names");
                false
            }
        }
    }

    /// The bodies in the folder.
    pub fn list(&self) -> io::Result<Vec<BodyHash>> {
        let mut found = Vec::new();
        for entry in fs::read_dir(&self.dir)? {
            found.extend(entry?.file_name().to_str().and_then(BodyHash::from_hex));
        }
        Ok(found)
    }

    fn pin(self: &Arc<Self>, hash: BodyHash) -> Pin {
        *self.pins().entry(hash).or_default() += 1;
        Pin { bodies: Arc::clone(self), hash }
    }

    fn pins(&self) -> std::sync::MutexGuard<'_, HashMap<BodyHash, usize>> {
        self.pins.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn path(&self, hash: BodyHash) -> PathBuf {
        self.dir.join(format!("{hash:?}"))
    }
}

fn write_synced(path: &Path, content: &[u8]) -> io::Result<()> {
    let mut file = File::create(path)?;
    file.write_all(content)?;
    file.sync_all()
}

impl BodyHash {
    /// The hash of a content.
    pub fn of(content: &[u8]) -> Self {
        Self(Sha256::digest(content).into())
    }

    fn from_hex(text: &str) -> Option<Self> {
        let mut hash = [0; 32];
        if text.len() != 64 || !text.is_ascii() {
            return None;
        }
        for (byte, digits) in hash.iter_mut().zip(text.as_bytes().chunks_exact(2)) {
            *byte = u8::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()?;
        }
        Some(Self(hash))
    }
}

/// As the file is named.
impl std::fmt::Debug for BodyHash {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pinned_body_stays_and_a_forgotten_one_goes() {
        let dir = tempfile::tempdir().unwrap();
        let bodies = Arc::new(Bodies::open(dir.path()).unwrap());
        let pin = bodies.store(b"long text").unwrap();
        let hash = pin.hash();
        bodies.forget(hash);
        assert_eq!(bodies.read(hash).unwrap(), b"long text");
        assert_eq!(bodies.list().unwrap(), [hash]);
        drop(pin);
        bodies.forget(hash);
        assert!(matches!(bodies.read(hash), Err(BodyError::Missing)));
    }

    #[test]
    fn a_changed_body_is_noticed_and_half_written_ones_are_dropped() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("0.new"), b"half").unwrap();
        let bodies = Arc::new(Bodies::open(dir.path()).unwrap());
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
        let pin = bodies.store(b"text").unwrap();
        fs::write(bodies.path(pin.hash()), b"tex!").unwrap();
        assert!(matches!(bodies.read(pin.hash()), Err(BodyError::Changed)));
    }
}
