//! What a group of operations wants written: each operation sees what the earlier ones of its group wrote, and one
//! that fails is undone alone.

use std::collections::HashMap;

use sled::IVec;

use super::bodies::{Bodies, BodyError, BodyHash, Pin};
use super::codec::{self, MAX_VALUE, Payload};
use super::counters::Counters;
use super::engine::{Engine, Write};
use super::trees::{COUNTERS_KEY, TREES, Tree, number, number_key};
use crate::store::StoreError;

/// The writes of a group that is being put together.
pub struct Group<'e> {
    engine: &'e Engine,
    bodies: &'e Bodies,
    writes: [HashMap<IVec, Option<IVec>>; TREES],
    undo: Vec<(Tree, IVec, Before)>,
    saved: Saved,
    /// Counters as they will be.
    pub counters: Counters,
    unnamed: Vec<BodyHash>,
    pins: Vec<Pin>,
    /// A read of the engine failed: nothing of this group may be believed.
    broken: Option<String>,
}

/// What the group said of a row before an operation wrote it.
enum Before {
    /// Nothing: the row was as committed.
    Untouched,
    /// It was to be written, or removed.
    Written(Option<IVec>),
}

/// What an operation that fails is put back to.
struct Saved {
    counters: Counters,
    unnamed: usize,
}

impl<'e> Group<'e> {
    /// An empty group on top of what is committed.
    pub fn new(engine: &'e Engine, bodies: &'e Bodies, counters: Counters) -> Self {
        Self {
            engine,
            bodies,
            writes: std::array::from_fn(|_| HashMap::new()),
            undo: Vec::new(),
            saved: Saved { counters, unnamed: 0 },
            counters,
            unnamed: Vec::new(),
            pins: Vec::new(),
            broken: None,
        }
    }

    /// A row as this operation sees it.
    pub fn get(&mut self, tree: Tree, key: &[u8]) -> Result<Option<IVec>, StoreError> {
        if let Some(written) = self.writes[tree as usize].get(key) {
            return Ok(written.clone());
        }
        self.engine.tree(tree).get(key).map_err(|error| {
            self.broken = Some(error.to_string());
            StoreError::Unavailable(error.to_string())
        })
    }

    /// All rows of a tree as this operation sees them. Slow: for what hardly ever happens.
    pub fn all(&mut self, tree: Tree) -> Result<Vec<(IVec, IVec)>, StoreError> {
        let mut rows = Vec::new();
        let written = &self.writes[tree as usize];
        for row in self.engine.tree(tree) {
            match row {
                Ok((key, _)) if written.contains_key(&key) => {}
                Ok(row) => rows.push(row),
                Err(error) => {
                    self.broken = Some(error.to_string());
                    return Err(StoreError::Unavailable(error.to_string()));
                }
            }
        }
        rows.extend(written.iter().filter_map(|(key, value)| Some((key.clone(), value.clone()?))));
        Ok(rows)
    }

    /// Adds a row that was not there.
    pub fn insert(&mut self, tree: Tree, key: IVec, value: IVec) -> Result<(), StoreError> {
        *self.counters.rows_of(tree) += 1;
        self.write(tree, key, Some(value))
    }

    /// Writes a row that was there.
    pub fn update(&mut self, tree: Tree, key: IVec, value: IVec) -> Result<(), StoreError> {
        self.write(tree, key, Some(value))
    }

    /// Removes a row that was there.
    pub fn remove(&mut self, tree: Tree, key: IVec) {
        let rows = self.counters.rows_of(tree);
        *rows = rows.saturating_sub(1);
        self.note(tree, key, None);
    }

    /// Counts one more, or so many more, records that name a body file, and holds on to it until that is on disk.
    pub fn name_body(&mut self, pin: Pin, times: u64) -> Result<(), StoreError> {
        let hash = pin.hash();
        self.pins.push(pin);
        let named = self.named(hash)?;
        let key = IVec::from(&hash.0);
        let value = number_key(named.unwrap_or_default() + times);
        if named.is_some() { self.update(Tree::Bodies, key, value) } else { self.insert(Tree::Bodies, key, value) }
    }

