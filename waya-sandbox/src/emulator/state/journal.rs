//! The append-only file behind the state.
//!
//! A record is `length (4, LE) | crc32 of the body (4, LE) | body` and goes out in one `write`, so
//! a killed process leaves whole records and at most one torn tail, which opening cuts off. Where whole
//! records follow what cannot be read, the file was damaged by something else: it is refused as it is. The
//! file is rewritten to what still counts when it is opened and when it has grown well past that.
//! It never waits for the disk: it outlives a killed process, not a power cut.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use prost::Message;

use super::record::Record;
use crate::emulator::config::EmulatorError;

const HEADER: usize = 8;
/// The journal holds private keys.
const OWNER_ONLY: u32 = 0o600;
/// A journal smaller than this is never rewritten while it is in use.
const REWRITE_FLOOR: u64 = 64 * 1024 * 1024;

/// The open journal.
#[derive(Debug)]
pub(crate) struct Journal {
    path: PathBuf,
    file: File,
    length: u64,
    /// Length right after the last rewrite.
    compact_length: u64,
    /// Up to this length it is not rewritten while it is in use.
    floor: u64,
    _lock: File,
}

impl Journal {
    /// Opens or makes the journal of `folder` and hands out what it holds.
    pub(crate) fn open(folder: &Path) -> Result<(Self, Vec<Record>), EmulatorError> {
        let lock = lock(folder)?;
        let path = folder.join("journal");
        let failed = |source| EmulatorError::Data { path: path.clone(), source };
        let mut file =
            OpenOptions::new().mode(OWNER_ONLY).read(true).append(true).create(true).open(&path).map_err(failed)?;
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes).map_err(failed)?;
        let (records, good) = read_records(&bytes);
        if let Some(next) = whole_record_behind(&bytes, good) {
            return Err(EmulatorError::Damaged { path, at: good, next });
        }
        if good < bytes.len() {
            tracing::warn!(kept = good, cut = bytes.len() - good, "cut a torn record off the journal");
            file.set_len(good as u64).map_err(failed)?;
        }
        let length = good as u64;
        Ok((Self { path, file, length, compact_length: length, floor: REWRITE_FLOOR, _lock: lock }, records))
    }

    /// Appends one record; when this returns it outlives the process.
    pub(crate) fn append(&mut self, record: &Record) -> std::io::Result<()> {
        let frame = frame(record);
        if let Err(error) = self.file.write_all(&frame) {
            // Half a record would hide everything behind it.
            self.file.set_len(self.length)?;
            return Err(error);
        }
        self.length += frame.len() as u64;
        Ok(())
    }

    /// Whether most of the file no longer counts.
    pub(crate) fn is_bloated(&self) -> bool {
        self.length > self.floor && self.length > self.compact_length.saturating_mul(4)
    }

    /// Rewrites it from this length on already.
    #[cfg(test)]
    pub(super) fn set_floor(&mut self, floor: u64) {
        self.floor = floor;
    }

    #[cfg(test)]
    pub(super) fn length(&self) -> u64 {
        self.length
    }

    /// Replaces the whole content; a kill in between leaves the old file.
    pub(crate) fn rewrite(&mut self, records: impl Iterator<Item = Record>) -> std::io::Result<()> {
        let fresh_path = self.path.with_extension("new");
        let mut fresh =
            OpenOptions::new().mode(OWNER_ONLY).create(true).write(true).truncate(true).open(&fresh_path)?;
        let mut length = 0;
        let mut buffer = Vec::new();
        for record in records {
            buffer.extend_from_slice(&frame(&record));
            if buffer.len() > 1 << 20 {
                fresh.write_all(&buffer)?;
                length += buffer.len() as u64;
                buffer.clear();
            }
        }
        fresh.write_all(&buffer)?;
        length += buffer.len() as u64;
        std::fs::rename(&fresh_path, &self.path)?;
        self.file = OpenOptions::new().append(true).open(&self.path)?;
        self.length = length;
        self.compact_length = length;
        Ok(())
    }
}

fn lock(folder: &Path) -> Result<File, EmulatorError> {
    let path = folder.join("lock");
    let failed = |source| EmulatorError::Data { path: path.clone(), source };
    std::fs::create_dir_all(folder).map_err(|source| EmulatorError::Data { path: folder.to_owned(), source })?;
    let file = OpenOptions::new().create(true).append(true).open(&path).map_err(failed)?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(EmulatorError::InUse(folder.to_owned())),
        Err(TryLockError::Error(source)) => Err(failed(source)),
    }
}

