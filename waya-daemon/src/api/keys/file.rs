//! The file that tells the first key, and a rotation of it that a crash cannot leave half done.

use std::io::{self, Write as _};
use std::path::Path;

use sha2::{Digest as _, Sha256};

/// Where the key is told, in the data folder.
const FILE: &str = "api-key";
/// A key on its way into [`FILE`]: it counts once its hash is stored.
const NEXT_FILE: &str = "api-key.new";

/// Writes the key down; nobody reads it there before [`publish_next`].
pub(super) fn write_next(dir: &Path, key: &str) -> io::Result<()> {
    use std::os::unix::fs::OpenOptionsExt as _;
    let path = dir.join(NEXT_FILE);
    match std::fs::remove_file(&path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    file.write_all(format!("{key}\n").as_bytes())?;
    file.sync_all()
}

/// The key that was written down takes its place.
pub(super) fn publish_next(dir: &Path) -> io::Result<()> {
    std::fs::rename(dir.join(NEXT_FILE), dir.join(FILE))?;
    std::fs::File::open(dir)?.sync_all()
}

/// The key of a rotation that was cut short counts if its hash was stored; else it never did.
pub(super) fn finish_rotation(dir: &Path, hash: &[u8; 32]) -> io::Result<()> {
    let next = match std::fs::read_to_string(dir.join(NEXT_FILE)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        next => next?,
    };
    if Sha256::digest(next.trim_end()).as_slice() == hash {
        publish_next(dir)
    } else {
        std::fs::remove_file(dir.join(NEXT_FILE))
    }
}
