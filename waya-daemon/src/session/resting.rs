//! The states of the link that outlive the process, in one small file beside the session's keys.
//!
//! It lies there and not in the daemon's store because it speaks of those keys: it is right or wrong together with
//! them, also after the store was brought back from a snapshot. Read once at start, written by the supervisor, whole
//! or not at all. What it holds is of use only for the account it names; a file that cannot be read counts as none.

use std::fmt;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::data_dir::write_private;
use crate::model::{LinkState, Timestamp};

const FILE: &str = "link-state.json";

/// A state to come back to after a restart.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// Whose keys were there, in phone digits; `None` when there were none any more.
    pub account: Option<String>,
    /// Since when.
    pub since: Timestamp,
    /// The state.
    pub link: LinkState,
}

/// The file.
#[derive(Debug, Clone)]
pub struct RestingFile(PathBuf);

impl RestingFile {
    /// In the folder of the keys.
    #[must_use]
    pub fn new(folder: &Path) -> Self {
        Self(folder.join(FILE))
    }

    /// What was written last.
    #[must_use]
    pub fn load(&self) -> Option<Record> {
        let unreadable = |error: &dyn fmt::Display| {
            tracing::warn!(%error, path = %self.0.display(), "the last state of the link cannot be read; connecting");
        };
        match fs::read(&self.0) {
            Ok(bytes) => serde_json::from_slice(&bytes).inspect_err(|error| unreadable(error)).ok(),
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => {
                unreadable(&error);
                None
            }
        }
    }

    /// Replaces it, or with `None` removes it. Blocks until it is on disk.
    ///
    /// # Errors
    /// What the system says; then the file is as it was.
    pub fn save(&self, record: Option<&Record>) -> io::Result<()> {
        if let Some(record) = record {
            return write_private(&self.0, &serde_json::to_vec(record)?);
        }
        match fs::remove_file(&self.0) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(error) => Err(error),
            Ok(()) => self.0.parent().map_or(Ok(()), |folder| File::open(folder)?.sync_all()),
        }
    }
}

/// With the number masked, because debug output reaches logs.
impl fmt::Debug for Record {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Record").field("since", &self.since).field("link", &self.link).finish_non_exhaustive()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    fn banned() -> Record {
        let (since, until) = (Timestamp::from_millis(1000), Some(Timestamp::from_millis(2000)));
        Record { account: Some("6281200000001".to_owned()), since, link: LinkState::Banned { until } }
    }

    #[test]
    fn it_is_kept_for_the_owner_alone_and_removed() {
        let folder = tempfile::tempdir().unwrap();
        let file = RestingFile::new(folder.path());
        assert_eq!(file.load(), None);
        file.save(Some(&banned())).unwrap();
        assert_eq!(file.load(), Some(banned()));
        let logged_out = LinkState::LoggedOut { reason: "the device was unlinked from the phone".to_owned() };
        let next = Record { account: None, link: logged_out, ..banned() };
        file.save(Some(&next)).unwrap();
        assert_eq!(file.load(), Some(next));
        let names: Vec<_> = fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().path()).collect();
        assert_eq!(names.len(), 1, "{names:?}");
        assert_eq!(fs::metadata(&names[0]).unwrap().permissions().mode() & 0o777, 0o600);
        file.save(None).unwrap();
        file.save(None).unwrap();
        assert_eq!(file.load(), None);
    }

    #[test]
    fn what_cannot_be_read_counts_as_none() {
        let folder = tempfile::tempdir().unwrap();
        let file = RestingFile::new(folder.path());
        let whole = serde_json::to_vec(&banned()).unwrap();
        let unknown = br#"{"account":null,"since":1,"link":{"state":"asleep"}}"#;
        for damaged in [&whole[..whole.len() / 2], &unknown[..], b"", &[0xff, 0][..]] {
            fs::write(&file.0, damaged).unwrap();
            assert_eq!(file.load(), None);
        }
        fs::remove_file(&file.0).unwrap();
        fs::create_dir(&file.0).unwrap();
        assert_eq!(file.load(), None, "something else stands in its place");
    }
}
