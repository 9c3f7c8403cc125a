//! Mending the store of a data folder that no daemon runs on.
//!
//! Woken by the user alone; it opens nothing else of the account.

use anyhow::{Context as _, Result, ensure};

use crate::config::Config;
use crate::data_dir::DataDir;
use crate::model::Kind;
use crate::store::sled::{self, OpenOptions, Repaired};

/// Mends the store under the folder's lock; what was done. Blocks.
///
/// # Errors
/// There is no store, a daemon runs on it, or it cannot be written.
pub fn run(config: &Config, kind: Kind) -> Result<Repaired> {
    let dir = config.data_dir.join("store");
    // Looked for first: taking the lock would make the folder.
    ensure!(dir.is_dir(), "there is no store at {}; is this the right --profile or --data-dir?", dir.display());
    let held = DataDir::open(&config.data_dir, kind)?;
    let options = OpenOptions { cache_capacity: config.store_cache, ..OpenOptions::new(dir) };
    let repaired = sled::repair(&options).context("cannot repair the store")?;
    drop(held);
    Ok(repaired)
}
