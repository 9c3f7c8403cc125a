//! Whole-store copies.

use std::path::{Path, PathBuf};

/// The newest snapshot in a folder.
pub fn newest(dir: &Path) -> Option<PathBuf> {
    let names = std::fs::read_dir(dir).ok()?.filter_map(|entry| entry.ok().map(|entry| entry.path()));
    names.filter(|path| path.extension().is_some_and(|extension| extension == "snapshot")).max()
}
