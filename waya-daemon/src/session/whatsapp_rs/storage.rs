//! The session's keys on disk: the client library's SQLite store in `<data>/whatsapp.db`.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use whatsapp_rust::store::{SqliteStore, SqliteStoreConfig, Synchronous};
use whatsapp_rust::traits::Backend;

const FILE: &str = "whatsapp.db";
/// Where keys go that seem to be of no use any more; only the last ones are kept.
const SET_ASIDE: &str = "whatsapp.db.logged-out";
/// How every SQLite file begins.
const HEADER: &[u8] = b"SQLite format 3\0";
/// What SQLite keeps beside its file.
const COMPANIONS: [&str; 3] = ["", "-wal", "-shm"];

/// The key store could not be opened.
#[derive(Debug, thiserror::Error)]
#[error("the session's keys in {path} cannot be opened: {reason}")]
pub struct Unreadable {
    /// Which file.
    pub path: PathBuf,
    /// Why.
    pub reason: String,
}

/// The files of one account's keys.
#[derive(Debug, Clone)]
pub struct KeyFiles {
    folder: PathBuf,
}

impl KeyFiles {
    /// In the data folder.
    #[must_use]
    pub fn new(folder: &Path) -> Self {
        Self { folder: folder.to_owned() }
    }

    /// Opens them, or makes new ones that only the owner can read.
    ///
    /// Every commit reaches the disk: after a power cut, a counter of the encryption that went backwards would make
    /// the receivers drop messages as repeats.
    ///
    /// # Errors
    /// [`Unreadable`] with the reason.
    pub async fn open(&self) -> Result<Arc<dyn Backend>, Unreadable> {
        let path = self.folder.join(FILE);
        let unreadable = |reason: String| Unreadable { path: path.clone(), reason };
        // SQLite gives its companions the permissions of the file.
        let mut file = OpenOptions::new()
            .read(true)
            .append(true)
            .create(true)
            .mode(0o600)
            .open(&path)
            .map_err(|error| unreadable(error.to_string()))?;
        // SQLite's pool would try for half a minute.
        if !is_empty_or_sqlite(&mut file).map_err(|error| unreadable(error.to_string()))? {
            return Err(unreadable("it is no SQLite database".to_owned()));
        }
        let text = path.to_str().ok_or_else(|| unreadable("its path is not valid UTF-8".to_owned()))?;
        let config = SqliteStoreConfig { synchronous: Synchronous::Full, ..SqliteStoreConfig::default() };
        let store = SqliteStore::with_config(text, config).await.map_err(|error| unreadable(error.to_string()))?;
        Ok(Arc::new(store))
    }

    /// Removes the keys, those set aside too.
    ///
    /// # Errors
    /// When a file stays.
    pub fn delete(&self) -> io::Result<()> {
        each(|name| remove(&self.folder.join(name)))?;
        self.delete_set_aside()
    }

    /// Moves the keys out of the way; to use them again, move them back while the daemon is stopped.
    ///
    /// # Errors
    /// When a file stays.
    pub fn set_aside(&self) -> io::Result<()> {
        self.delete_set_aside()?;
        each(|name| {
            let aside = name.replacen(FILE, SET_ASIDE, 1);
            absent_is_fine(fs::rename(self.folder.join(name), self.folder.join(aside)))
        })
    }

    fn delete_set_aside(&self) -> io::Result<()> {
        each(|name| remove(&self.folder.join(name.replacen(FILE, SET_ASIDE, 1))))
    }
}

fn each(act: impl Fn(&str) -> io::Result<()>) -> io::Result<()> {
    COMPANIONS.iter().try_for_each(|companion| act(&format!("{FILE}{companion}")))
}

fn is_empty_or_sqlite(file: &mut File) -> io::Result<bool> {
    let mut start = Vec::new();
    file.take(HEADER.len() as u64).read_to_end(&mut start)?;
    Ok(start.is_empty() || start == HEADER)
}

fn remove(path: &Path) -> io::Result<()> {
    absent_is_fine(fs::remove_file(path))
}

fn absent_is_fine(result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn names(folder: &Path) -> Vec<String> {
        let mut names: Vec<_> =
            fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    #[tokio::test]
    async fn keys_are_private_can_be_set_aside_and_deleted() {
        let folder = tempfile::tempdir().unwrap();
        let keys = KeyFiles::new(folder.path());
        let backend = keys.open().await.unwrap();
        backend.create().await.unwrap();
        for name in names(folder.path()) {
            let mode = fs::metadata(folder.path().join(&name)).unwrap().permissions().mode();
            assert_eq!(mode & 0o777, 0o600, "{name}");
        }
        keys.set_aside().unwrap();
        assert!(names(folder.path()).iter().all(|name| name.starts_with(SET_ASIDE)));
        assert!(names(folder.path()).contains(&SET_ASIDE.to_owned()));

        keys.open().await.unwrap();
        keys.delete().unwrap();
        assert_eq!(names(folder.path()), Vec::<String>::new());
    }

    #[tokio::test]
    async fn what_is_no_database_says_so_and_is_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(FILE);
        fs::write(&path, "not a database at all, but something somebody may want to keep").unwrap();
        let error = KeyFiles::new(folder.path()).open().await.map(|_| ()).unwrap_err();
        assert!(error.to_string().contains(FILE), "{error}");
        assert!(fs::read_to_string(&path).unwrap().starts_with("not a database"));
    }
}
