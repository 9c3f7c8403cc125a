//! Opening: schema, witness and counts are checked, and indexes that disagree with the records are built again.

use std::path::PathBuf;

use super::counters::Counters;
use super::engine::{Broken, Engine};
use super::migrations::{self, Found, SCHEMA};
use super::options::{Durability, OpenError, OpenOptions};
use super::rebuild;
use super::trees::{COUNTERS_KEY, Tree};
use super::witness::Witness;

/// Where the store lies and how it is opened.
#[derive(Debug, Clone)]
pub struct Place {
    dir: PathBuf,
    cache_capacity: u64,
    durability: Durability,
}

impl Place {
    /// As asked for.
    pub fn new(options: &OpenOptions) -> Self {
        Self { dir: options.dir.clone(), cache_capacity: options.cache_capacity, durability: options.durability }
    }

    /// sled's folder.
    pub fn database(&self) -> PathBuf {
        self.dir.join("db")
    }
}

/// Opens the database and makes sure that nothing is missing.
pub fn open(place: &Place, witness: &Witness) -> Result<(Engine, Counters), OpenError> {
    check(place, witness).map_err(|error| match error {
        OpenError::Damaged { what, .. } => OpenError::Damaged {
            dir: place.dir.clone(),
            what,
            snapshot: super::snapshot::newest(&place.dir.join("snapshots")),
        },
        OpenError::Newer { found, known, .. } => OpenError::Newer { dir: place.dir.clone(), found, known },
        io @ OpenError::Io { .. } => io,
    })
}

fn check(place: &Place, witness: &Witness) -> Result<(Engine, Counters), OpenError> {
    let engine = Engine::open(&place.database(), place.cache_capacity, place.durability)?;
    let witnessed = witness.commits().unwrap_or_default();
    let checked = super::engine::caught(|| schema(&engine, witnessed).and_then(|()| counted(&engine, witnessed)));
    let counters = checked.map_err(OpenError::from)??;
    if counters.commits > witnessed {
        let note = witness.note(counters.commits).and_then(|()| witness.sync());
        note.map_err(|cause| OpenError::Io { path: place.dir.join("witness"), cause })?;
    }
    Ok((engine, counters))
}

fn schema(engine: &Engine, witnessed: u64) -> Result<(), OpenError> {
    match migrations::found(engine)? {
        Found::None if witnessed > 0 => Err(damaged("it lost everything it held")),
        Found::None => {
            let counters = Counters { commits: 1, ..Counters::default() };
            let row = (Tree::Meta, sled::IVec::from(COUNTERS_KEY), Some(counters.encode()));
            Ok(engine.commit(&[migrations::version_row(SCHEMA), row])?)
        }
        Found::Unreadable => Err(damaged("its schema version cannot be read")),
        Found::Version(found) if found > SCHEMA => Err(OpenError::Newer { dir: PathBuf::new(), found, known: SCHEMA }),
        Found::Version(found) => Ok(migrations::migrate(engine, found)?),
    }
}

/// The counters, after they were compared with what is there.
fn counted(engine: &Engine, witnessed: u64) -> Result<Counters, OpenError> {
    let stored = engine.tree(Tree::Meta).get(COUNTERS_KEY)?;
    let stored = stored.ok_or_else(|| damaged("its counters are gone"))?;
    let mut counters = Counters::decode(&stored).map_err(|bad| damaged(&format!("its counters: {bad}")))?;
    if counters.commits < witnessed {
        let lost = witnessed - counters.commits;
        return Err(damaged(&format!("its newest {lost} commits are gone")));
    }
    for tree in Tree::RECORDS {
        let (found, counted) = (engine.tree(tree).len() as u64, *counters.rows_of(tree));
        if found < counted {
            return Err(damaged(&format!("{} of {counted} records of {} are gone", counted - found, tree.name())));
        }
    }
    let agrees = |tree: Tree| engine.tree(tree).len() as u64 == counters.rows[tree as usize];
    if !Tree::RECORDS.into_iter().chain(Tree::INDEXES).all(agrees) {
        tracing::warn!("the store's indexes disagree with its records; building them again");
        rebuild::indexes(engine, &mut counters)?;
    }
    Ok(counters)
}

fn damaged(what: &str) -> OpenError {
    OpenError::Damaged { dir: PathBuf::new(), what: what.to_owned(), snapshot: None }
}

impl From<Broken> for OpenError {
    fn from(Broken(what): Broken) -> Self {
        damaged(&what)
    }
}

impl From<sled::Error> for OpenError {
    fn from(error: sled::Error) -> Self {
        damaged(&error.to_string())
    }
}
