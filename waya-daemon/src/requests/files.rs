//! The log's files: one row a line, a new file every few hundred rows, the oldest removed when none of its rows counts.
//!
//! Nothing is fsynced: a row is worth less than an accepted message. What a crash tore is read over.

use std::collections::{BTreeSet, VecDeque};
use std::fs::{self, File, OpenOptions};
use std::io::{self, BufRead as _, BufReader, Read as _, Seek as _, SeekFrom, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use serde::{Deserialize, Serialize};

use super::row::{Marks, Passed, Row, Summary};

/// So many rows are kept.
pub(super) const KEPT: usize = 1_000;
/// Rows of one file.
const ROWS: usize = 250;
/// No line is longer, in bytes: two bodies, all headers, and the marks of the largest request.
const MAX_LINE: u64 = 1 << 20;

/// A row on disk.
#[derive(Serialize, Deserialize)]
struct Line {
    row: Row,
    marks: Option<Marks>,
}

/// Where a row lies.
#[derive(Debug, Clone, Copy)]
pub(super) struct Place {
    file: u64,
    offset: u64,
    length: u64,
}

/// A row without its bodies.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) summary: Summary,
    pub(super) marks: Option<Marks>,
    pub(super) place: Place,
}

/// All rows that count, oldest first.
pub(super) type Index = Arc<Mutex<VecDeque<Entry>>>;

/// The files, for the one who writes them.
#[derive(Debug)]
pub(super) struct Files {
    dir: PathBuf,
    index: Index,
    /// The files that are there.
    numbers: BTreeSet<u64>,
    /// The one that is written to, with the rows and bytes in it.
    current: Option<(File, u64, usize, u64)>,
    /// The id of the next row.
    next: u64,
}

impl Files {
    /// Reads what is there.
    pub(super) fn open(dir: PathBuf, index: Index) -> io::Result<Self> {
        fs::DirBuilder::new().recursive(true).mode(0o700).create(&dir)?;
        let mut files = Self { dir, index, numbers: BTreeSet::new(), current: None, next: 1 };
        for entry in fs::read_dir(&files.dir)? {
            let name = entry?.file_name();
            let number: Option<u64> =
                name.to_str().and_then(|name| name.strip_suffix(".jsonl")).and_then(|name| name.parse().ok());
            files.numbers.extend(number);
        }
        for number in files.numbers.clone() {
            files.read(number)?;
        }
        files.trim()?;
        Ok(files)
    }

    fn read(&mut self, number: u64) -> io::Result<()> {
        let mut reader = BufReader::new(File::open(path(&self.dir, number))?);
        let (mut offset, mut line) = (0, Vec::new());
        let mut index = self.index.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            line.clear();
            let length = reader.by_ref().take(MAX_LINE).read_until(b'\n', &mut line)? as u64;
            if length == 0 {
                return Ok(());
            }
            // Torn, or of another version: as if it had never been.
            if let Ok(Line { row, marks }) = serde_json::from_slice(&line) {
                let id: u64 = row.summary.id.parse().unwrap_or_default();
                self.next = self.next.max(id + 1);
                index.push_back(Entry { summary: row.summary, marks, place: Place { file: number, offset, length } });
            }
            offset += length;
        }
    }

    /// Writes rows down; they are there for readers afterwards.
    pub(super) fn append(&mut self, rows: impl IntoIterator<Item = Box<Passed>>) -> io::Result<()> {
        let mut rows = rows.into_iter().peekable();
        while rows.peek().is_some() {
            let (mut bytes, mut entries) = (Vec::new(), Vec::new());
            let (number, count, start) = self.current()?;
            for passed in rows.by_ref().take(ROWS - count) {
                let (row, marks) = passed.row(self.next.to_string());
                let line = Line { row, marks };
                let offset = start + bytes.len() as u64;
                serde_json::to_writer(&mut bytes, &line)?;
                bytes.push(b'\n');
                let length = start + bytes.len() as u64 - offset;
                let place = Place { file: number, offset, length };
                entries.push(Entry { summary: line.row.summary, marks: line.marks, place });
                self.next += 1;
            }
            self.write(&bytes, entries.len())?;
            self.index.lock().unwrap_or_else(PoisonError::into_inner).extend(entries);
            self.trim()?;
        }
        Ok(())
    }

    /// The file with room in it: its number, and the rows and bytes in it.
    fn current(&mut self) -> io::Result<(u64, usize, u64)> {
        if let Some((_, number, rows, bytes)) = &self.current
            && *rows < ROWS
        {
            return Ok((*number, *rows, *bytes));
        }
        let number = self.numbers.last().map_or(1, |last| last + 1);
        let file = OpenOptions::new().append(true).create_new(true).mode(0o600).open(path(&self.dir, number))?;
        self.numbers.insert(number);
        self.current = Some((file, number, 0, 0));
        Ok((number, 0, 0))
    }

    fn write(&mut self, bytes: &[u8], count: usize) -> io::Result<()> {
        let Some((file, _, rows, size)) = &mut self.current else { return Ok(()) };
        if let Err(error) = file.write_all(bytes) {
            // Half a line may be there: the next one begins in a file of its own.
            self.current = None;
            return Err(error);
        }
        *rows += count;
        *size += bytes.len() as u64;
        Ok(())
    }

    /// Forgets the oldest rows, and the files that only they were in.
    fn trim(&mut self) -> io::Result<()> {
        let oldest = {
            let mut index = self.index.lock().unwrap_or_else(PoisonError::into_inner);
            let excess = index.len().saturating_sub(KEPT);
            index.drain(..excess);
            index.front().map(|entry| entry.place.file)
        };
        let current = self.current.as_ref().map(|(_, number, ..)| *number);
        let counts = |number: &u64| oldest.is_some_and(|oldest| *number >= oldest) || Some(*number) == current;
        for number in self.numbers.iter().copied().filter(|number| !counts(number)).collect::<Vec<_>>() {
            fs::remove_file(path(&self.dir, number))?;
            self.numbers.remove(&number);
        }
        Ok(())
    }

    /// Forgets all rows; how many there were.
    pub(super) fn clear(&mut self) -> io::Result<usize> {
        self.current = None;
        let count = std::mem::take(&mut *self.index.lock().unwrap_or_else(PoisonError::into_inner)).len();
        self.trim()?;
        Ok(count)
    }
}

fn path(dir: &Path, number: u64) -> PathBuf {
    dir.join(format!("{number:08}.jsonl"))
}

/// The row at this place; none when it was removed meanwhile.
pub(super) fn row(dir: &Path, place: Place) -> io::Result<Option<Row>> {
    let mut file = match File::open(path(dir, place.file)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        file => file?,
    };
    file.seek(SeekFrom::Start(place.offset))?;
    let mut line = Vec::new();
    file.take(place.length).read_to_end(&mut line)?;
    Ok(serde_json::from_slice::<Line>(&line).ok().map(|line| line.row))
}
