//! Whole-store copies: all records and long texts in one file, for the day the database's own file is broken.
//!
//! Written beside the running committer, row by row; indexes are left out and built again on the way back. The file
//! appears under its name only when it is whole and fsynced.
//!
//! ```text
//! "WAYASNP1"  then frames: tag u8 · key length u32 · value length u32 · key · value · CRC u32 of all that (LE)
//! tag: the tree's number, 254 a long text (key: its hash), 255 the end (value: how many frames came before)
//! ```

use std::fs::{self, File};
use std::io::{self, BufWriter, Write as _};
use std::path::{Path, PathBuf};
use std::sync::PoisonError;

use super::bodies::BodyHash;
use super::engine::Engine;
use super::shared::Shared;
use super::trees::{COUNTERS_KEY, SCHEMA_KEY, Tree};
use crate::store::StoreError;

/// How the file begins.
pub const MAGIC: [u8; 8] = *b"WAYASNP1";
/// The tag of a long text.
pub const BODY_TAG: u8 = 254;
/// The tag of the last frame.
pub const END_TAG: u8 = 255;

const EXTENSION: &str = "snapshot";
/// Rows read at a time; between them the writer can be told to stop.
const CHUNK: usize = 256;

/// No snapshot was written.
#[derive(Debug, thiserror::Error)]
pub enum SnapshotError {
    /// The system said no.
    #[error("cannot write a snapshot: {0}")]
    Io(#[from] io::Error),
    /// The store said no.
    #[error("cannot read what a snapshot needs: {0}")]
    Store(#[from] StoreError),
    /// The store is closing.
    #[error("the store is closing")]
    Stopped,
}

/// The snapshots of a folder, newest first. They are numbered by the commits they saw.
pub fn list(dir: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    let mut found: Vec<PathBuf> = entries.map(|entry| entry.path()).filter(|path| number(path).is_some()).collect();
    found.sort_by_key(|path| std::cmp::Reverse(number(path)));
    found
}

/// The newest snapshot of a folder.
pub fn newest(dir: &Path) -> Option<PathBuf> {
    list(dir).into_iter().next()
}

/// The commits a snapshot saw, by its name.
pub fn number(path: &Path) -> Option<u64> {
    path.extension().filter(|extension| *extension == EXTENSION)?;
    path.file_stem()?.to_str()?.strip_prefix("store-")?.parse().ok()
}

/// Writes a snapshot and removes all but the newest `keep`. `pause` is called now and then; `false` stops.
pub fn write(
    shared: &Shared,
    dir: &Path,
    keep: usize,
    pause: &mut dyn FnMut() -> bool,
) -> Result<PathBuf, SnapshotError> {
    // A second one would remove or write into the file of the first.
    let _one_at_a_time = shared.snapshot.lock().unwrap_or_else(PoisonError::into_inner);
    fs::create_dir_all(dir)?;
    remove_unfinished(dir)?;
    let path = dir.join(format!("store-{:016}.{EXTENSION}", shared.counters().commits));
    let temporary = path.with_extension("new");
    let written = File::create(&temporary).map_err(SnapshotError::from).and_then(|file| {
        let mut writer = Writer { file: BufWriter::with_capacity(1 << 18, file), frames: 0 };
        writer.file.write_all(&MAGIC)?;
        writer.store(shared, pause)?;
        writer.finish()
    });
    if let Err(error) = written {
        let _ = fs::remove_file(&temporary);
        return Err(error);
    }
    fs::rename(&temporary, &path)?;
    File::open(dir)?.sync_all()?;
    for old in list(dir).into_iter().skip(keep.max(1)) {
        fs::remove_file(old)?;
    }
    Ok(path)
}

/// What a kill in the middle left behind.
fn remove_unfinished(dir: &Path) -> std::io::Result<()> {
    for entry in fs::read_dir(dir)? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "new") {
            fs::remove_file(path)?;
        }
    }
    Ok(())
}

struct Writer {
    file: BufWriter<File>,
    frames: u64,
}

impl Writer {
    fn store(&mut self, shared: &Shared, pause: &mut dyn FnMut() -> bool) -> Result<(), SnapshotError> {
        for key in [SCHEMA_KEY, COUNTERS_KEY] {
            if let Some(value) = shared.read(|engine| Ok(engine.tree(Tree::Meta).get(key)?))? {
                self.frame(Tree::Meta as u8, key, &value)?;
            }
        }
        for tree in Tree::RECORDS {
            self.rows(shared, tree, pause)?;
        }
        let mut from = Vec::new();
        while let Some(hashes) = chunk(shared, Tree::Bodies, &mut from)? {
            for (hash, _) in hashes {
                let Ok(hash) = <[u8; 32]>::try_from(&*hash) else { continue };
                // One that went since belongs to a record that was pruned since.
                let Ok(content) = shared.bodies.read(BodyHash(hash)) else { continue };
                self.frame(BODY_TAG, &hash, &content)?;
                if !pause() {
                    return Err(SnapshotError::Stopped);
                }
            }
        }
        Ok(())
    }

    fn rows(&mut self, shared: &Shared, tree: Tree, pause: &mut dyn FnMut() -> bool) -> Result<(), SnapshotError> {
        let mut from = Vec::new();
        while let Some(rows) = chunk(shared, tree, &mut from)? {
            for (key, value) in rows {
                self.frame(tree as u8, &key, &value)?;
            }
            if !pause() {
                return Err(SnapshotError::Stopped);
            }
        }
        Ok(())
    }

    fn frame(&mut self, tag: u8, key: &[u8], value: &[u8]) -> io::Result<()> {
        let mut crc = crc32fast::Hasher::new();
        let lengths = (key.len() as u32, value.len() as u32);
        for part in [&[tag][..], &lengths.0.to_le_bytes(), &lengths.1.to_le_bytes(), key, value] {
            crc.update(part);
            self.file.write_all(part)?;
        }
        self.frames += 1;
        self.file.write_all(&crc.finalize().to_le_bytes())
    }

    fn finish(mut self) -> Result<(), SnapshotError> {
        let frames = self.frames.to_le_bytes();
        self.frame(END_TAG, b"", &frames)?;
        let file = self.file.into_inner().map_err(io::IntoInnerError::into_error)?;
        Ok(file.sync_all()?)
    }
}

/// The rows from `from` on, which moves behind them; `None` at the end.
pub fn chunk(
    shared: &Shared,
    tree: Tree,
    from: &mut Vec<u8>,
) -> Result<Option<Vec<(sled::IVec, sled::IVec)>>, StoreError> {
    let read =
        |engine: &Engine| Ok(engine.tree(tree).range(from.clone()..).take(CHUNK).collect::<Result<Vec<_>, _>>()?);
    let rows = shared.read(read)?;
    let Some((last, _)) = rows.last() else { return Ok(None) };
    *from = last.to_vec();
    // The least key behind it.
    from.push(0);
    Ok(Some(rows))
}
