//! Tests of the sled engine beyond what every engine must do.

mod damage;
mod failures;
mod groups;
mod random;
mod reopen;

use std::path::Path;

use tempfile::TempDir;

use super::{Handle, OpenOptions, Opened, open};
use crate::store::Store;

/// An empty store and what keeps it.
fn fresh() -> (Store, (Handle, TempDir)) {
    let dir = tempfile::tempdir().unwrap();
    let Opened { store, handle } = open(options(dir.path())).unwrap();
    (store, (handle, dir))
}

fn options(dir: &Path) -> OpenOptions {
    OpenOptions { free_space_watermark: 0, ..OpenOptions::new(dir.join("store")) }
}

/// Waits until a condition holds, and fails after a long while.
async fn until(what: &str, mut condition: impl AsyncFnMut() -> bool) {
    let waited = async {
        while !condition().await {
            tokio::time::sleep(std::time::Duration::from_millis(2)).await;
        }
    };
    tokio::time::timeout(std::time::Duration::from_secs(20), waited).await.unwrap_or_else(|_| panic!("never: {what}"));
}

mod conformance {
    crate::conformance_suite!(crate::store::sled::tests::fresh);
}
