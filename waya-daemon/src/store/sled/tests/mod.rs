//! Tests of the sled engine beyond what every engine must do.

#![expect(clippy::unwrap_used, reason = "tests")]

use tempfile::TempDir;

use super::{Handle, OpenOptions, Opened, open};
use crate::store::Store;

/// An empty store and what keeps it.
fn fresh() -> (Store, (Handle, TempDir)) {
    let dir = tempfile::tempdir().unwrap();
    let Opened { store, handle } = open(options(dir.path())).unwrap();
    (store, (handle, dir))
}

fn options(dir: &std::path::Path) -> OpenOptions {
    OpenOptions { free_space_watermark: 0, ..OpenOptions::new(dir.join("store")) }
}

mod conformance {
    crate::conformance_suite!(crate::store::sled::tests::fresh);
}
