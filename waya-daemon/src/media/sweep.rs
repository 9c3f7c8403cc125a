//! Files that nobody needs any more go, and what is known of them with them.

use std::collections::HashSet;
use std::fs;
use std::io;
use std::path::Path;
use std::time::Duration;

use super::files::wall_time;
use crate::model::MediaHash;

/// No file goes that was used in the last hour, whatever the setting says: a request may be about to name it.
const YOUNG: Duration = Duration::from_hours(1);

/// Removes what is not in use and was not used for `keep`; how many files went. Blocks.
pub(super) fn run(dir: &Path, in_use: &HashSet<MediaHash>, keep: Duration) -> io::Result<usize> {
    let (now, keep) = (wall_time(), keep.max(YOUNG));
    let mut gone = 0;
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        let name = entry.file_name();
        let hash = name.to_str().and_then(|name| name.split('.').next()).and_then(|name| name.parse().ok());
        let Some(hash) = hash else { continue };
        let unused_for = entry.metadata()?.modified().map(|at| now.duration_since(at).unwrap_or_default())?;
        if in_use.contains(&hash) || unused_for <= keep {
            continue;
        }
        match fs::remove_file(entry.path()) {
            Ok(()) => gone += 1,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
    }
    Ok(gone)
}

#[cfg(test)]
mod tests {
    use std::fs::{File, FileTimes};

    use super::*;

    #[test]
    fn only_old_files_that_nobody_needs_go() {
        let dir = tempfile::tempdir().unwrap();
        let file = |byte: u8, end: &str, hours: u64| {
            let path = dir.path().join(format!("{}{end}", MediaHash([byte; 32])));
            let at = wall_time() - Duration::from_hours(hours);
            File::create(&path).unwrap().set_times(FileTimes::new().set_modified(at)).unwrap();
            path
        };
        let (old, needed, young, fresh) = (file(1, "", 50), file(2, "", 50), file(3, "", 5), file(4, "", 0));
        let known = file(1, ".image.0.sent", 50);
        let foreign = dir.path().join("readme");
        fs::write(&foreign, "x").unwrap();
        let in_use = HashSet::from([MediaHash([2; 32])]);
        assert_eq!(run(dir.path(), &in_use, Duration::from_hours(48)).unwrap(), 2);
        assert!(!old.exists() && !known.exists());
        assert!(needed.exists() && young.exists() && fresh.exists() && foreign.exists());
        assert_eq!(run(dir.path(), &in_use, Duration::ZERO).unwrap(), 1, "what is fresh stays whatever is set");
        assert!(fresh.exists() && !young.exists());
    }
}
