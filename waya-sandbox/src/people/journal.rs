//! The append-only file behind an inbox: one JSON record a line, written with one `write` each.
//!
//! Survives the end of the process at any moment (not a power cut: the sandbox is no place for
//! messages that matter). A last line without its end was never committed and is cut off.

use std::fs::{File, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::Path;

use serde::Serialize;
use serde::de::DeserializeOwned;

/// Why a journal could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum JournalError {
    /// The file system refused.
    #[error("cannot use the inbox journal: {0}")]
    Io(#[from] std::io::Error),
    /// A complete line is not one of our records.
    #[error("line {line} of the inbox journal is damaged ({source}): remove the data folder to start afresh")]
    Damaged {
        /// Counted from 1.
        line: usize,
        /// What the parser said.
        source: serde_json::Error,
    },
    /// A record could not be encoded.
    #[error("cannot encode an inbox record: {0}")]
    Encode(serde_json::Error),
}

/// An open journal, positioned at its end.
#[derive(Debug)]
pub struct Journal {
    file: File,
    /// Length of the file up to its last complete record.
    end: u64,
}

impl Journal {
    /// Opens or creates the file and reads what is in it, oldest first.
    pub fn open<R: DeserializeOwned>(path: &Path) -> Result<(Self, Vec<R>), JournalError> {
        let mut file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path)?;
        let mut text = Vec::new();
        file.read_to_end(&mut text)?;
        let complete = text.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
        let mut records = Vec::new();
        for (index, line) in text[..complete].split_inclusive(|byte| *byte == b'\n').enumerate() {
            let record =
                serde_json::from_slice(line).map_err(|source| JournalError::Damaged { line: index + 1, source })?;
            records.push(record);
        }
        let mut journal = Self { file, end: complete as u64 };
        journal.cut_back()?;
        Ok((journal, records))
    }

    /// Appends the records in one `write`: after `Ok` all of them are kept, after `Err` none.
    pub fn append<R: Serialize>(&mut self, records: &[R]) -> Result<(), JournalError> {
        let mut text = Vec::with_capacity(256 * records.len());
        for record in records {
            serde_json::to_writer(&mut text, record).map_err(JournalError::Encode)?;
            text.push(b'\n');
        }
        if let Err(error) = self.file.write_all(&text) {
            // A part may stand in the file now: without this the next record would be glued to it.
            self.cut_back()?;
            return Err(error.into());
        }
        self.end += text.len() as u64;
        Ok(())
    }

    fn cut_back(&mut self) -> Result<(), JournalError> {
        self.file.set_len(self.end)?;
        self.file.seek(SeekFrom::Start(self.end))?;
        Ok(())
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_torn_last_record_is_cut_off() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("inbox.log");
        let (mut journal, read) = Journal::open::<u32>(&path).unwrap();
        assert!(read.is_empty());
        journal.append(&[1_u32, 2]).unwrap();
        drop(journal);
        OpenOptions::new().append(true).open(&path).unwrap().write_all(b"33").unwrap();

        let (mut journal, read) = Journal::open::<u32>(&path).unwrap();
        assert_eq!(read, [1, 2]);
        journal.append(&[4_u32]).unwrap();
        drop(journal);
        assert_eq!(Journal::open::<u32>(&path).unwrap().1, [1, 2, 4]);
    }

    #[test]
    fn a_damaged_record_in_the_middle_is_told() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("inbox.log");
        std::fs::write(&path, "1\nx\n3\n").unwrap();
        let error = Journal::open::<u32>(&path).unwrap_err();
        assert!(error.to_string().starts_with("line 2 of the inbox journal"), "{error}");
    }
}