fn frame(record: &Record) -> Vec<u8> {
    let length = record.encoded_len();
    let mut frame = Vec::with_capacity(HEADER + length);
    frame.extend_from_slice(&(length as u32).to_le_bytes());
    frame.extend_from_slice(&[0; 4]);
    // Encoding into a growing buffer cannot run out of room.
    let _ = record.encode(&mut frame);
    let crc = crc32fast::hash(&frame[HEADER..]);
    frame[4..HEADER].copy_from_slice(&crc.to_le_bytes());
    frame
}

/// All whole records from the start, and how many bytes they take.
fn read_records(bytes: &[u8]) -> (Vec<Record>, usize) {
    let mut records = Vec::new();
    let mut at = 0;
    while let Some((record, length)) = read_record(&bytes[at..]) {
        records.push(record);
        at += length;
    }
    (records, at)
}

/// Where a whole record begins behind the place where reading stopped; a torn tail holds none.
fn whole_record_behind(bytes: &[u8], stopped: usize) -> Option<usize> {
    let tail = bytes.get(stopped..)?;
    let found = (1..tail.len()).find(|at| read_record(&tail[*at..]).is_some_and(|(_, length)| length > HEADER));
    found.map(|at| stopped + at)
}

fn read_record(bytes: &[u8]) -> Option<(Record, usize)> {
    let length = u32::from_le_bytes(bytes.get(..4)?.try_into().ok()?) as usize;
    let crc = u32::from_le_bytes(bytes.get(4..HEADER)?.try_into().ok()?);
    let body = bytes.get(HEADER..HEADER.checked_add(length)?)?;
    if crc32fast::hash(body) != crc {
        return None;
    }
    Some((Record::decode(body).ok()?, HEADER + length))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::emulator::state::record::{Change, GroupRecord};

    fn group(id: &str) -> Record {
        Change::Group(GroupRecord { id: id.into(), subject: "Team".into(), ..Default::default() }).into()
    }

    #[test]
    fn a_torn_tail_is_cut_wherever_it_was_torn() {
        let whole = [frame(&group("one")), frame(&group("two"))].concat();
        let first = frame(&group("one")).len();
        for cut in first..whole.len() {
            let folder = tempfile::tempdir().unwrap();
            std::fs::write(folder.path().join("journal"), &whole[..cut]).unwrap();
            let (mut journal, records) = Journal::open(folder.path()).unwrap();
            assert_eq!(records, vec![group("one")]);
            journal.append(&group("three")).unwrap();
            drop(journal);
            let (_, records) = Journal::open(folder.path()).unwrap();
            assert_eq!(records, vec![group("one"), group("three")], "cut at {cut}");
        }
    }

    #[test]
    fn damage_in_the_middle_is_refused_and_nothing_is_cut() {
        let names = ["one", "two", "three"].map(group);
        let whole = names.each_ref().map(frame).concat();
        let first = frame(&names[0]).len();
        let second = first + frame(&names[1]).len();
        for at in 0..second {
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join("journal");
            let mut damaged = whole.clone();
            damaged[at] ^= 0x10;
            std::fs::write(&path, &damaged).unwrap();
            match Journal::open(folder.path()) {
                Err(error @ EmulatorError::Damaged { .. }) => assert!(error.to_string().contains("journal"), "{error}"),
                other => panic!("damage at {at}: {other:?}"),
            }
            assert_eq!(std::fs::read(&path).unwrap(), damaged);
        }
        // The last record alone may be torn.
        let folder = tempfile::tempdir().unwrap();
        let mut damaged = whole;
        damaged[second + HEADER] ^= 0x10;
        std::fs::write(folder.path().join("journal"), &damaged).unwrap();
        assert_eq!(Journal::open(folder.path()).unwrap().1, names[..2]);
    }

    #[test]
    fn rewriting_keeps_what_it_is_given_and_appends_after_it() {
        let folder = tempfile::tempdir().unwrap();
        let (mut journal, _) = Journal::open(folder.path()).unwrap();
        journal.append(&group("gone")).unwrap();
        journal.rewrite(vec![group("kept")].into_iter()).unwrap();
        journal.append(&group("later")).unwrap();
        drop(journal);
        let (_, records) = Journal::open(folder.path()).unwrap();
        assert_eq!(records, vec![group("kept"), group("later")]);
    }

    #[test]
    fn a_second_emulator_on_the_same_folder_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let held = Journal::open(folder.path()).unwrap();
        assert!(matches!(Journal::open(folder.path()), Err(EmulatorError::InUse(_))));
        drop(held);
        assert!(Journal::open(folder.path()).is_ok());
    }
}
