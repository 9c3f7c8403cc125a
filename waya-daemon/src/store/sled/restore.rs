//! The way back from a damaged store: the newest whole snapshot, and from the damaged database whatever can be read.
//!
//! Nothing is thrown away: the damaged database is moved aside.

use std::fmt;
use std::fs::{self, File};
use std::io::{self, BufReader, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{CWD, RenameFlags};
use sled::IVec;

use super::bodies::Bodies;
use super::codec;
use super::counters::Counters;
use super::engine::{Broken, Engine, Write, caught};
use super::migrations::{SCHEMA, version_row};
use super::options::{Durability, OpenError, OpenOptions};
use super::rebuild;
use super::recovery::{self, Place};
use super::scrub;
use super::snapshot::{self, BODY_TAG, END_TAG, MAGIC};
use super::trees::{COUNTERS_KEY, SCHEMA_KEY, Tree};
use super::witness::Witness;

/// Cursors that may have been given out since the snapshot are never given out again.
const CURSOR_GAP: u64 = 1 << 20;
/// Rows of one transaction.
const CHUNK: usize = 1_000;
/// No frame is longer.
const MAX_FRAME: u32 = 1 << 30;

/// What was done to a store; in words for the user.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Repaired {
    /// Nothing: it opens.
    Sound,
    /// It was put together anew.
    Restored {
        /// From this snapshot; `None`: only from what could still be read.
        snapshot: Option<PathBuf>,
        /// Records taken from the damaged database.
        salvaged: u64,
        /// Where the damaged database was moved to.
        set_aside: PathBuf,
    },
}

impl fmt::Display for Repaired {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self::Restored { snapshot, salvaged, set_aside } = self else {
            return f.write_str("the store is sound; nothing was changed");
        };
        match snapshot {
            Some(path) => write!(f, "the store was restored from the snapshot {}", path.display())?,
            None => f.write_str("there was no snapshot; the store begins anew")?,
        }
        write!(
            f,
            ", {salvaged} records were taken from the damaged database, which now lies in {}; \
             remove that when nothing is missing",
            set_aside.display()
        )
    }
}

/// Makes a store that does not open usable again, with as much as can be had. Blocks.
///
/// A message that was sent after the snapshot may be pending again; it goes out under its old WhatsApp id, by which
/// the other side knows it.
///
/// # Errors
/// [`OpenError`] when it is not damaged but cannot be opened, or when what it needs cannot be written.
pub fn repair(options: &OpenOptions) -> Result<Repaired, OpenError> {
    let place = Place::new(options);
    let dir = &options.dir;
    let io = |cause| OpenError::Io { path: dir.clone(), cause };
    let witness = Witness::open(&dir.join("witness")).map_err(io)?;
    match recovery::open(&place, &witness) {
        Ok((engine, _)) => {
            drop(engine);
            return Ok(Repaired::Sound);
        }
        Err(OpenError::Damaged { .. }) => {}
        Err(error) => return Err(error),
    }
    let fresh = dir.join("db.restoring");
    let from = snapshot::list(&dir.join("snapshots")).into_iter().find_map(|path| match load(&path, dir, &fresh) {
        Ok((engine, counters)) => Some((Some(path), engine, counters)),
        Err(error) => {
            tracing::warn!(path = %path.display(), %error, "a snapshot cannot be restored; trying the one before");
            None
        }
    });
    let (snapshot, engine, mut counters) = match from {
        Some(found) => found,
        None => (None, empty(&fresh)?, Counters::default()),
    };
    let salvaged = salvage(&place.database(), &engine, &mut counters);
    finish(&engine, &mut counters, &options.dir, witness.commits())?;
    drop(engine);
    let set_aside = swap(dir, &fresh).map_err(io)?;
    fs::remove_file(dir.join("witness")).map_err(io)?;
    Ok(Repaired::Restored { snapshot, salvaged, set_aside })
}

fn empty(fresh: &Path) -> Result<Engine, OpenError> {
    if let Err(cause) = fs::remove_dir_all(fresh)
        && cause.kind() != io::ErrorKind::NotFound
    {
        return Err(OpenError::Io { path: fresh.to_owned(), cause });
    }
    Engine::open(fresh, 16 << 20, Durability::Full)
}

/// Reads a snapshot into a new database.
fn load(path: &Path, dir: &Path, fresh: &Path) -> Result<(Engine, Counters), OpenError> {
    let io = |cause| OpenError::Io { path: path.to_owned(), cause };
    let engine = empty(fresh)?;
    let bodies = Arc::new(Bodies::open(&dir.join("bodies")).map_err(io)?);
    let mut file = BufReader::with_capacity(1 << 18, File::open(path).map_err(io)?);
    let mut magic = [0; MAGIC.len()];
    file.read_exact(&mut magic).map_err(io)?;
    let broken = |what: &str| io(io::Error::new(io::ErrorKind::InvalidData, what));
    if magic != MAGIC {
        return Err(broken("this is no snapshot"));
    }
    let (mut counters, mut writes, mut frames) = (Counters::default(), Vec::new(), 0_u64);
    loop {
        let frame = frame(&mut file).map_err(io)?;
        match Tree::ALL.into_iter().find(|tree| *tree as u8 == frame.tag) {
            Some(Tree::Meta) if frame.key == COUNTERS_KEY => {
                counters = Counters::decode(&frame.value).map_err(|bad| broken(&bad.to_string()))?;
            }
            Some(Tree::Meta) if frame.key == SCHEMA_KEY => schema(&frame.value, path)?,
            Some(tree) => writes.push((tree, IVec::from(frame.key), Some(IVec::from(frame.value)))),
            None if frame.tag == BODY_TAG => drop(bodies.store(&frame.value).map_err(io)?),
            None if frame.tag == END_TAG && frame.value == frames.to_le_bytes() => break,
            None => return Err(broken("a frame makes no sense")),
        }
        frames += 1;
        if writes.len() == CHUNK {
            engine.commit(&std::mem::take(&mut writes))?;
        }
    }
    engine.commit(&writes)?;
    Ok((engine, counters))
}