    /// Counts one record less that names a body file; the last one lets the file go, after the commit.
    pub fn unname_body(&mut self, hash: BodyHash) -> Result<(), StoreError> {
        let key = IVec::from(&hash.0);
        match self.named(hash)? {
            None => Ok(()),
            Some(0 | 1) => {
                self.remove(Tree::Bodies, key);
                self.unnamed.push(hash);
                Ok(())
            }
            Some(named) => self.update(Tree::Bodies, key, number_key(named - 1)),
        }
    }

    /// Lets go of the body file a record's payload lies in, if it does.
    pub fn unname_payload(&mut self, key: &[u8], record: &[u8]) -> Result<(), StoreError> {
        match codec::unseal(key, record) {
            Ok(Payload::Body(hash)) => self.unname_body(hash),
            Ok(Payload::Inline(_)) | Err(_) => Ok(()),
        }
    }

    /// The payload of a record, wherever it lies; `None` when it cannot be read.
    pub fn payload(&self, key: &[u8], record: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        match codec::unseal(key, record) {
            Ok(Payload::Inline(payload)) => Ok(Some(payload.to_vec())),
            Ok(Payload::Body(hash)) => match self.bodies.read(hash) {
                Ok(payload) => Ok(Some(payload)),
                Err(BodyError::Missing | BodyError::Changed) => Ok(None),
                Err(BodyError::Io(error)) => Err(StoreError::Unavailable(error.to_string())),
            },
            Err(_) => Ok(None),
        }
    }

    fn named(&mut self, hash: BodyHash) -> Result<Option<u64>, StoreError> {
        Ok(self.get(Tree::Bodies, &hash.0)?.and_then(|value| number(&value)))
    }

    fn write(&mut self, tree: Tree, key: IVec, value: Option<IVec>) -> Result<(), StoreError> {
        if let Some(long) = value.as_ref().filter(|value| value.len() > MAX_VALUE) {
            let reason = format!("a record of {} with {} bytes is too long for the store", tree.name(), long.len());
            return Err(StoreError::Damaged(reason));
        }
        self.note(tree, key, value);
        Ok(())
    }

    fn note(&mut self, tree: Tree, key: IVec, value: Option<IVec>) {
        let before = self.writes[tree as usize].insert(key.clone(), value);
        self.undo.push((tree, key, before.map_or(Before::Untouched, Before::Written)));
    }

    /// The next operation begins.
    pub fn begin(&mut self) {
        self.undo.clear();
        self.saved = Saved { counters: self.counters, unnamed: self.unnamed.len() };
    }

    /// The operation failed: what it wrote goes.
    pub fn undo(&mut self) {
        while let Some((tree, key, before)) = self.undo.pop() {
            let writes = &mut self.writes[tree as usize];
            match before {
                Before::Written(before) => writes.insert(key, before),
                Before::Untouched => writes.remove(&key),
            };
        }
        self.counters = self.saved.counters;
        self.unnamed.truncate(self.saved.unnamed);
    }

    /// How many rows wait to be written.
    pub fn len(&self) -> usize {
        self.writes.iter().map(HashMap::len).sum()
    }

    /// Why nothing of it may be believed.
    pub fn broken(&self) -> Option<&str> {
        self.broken.as_deref()
    }

    /// Nothing more comes: what to write, with the counters.
    pub fn finish(mut self) -> Finished {
        let mut writes: Vec<Write> = Vec::with_capacity(self.len() + 1);
        for (tree, rows) in Tree::ALL.into_iter().zip(&mut self.writes) {
            writes.extend(rows.drain().map(|(key, value)| (tree, key, value)));
        }
        if !writes.is_empty() {
            self.counters.commits += 1;
            writes.push((Tree::Meta, IVec::from(COUNTERS_KEY), Some(self.counters.encode())));
        }
        Finished { writes, counters: self.counters, unnamed: self.unnamed, _pins: self.pins }
    }
}

/// A whole group, ready to be written.
pub struct Finished {
    /// The rows.
    pub writes: Vec<Write>,
    /// The counters after it.
    pub counters: Counters,
    /// Body files that nothing names after it.
    pub unnamed: Vec<BodyHash>,
    _pins: Vec<Pin>,
}
