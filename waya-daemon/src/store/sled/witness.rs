//! A small file beside the database that says how far it had come.
//!
//! A database file that was cut short opens as an older, consistent state, with older counts. The witness is written
//! after each commit's fsync, so it is never ahead of a healthy database, and a database behind it has lost something.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::Path;

const MAGIC: [u8; 8] = *b"WAYAWIT1";
const LENGTH: usize = 20;

/// The open file.
#[derive(Debug)]
pub struct Witness(File);

impl Witness {
    /// Opens it, makes it if need be.
    pub fn open(path: &Path) -> io::Result<Self> {
        OpenOptions::new().create(true).truncate(false).read(true).write(true).open(path).map(Self)
    }

    /// The commits it saw; `None` when it is new, or torn by a power cut.
    pub fn commits(&self) -> Option<u64> {
        let mut bytes = [0; LENGTH];
        self.0.read_exact_at(&mut bytes, 0).ok()?;
        let (content, crc) = bytes.split_at(LENGTH - 4);
        let commits = content.strip_prefix(&MAGIC)?.try_into().ok().map(u64::from_le_bytes)?;
        (crc32fast::hash(content).to_le_bytes() == crc).then_some(commits)
    }

    /// Notes how far the database has come. Not fsynced: an older witness is a weaker one, not a wrong one.
    pub fn note(&self, commits: u64) -> io::Result<()> {
        let mut bytes = [0; LENGTH];
        bytes[..8].copy_from_slice(&MAGIC);
        bytes[8..16].copy_from_slice(&commits.to_le_bytes());
        let crc = crc32fast::hash(&bytes[..16]);
        bytes[16..].copy_from_slice(&crc.to_le_bytes());
        self.0.write_all_at(&bytes, 0)
    }

    /// Puts it on disk.
    pub fn sync(&self) -> io::Result<()> {
        self.0.sync_all()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_torn_witness_says_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("witness");
        let witness = Witness::open(&path).unwrap();
        assert_eq!(witness.commits(), None);
        witness.note(42).unwrap();
        assert_eq!(Witness::open(&path).unwrap().commits(), Some(42));
        witness.0.write_all_at(&[9], 9).unwrap();
        assert_eq!(witness.commits(), None);
    }
}
