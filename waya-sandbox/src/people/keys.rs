//! Where a person's client keeps its keys and sessions: a SQLite file, or memory.
//!
//! The same store serves one client after the other, so that going offline and coming back is the
//! same linked device. Only a device that was unlinked by its phone starts with a new one.

use std::path::PathBuf;
use std::sync::Arc;

use whatsapp_rust::store::error::StoreError;
use whatsapp_rust::store::{Backend, SqliteStore, SqliteStoreConfig};
use whatsapp_rust::wacore::store::in_memory::InMemoryBackend;

/// The key store of one person.
pub(super) struct Keys {
    path: Option<PathBuf>,
    store: Option<Arc<dyn Backend>>,
}

impl Keys {
    /// Keys in the SQLite file `path`, or in memory without one. Nothing is opened yet.
    pub(super) fn new(path: Option<PathBuf>) -> Self {
        Self { path, store: None }
    }

    /// The store, opened at the first call.
    pub(super) async fn store(&mut self) -> Result<Arc<dyn Backend>, StoreError> {
        if let Some(store) = &self.store {
            return Ok(store.clone());
        }
        let store: Arc<dyn Backend> = match &self.path {
            None => Arc::new(InMemoryBackend::new()),
            Some(path) => {
                let address = path.to_string_lossy();
                Arc::new(SqliteStore::with_config(&address, SqliteStoreConfig::default()).await?)
            }
        };
        self.store = Some(store.clone());
        Ok(store)
    }

    /// Forgets the linked device: the next store starts empty.
    pub(super) fn forget(&mut self) {
        self.store = None;
        let Some(path) = &self.path else { return };
        for suffix in ["", "-wal", "-shm"] {
            let mut file = path.clone().into_os_string();
            file.push(suffix);
            if let Err(error) = std::fs::remove_file(&file)
                && error.kind() != std::io::ErrorKind::NotFound
            {
                tracing::warn!(%error, "cannot remove the keys of an unlinked person");
            }
        }
    }
}
