//! The data folder: made private, held by one daemon at a time, and marked for one kind of WhatsApp for ever.

use std::fs::{self, DirBuilder, File, OpenOptions, Permissions, TryLockError};
use std::io::{Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use crate::model::Kind;

/// The folder cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum DataDirError {
    /// It cannot be made, read or written.
    #[error(
        "cannot use the data folder {path}: {cause}; check its owner and permissions, or give another with --data-dir"
    )]
    Io {
        /// The folder, or the file in it.
        path: PathBuf,
        /// What the system said.
        cause: std::io::Error,
    },
    /// Another daemon holds it.
    #[error("another daemon{} already runs on the data folder {path}; stop it, or use another --profile", .pid.map_or_else(String::new, |pid| format!(" (pid {pid})")))]
    InUse {
        /// The folder.
        path: PathBuf,
        /// The other daemon's process, if it wrote it down.
        pid: Option<u32>,
    },
    /// It belongs to the other binary.
    #[error("the data folder {path} belongs to a {found} account; start {} on it, or use another --data-dir", .binary)]
    OtherKind {
        /// The folder.
        path: PathBuf,
        /// What its marker says.
        found: String,
        /// The binary that goes with it.
        binary: &'static str,
    },
}

/// The folder, held until dropped.
#[derive(Debug)]
pub struct DataDir {
    path: PathBuf,
    lock: File,
}

impl DataDir {
    /// Makes the folder if need be, takes its lock and checks its marker.
    ///
    /// # Errors
    /// [`DataDirError`] says what to do.
    pub fn open(path: &Path, kind: Kind) -> Result<Self, DataDirError> {
        let io = |path: &Path| {
            let path = path.to_owned();
            move |cause| DataDirError::Io { path, cause }
        };
        DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(io(path))?;
        fs::set_permissions(path, Permissions::from_mode(0o700)).map_err(io(path))?;
        let lock = lock(path)?;
        mark(path, kind)?;
        Ok(Self { path: path.to_owned(), lock })
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for DataDir {
    /// Closing alone would leave the lock to a program just being started, which still has all our files open.
    fn drop(&mut self) {
        let _ = self.lock.unlock();
    }
}

/// The lock goes with the process, however it ends.
fn lock(dir: &Path) -> Result<File, DataDirError> {
    let path = dir.join("lock");
    let io = |cause| DataDirError::Io { path: path.clone(), cause };
    let mut file =
        OpenOptions::new().create(true).read(true).write(true).truncate(false).mode(0o600).open(&path).map_err(io)?;
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => {
            let mut text = String::new();
            let _ = file.read_to_string(&mut text);
            return Err(DataDirError::InUse { path: dir.to_owned(), pid: text.trim().parse().ok() });
        }
        Err(TryLockError::Error(cause)) => return Err(io(cause)),
    }
    file.set_len(0).and_then(|()| writeln!(file, "{}", std::process::id())).map_err(io)?;
    Ok(file)
}

/// The marker is written once; a folder never changes sides.
fn mark(dir: &Path, kind: Kind) -> Result<(), DataDirError> {
    let path = dir.join("kind");
    let io = |cause| DataDirError::Io { path: path.clone(), cause };
    match fs::read_to_string(&path) {
        Ok(found) if found.trim() == kind.as_str() => Ok(()),
        Ok(found) => {
            let found = found.trim().to_owned();
            let binary = if found == Kind::Sandbox.as_str() { Kind::Sandbox } else { Kind::Real }.binary();
            Err(DataDirError::OtherKind { path: dir.to_owned(), found, binary })
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            write_private(&path, kind.as_str().as_bytes()).map_err(io)
        }
        Err(error) => Err(io(error)),
    }
}

/// Writes a small file that only the owner may read, whole or not at all.
///
/// # Errors
/// What the system says.
pub fn write_private(path: &Path, bytes: &[u8]) -> std::io::Result<()> {
    let temporary = path.with_extension("new");
    let mut file = OpenOptions::new().create(true).write(true).truncate(true).mode(0o600).open(&temporary)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fs::rename(&temporary, path)?;
    if let Some(parent) = path.parent() {
        File::open(parent)?.sync_all()?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_daemon_at_a_time_and_one_kind_for_ever() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("a/b");
        let held = DataDir::open(&path, Kind::Real).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o700);
        let refused = DataDir::open(&path, Kind::Real).unwrap_err();
        assert!(
            matches!(refused, DataDirError::InUse { pid: Some(pid), .. } if pid == std::process::id()),
            "{refused}"
        );
        drop(held);
        let refused = DataDir::open(&path, Kind::Sandbox).unwrap_err().to_string();
        assert!(refused.contains("belongs to a real account; start waya-daemon"), "{refused}");
        DataDir::open(&path, Kind::Real).unwrap();
    }
}
