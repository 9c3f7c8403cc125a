//! The schema's version and the way from older ones.

use sled::IVec;

use super::codec;
use super::engine::Engine;
use super::trees::{SCHEMA_KEY, Tree};

/// The schema this program writes.
pub const SCHEMA: u32 = 1;

/// The steps forward: the n-th leads from schema n + 1 to n + 2, within one transaction with the new version.
type Step = fn(&Engine) -> Result<Vec<super::engine::Write>, sled::Error>;
const STEPS: [Step; SCHEMA as usize - 1] = [];

/// What the store says of its schema.
#[derive(Debug, PartialEq, Eq)]
pub enum Found {
    /// Nothing: it is new, or lost everything.
    None,
    /// This one.
    Version(u32),
    /// Something that cannot be read.
    Unreadable,
}

/// Reads the schema's version.
pub fn found(engine: &Engine) -> Result<Found, sled::Error> {
    let Some(record) = engine.tree(Tree::Meta).get(SCHEMA_KEY)? else { return Ok(Found::None) };
    let version = codec::unseal_inline(SCHEMA_KEY, &record).ok().and_then(|payload| payload.try_into().ok());
    Ok(version.map_or(Found::Unreadable, |bytes| Found::Version(u32::from_le_bytes(bytes))))
}

/// The row that says which schema it is.
pub fn version_row(version: u32) -> super::engine::Write {
    (Tree::Meta, IVec::from(SCHEMA_KEY), Some(codec::seal(SCHEMA_KEY, &version.to_le_bytes())))
}

/// Takes the store from `version` to [`SCHEMA`], one transaction a step.
pub fn migrate(engine: &Engine, version: u32) -> Result<(), super::engine::Broken> {
    for (step, to) in STEPS.iter().zip(2..).skip(version.saturating_sub(1) as usize) {
        tracing::info!(schema = to, "migrating the store");
        let mut writes = step(engine)?;
        writes.push(version_row(to));
        engine.commit(&writes)?;
    }
    Ok(())
}
