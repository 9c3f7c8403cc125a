//! The thread behind: one scrub after the start, then a snapshot whenever the newest is old enough.
//!
//! It wakes once an hour. Age is the file system's word: how much later the database was written than the snapshot.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, mpsc};
use std::time::Duration;

use super::options::Snapshots;
use super::scrub;
use super::shared::Shared;
use super::snapshot;

/// Between two looks at the age of the newest snapshot.
const LOOK: Duration = Duration::from_hours(1);
/// Between two pieces of work, so that others come first.
const BREATH: Duration = Duration::from_millis(2);

/// The thread's own things.
pub struct Keeper {
    /// The store.
    pub shared: Arc<Shared>,
    /// sled's file.
    pub database: PathBuf,
    /// Where snapshots go.
    pub snapshots: PathBuf,
    /// When they are taken.
    pub settings: Snapshots,
    /// Ends the thread when it is dropped at the other end.
    pub stop: mpsc::Receiver<()>,
}

impl Keeper {
    /// Until the store closes.
    pub fn run(self) {
        match scrub::run(&self.shared, &mut || self.wait(BREATH)) {
            Ok(scrubbed) if scrubbed.damaged > 0 => {
                tracing::error!(
                    records = scrubbed.records,
                    damaged = scrubbed.damaged,
                    "damaged records were set aside"
                );
            }
            Ok(scrubbed) => tracing::debug!(?scrubbed, "all records can be read"),
            Err(error) => tracing::warn!(%error, "the records could not all be checked"),
        }
        loop {
            // A store nothing was ever written to needs no copy.
            let is_used = self.shared.counters().commits > 1;
            if is_used && is_due(&self.database, &self.snapshots, self.settings.every) {
                self.snapshot();
            }
            if !self.wait(LOOK) {
                return;
            }
        }
    }

    fn snapshot(&self) {
        match snapshot::write(&self.shared, &self.snapshots, self.settings.keep, &mut || self.wait(BREATH)) {
            Ok(path) => tracing::info!(path = %path.display(), "wrote a snapshot of the store"),
            Err(snapshot::SnapshotError::Stopped) => {}
            Err(error) => tracing::warn!(%error, "wrote no snapshot of the store"),
        }
    }

    /// `false` when the store closes.
    fn wait(&self, time: Duration) -> bool {
        self.stop.recv_timeout(time) == Err(mpsc::RecvTimeoutError::Timeout)
    }
}

/// Whether the database was written so much later than the newest snapshot.
fn is_due(database: &Path, snapshots: &Path, every: Duration) -> bool {
    let modified = |path: &Path| fs::metadata(path).and_then(|metadata| metadata.modified()).ok();
    let Some(written) = modified(database) else { return false };
    let newest = snapshot::newest(snapshots).and_then(|path| modified(&path));
    newest.is_none_or(|newest| written.duration_since(newest).is_ok_and(|later| later >= every))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::SystemTime;

    #[test]
    fn a_snapshot_is_due_when_the_database_is_a_day_ahead() {
        let dir = tempfile::tempdir().unwrap();
        let (database, day) = (dir.path().join("db"), Duration::from_hours(24));
        assert!(!is_due(&database, dir.path(), day), "there is nothing to copy");
        let written = SystemTime::UNIX_EPOCH + day * 10;
        fs::File::create(&database).unwrap().set_modified(written).unwrap();
        assert!(is_due(&database, dir.path(), day));
        let copy = fs::File::create(dir.path().join("store-0000000000000007.snapshot")).unwrap();
        for (age, due) in [(day, true), (day / 2, false), (Duration::ZERO, false)] {
            copy.set_modified(written - age).unwrap();
            assert_eq!(is_due(&database, dir.path(), day), due);
        }
        copy.set_modified(written + day).unwrap();
        assert!(!is_due(&database, dir.path(), day), "nothing was written since");
    }
}
