//! The API key: made at the first start, kept hashed, written once where only the owner can read it.

use std::fmt;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};

use rand::TryRngCore as _;
use sha2::{Digest as _, Sha256};
use subtle::ConstantTimeEq as _;

use super::ApiError;
use crate::store::{KeyValues, StoreError};

const NAMESPACE: &str = "secrets";
const NAME: &str = "api_key_sha256";
/// Where the key is told, in the data folder.
const FILE: &str = "api-key";
/// A key on its way into [`FILE`]: it counts once its hash is stored.
const NEXT_FILE: &str = "api-key.new";

/// A cheap handle to the one API key.
#[derive(Clone)]
pub struct ApiKeys(Arc<Inner>);

struct Inner {
    values: Arc<dyn KeyValues>,
    data_dir: PathBuf,
    hash: RwLock<[u8; 32]>,
    /// One rotation at a time.
    rotation: tokio::sync::Mutex<()>,
}

/// Takes the stored key over, or makes one at the first start. A rotation that was cut short is finished or undone:
/// the stored hash decides.
///
/// # Errors
/// The store, or the folder cannot be written.
pub async fn ensure_key(values: Arc<dyn KeyValues>, data_dir: &Path) -> Result<ApiKeys, ApiError> {
    let stored = values.get(NAMESPACE, NAME).await?.and_then(|bytes| <[u8; 32]>::try_from(bytes).ok());
    let keys = ApiKeys(Arc::new(Inner {
        values,
        data_dir: data_dir.to_owned(),
        hash: RwLock::new(stored.unwrap_or_default()),
        rotation: tokio::sync::Mutex::new(()),
    }));
    match stored {
        Some(hash) => finish_rotation(data_dir, &hash).map_err(ApiError::KeyFile)?,
        None => {
            keys.rotate().await?;
        }
    }
    Ok(keys)
}

impl ApiKeys {
    /// Whether this is the key; takes the same time wherever it differs.
    #[must_use]
    pub fn check(&self, presented: &[u8]) -> bool {
        let hash = *self.0.hash.read().unwrap_or_else(PoisonError::into_inner);
        Sha256::digest(presented).ct_eq(&hash).into()
    }

    /// Makes a new key, writes it down and tells it; the old one stops working at once.
    ///
    /// # Errors
    /// The store, or the folder cannot be written; the old key works on then. When only the last step fails, the new one
    /// holds and the next start writes it down.
    pub async fn rotate(&self) -> Result<String, ApiError> {
        let keys = self.clone();
        // To its end, also when the caller goes away: the key on disk is the one that opens.
        let rotated = tokio::spawn(async move { keys.rotate_to_the_end().await });
        rotated.await.unwrap_or_else(|error| Err(StoreError::Unavailable(error.to_string()).into()))
    }

    async fn rotate_to_the_end(&self) -> Result<String, ApiError> {
        let _alone = self.0.rotation.lock().await;
        let key = random_key().map_err(ApiError::KeyFile)?;
        let hash: [u8; 32] = Sha256::digest(&key).into();
        write_next(&self.0.data_dir, &key).map_err(ApiError::KeyFile)?;
        self.0.values.put(NAMESPACE, NAME, Some(hash.to_vec())).await?;
        *self.0.hash.write().unwrap_or_else(PoisonError::into_inner) = hash;
        publish_next(&self.0.data_dir).map_err(ApiError::KeyFile)?;
        Ok(key)
    }
}

/// 32 random bytes in hex: no character of it means anything to a shell.
fn random_key() -> io::Result<String> {
    use fmt::Write as _;
    let mut bytes = [0u8; 32];
    rand::rngs::OsRng.try_fill_bytes(&mut bytes).map_err(io::Error::other)?;
    Ok(bytes.iter().fold(String::with_capacity(64), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    }))
}

fn write_next(dir: &Path, key: &str) -> io::Result<()> {
    use std::os::unix::fs::OpenOptionsExt as _;
    let path = dir.join(NEXT_FILE);
    match std::fs::remove_file(&path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    file.write_all(format!("{key}\n").as_bytes())?;
    file.sync_all()
}

fn publish_next(dir: &Path) -> io::Result<()> {
    std::fs::rename(dir.join(NEXT_FILE), dir.join(FILE))?;
    std::fs::File::open(dir)?.sync_all()
}

/// The key of a rotation that was cut short counts if its hash was stored; else it never did.
fn finish_rotation(dir: &Path, hash: &[u8; 32]) -> io::Result<()> {
    let next = match std::fs::read_to_string(dir.join(NEXT_FILE)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        next => next?,
    };
    if Sha256::digest(next.trim_end()).as_slice() == hash {
        publish_next(dir)
    } else {
        std::fs::remove_file(dir.join(NEXT_FILE))
    }
}

/// Without the hash.
impl fmt::Debug for ApiKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ApiKeys").finish_non_exhaustive()
    }
}