struct Frame {
    tag: u8,
    key: Vec<u8>,
    value: Vec<u8>,
}

fn frame(file: &mut impl Read) -> io::Result<Frame> {
    let mut head = [0; 9];
    file.read_exact(&mut head)?;
    let length = |at: usize| u32::from_le_bytes([head[at], head[at + 1], head[at + 2], head[at + 3]]);
    let (key, value) = (length(1), length(5));
    if key > MAX_FRAME || value > MAX_FRAME {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "a frame is too long"));
    }
    let mut frame = Frame { tag: head[0], key: Vec::new(), value: Vec::new() };
    // Grows with what is there, so that a broken length takes no memory.
    file.take(u64::from(key)).read_to_end(&mut frame.key)?;
    file.take(u64::from(value)).read_to_end(&mut frame.value)?;
    let mut stored = [0; 4];
    file.read_exact(&mut stored)?;
    let mut crc = crc32fast::Hasher::new();
    for part in [&head[..], &frame.key, &frame.value] {
        crc.update(part);
    }
    if crc.finalize().to_le_bytes() == stored {
        Ok(frame)
    } else {
        Err(io::Error::new(io::ErrorKind::InvalidData, "a frame's checksum does not fit"))
    }
}

/// Snapshots of this schema only: there is no older one yet.
fn schema(record: &[u8], path: &Path) -> Result<(), OpenError> {
    let payload = codec::unseal_inline(SCHEMA_KEY, record).ok().and_then(|payload| payload.try_into().ok());
    match payload.map(u32::from_le_bytes) {
        Some(SCHEMA) => Ok(()),
        found => Err(OpenError::Newer { dir: path.to_owned(), found: found.unwrap_or_default(), known: SCHEMA }),
    }
}

/// Takes over what can be read of the damaged database. Where both know a row, the one that had come further wins.
fn salvage(damaged: &Path, engine: &Engine, counters: &mut Counters) -> u64 {
    let Ok(old) = Engine::open(damaged, 16 << 20, Durability::Full) else { return 0 };
    let mut taken = 0;
    let copied = caught(|| {
        let of_old = old.tree(Tree::Meta).get(COUNTERS_KEY)?.and_then(|record| Counters::decode(&record).ok());
        let old_is_ahead = of_old.is_some_and(|old| old.commits >= counters.commits);
        if let Some(old) = of_old {
            counters.commits = counters.commits.max(old.commits);
            counters.newest = counters.newest.max(old.newest);
            counters.last_id = counters.last_id.max(old.last_id);
        }
        for tree in Tree::RECORDS {
            taken += take_over(&old, engine, tree, old_is_ahead)?;
        }
        Ok::<(), Broken>(())
    });
    if let Err(Broken(why)) = copied.and_then(|copied| copied) {
        tracing::warn!(%why, "not everything could be read from the damaged database");
    }
    let _ = caught(|| drop(old));
    taken
}

fn take_over(old: &Engine, engine: &Engine, tree: Tree, old_is_ahead: bool) -> Result<u64, Broken> {
    let mut writes: Vec<Write> = Vec::new();
    let mut taken = 0;
    for row in old.tree(tree) {
        let (key, record) = row?;
        let there = engine.tree(tree).get(&key)?;
        let wanted = there.is_none_or(|there| old_is_ahead && there != record);
        if wanted && scrub::sound(tree, &key, &record) {
            writes.push((tree, key, Some(record)));
            taken += 1;
        }
        if writes.len() == CHUNK {
            engine.commit(&std::mem::take(&mut writes))?;
        }
    }
    engine.commit(&writes)?;
    Ok(taken)
}

/// Indexes, counts and the schema's version. The commits go on above all that any snapshot or witness saw.
fn finish(engine: &Engine, counters: &mut Counters, dir: &Path, witnessed: Option<u64>) -> Result<(), OpenError> {
    let seen = snapshot::newest(&dir.join("snapshots")).and_then(|path| snapshot::number(&path));
    counters.commits = counters.commits.max(seen.unwrap_or_default()).max(witnessed.unwrap_or_default()) + 1;
    rebuild::indexes(engine, counters)?;
    counters.newest.0 += CURSOR_GAP;
    let row = (Tree::Meta, IVec::from(COUNTERS_KEY), Some(counters.encode()));
    Ok(engine.commit(&[version_row(SCHEMA), row])?)
}

/// The new database takes the place of the damaged one, which is moved aside.
fn swap(dir: &Path, fresh: &Path) -> io::Result<PathBuf> {
    let database = dir.join("db");
    let free = (1..=u16::MAX).map(|n| dir.join(format!("db.damaged-{n}"))).find(|path| !path.exists());
    let set_aside = free.ok_or_else(|| io::Error::other("no name is free for the damaged database"))?;
    // At no moment is there none of the two in its place, where the file system can do that.
    if rustix::fs::renameat_with(CWD, fresh, CWD, &database, RenameFlags::EXCHANGE).is_ok() {
        fs::rename(fresh, &set_aside)?;
    } else {
        fs::rename(&database, &set_aside)?;
        fs::rename(fresh, &database)?;
    }
    File::open(dir)?.sync_all()?;
    Ok(set_aside)
}
