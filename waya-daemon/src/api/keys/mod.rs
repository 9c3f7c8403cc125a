//! The API keys: random, kept hashed, each with a name and what it may do.
//!
//! The first one, `default`, may do everything; it is made at the first start and written once where only the owner can
//! read it. Further ones are told to whoever makes them, and to nobody afterwards. A name that was given back may be
//! given again; the new key has nothing of the old one.

mod file;
mod ring;
mod scope;

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};

use rand::TryRngCore as _;
use sha2::{Digest as _, Sha256};

pub use ring::{ApiKey, DEFAULT_KEY};
pub use scope::{Scope, Scopes};

use super::view::{ApiKeyView, ApiKeysView, NewApiKeyView};
use super::{Api, ApiError};
use crate::model::Timestamp;
use crate::store::{KeyValues, StoreError};

const NAMESPACE: &str = "secrets";
/// The first key's hash.
const FIRST: &str = "api_key_sha256";
/// Before the name of each further key.
const FURTHER: &str = "api_key:";
/// More keys than anybody looks after; each request is compared with all of them.
const MAX_KEYS: usize = 100;

/// A cheap handle to all API keys.
#[derive(Clone)]
pub struct ApiKeys(Arc<Inner>);

struct Inner {
    values: Arc<dyn KeyValues>,
    data_dir: PathBuf,
    /// The first key first, then the others by name.
    keys: RwLock<Arc<[Arc<ApiKey>]>>,
    /// One change at a time.
    changing: tokio::sync::Mutex<()>,
}

/// Takes the stored keys over, or makes the first one at the first start. A rotation that was cut short is finished or
/// undone: the stored hash decides.
///
/// # Errors
/// The store, or the folder cannot be written.
pub async fn ensure_key(values: Arc<dyn KeyValues>, data_dir: &Path) -> Result<ApiKeys, ApiError> {
    let stored = values.get(NAMESPACE, FIRST).await?.and_then(|bytes| <[u8; 32]>::try_from(bytes).ok());
    let mut keys: Vec<_> = stored.map(|hash| Arc::new(ApiKey::first(hash))).into_iter().collect();
    keys.extend(further(&*values).await?);
    let keys = ApiKeys(Arc::new(Inner {
        values,
        data_dir: data_dir.to_owned(),
        keys: RwLock::new(keys.into()),
        changing: tokio::sync::Mutex::new(()),
    }));
    match stored {
        Some(hash) => file::finish_rotation(data_dir, &hash).map_err(ApiError::KeyFile)?,
        None => {
            keys.rotate().await?;
        }
    }
    Ok(keys)
}

/// The stored keys beside the first one, by name.
async fn further(values: &dyn KeyValues) -> Result<Vec<Arc<ApiKey>>, ApiError> {
    let mut keys = Vec::new();
    for (name, bytes) in values.all(NAMESPACE).await? {
        let Some(name) = name.strip_prefix(FURTHER) else { continue };
        if let Some(key) = ring::decode(name, &bytes) {
            keys.push(Arc::new(key));
        } else {
            tracing::warn!(name, "a stored API key cannot be read; it opens nothing");
        }
    }
    keys.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(keys)
}

impl ApiKeys {
    /// The key that this is; looks at all of them, in the same time wherever they differ.
    #[must_use]
    pub fn find(&self, presented: &[u8]) -> Option<Arc<ApiKey>> {
        ring::find(&self.all(), presented).cloned()
    }

    fn all(&self) -> Arc<[Arc<ApiKey>]> {
        Arc::clone(&self.0.keys.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Makes a new first key, writes it down and tells it; the old one stops working at once.
    ///
    /// # Errors
    /// The store, or the folder cannot be written; the old key works on then. When only the last step fails, the new one
    /// holds and the next start writes it down.
    pub async fn rotate(&self) -> Result<String, ApiError> {
        let keys = self.clone();
        // To its end, also when the caller goes away: the key on disk is the one that opens.
        to_the_end(async move { keys.rotate_to_the_end().await }).await
    }

    async fn rotate_to_the_end(&self) -> Result<String, ApiError> {
        let _alone = self.0.changing.lock().await;
        let key = random_key().map_err(ApiError::KeyFile)?;
        let hash: [u8; 32] = Sha256::digest(&key).into();
        file::write_next(&self.0.data_dir, &key).map_err(ApiError::KeyFile)?;
        self.0.values.put(NAMESPACE, FIRST, Some(hash.to_vec())).await?;
        self.replace(|keys| {
            keys.retain(|key| !key.is_default());
            keys.insert(0, Arc::new(ApiKey::first(hash)));
        });
        file::publish_next(&self.0.data_dir).map_err(ApiError::KeyFile)?;
        Ok(key)
    }

    /// Makes a further key and tells it.
    async fn create(&self, name: String, scopes: Scopes, now: Timestamp) -> Result<(Arc<ApiKey>, String), ApiError> {
        if let Some(problem) = ring::name_problem(&name) {
            return Err(ApiError::field_error("name", problem));
        }
        if scopes.is_empty() {
            return Err(ApiError::field_error("scopes", "give at least one of send, read and admin"));
        }
        let keys = self.clone();
        to_the_end(async move {
            let _alone = keys.0.changing.lock().await;
            let all = keys.all();
            if all.iter().any(|key| *key.name == *name) {
                let problem = format!("{name:?} is taken; choose another, or revoke that key first");
                return Err(ApiError::field_error("name", problem));
            }
            if all.len() >= MAX_KEYS {
                let problem = format!("there are {MAX_KEYS} keys already; revoke one first");
                return Err(ApiError::field_error("name", problem));
            }
            let secret = random_key().map_err(ApiError::KeyFile)?;
            let key = Arc::new(ApiKey::new(&name, scopes, Some(now), Sha256::digest(&secret).into()));
            keys.0.values.put(NAMESPACE, &format!("{FURTHER}{name}"), Some(ring::encode(&key))).await?;
            keys.replace(|keys| {
                let others = keys.iter().skip(1).take_while(|other| other.name < key.name).count();
                keys.insert(1 + others, Arc::clone(&key));
            });
            Ok((key, secret))
        })
        .await
    }

    /// A further key stops working at once.
    async fn revoke(&self, name: String) -> Result<Arc<ApiKey>, ApiError> {
        if name == DEFAULT_KEY {
            let problem = "the default key is not revoked but replaced: `waya settings api-key rotate`";
            return Err(ApiError::field_error("name", problem));
        }
        let keys = self.clone();
        to_the_end(async move {
            let _alone = keys.0.changing.lock().await;
            let Some(key) = keys.all().iter().find(|key| *key.name == *name).cloned() else {
                return Err(ApiError::NoSuchKey(name));
            };
            // Should the store fail, it is better that the key opens nothing until the next start.
            keys.replace(|keys| keys.retain(|other| other.name != key.name));
            keys.0.values.put(NAMESPACE, &format!("{FURTHER}{name}"), None).await?;
            Ok(key)
        })
        .await
    }

    fn replace(&self, change: impl FnOnce(&mut Vec<Arc<ApiKey>>)) {
        let mut keys = self.0.keys.write().unwrap_or_else(PoisonError::into_inner);
        let mut all = keys.to_vec();
        change(&mut all);
        *keys = all.into();
    }
}

impl Api {
    /// The API key that this is; takes the same time wherever it differs.
    #[must_use]
    pub fn find_key(&self, presented: &[u8]) -> Option<Arc<ApiKey>> {
        self.0.keys.find(presented)
    }

    /// All API keys, without what they are.
    #[must_use]
    pub fn api_keys(&self) -> ApiKeysView {
        ApiKeysView { keys: self.0.keys.all().iter().map(|key| (&**key).into()).collect() }
    }

    /// Makes an API key and tells it; nobody can ask for it afterwards.
    ///
    /// # Errors
    /// A name that is none or is taken, a scope that is none, or the store.
    pub async fn create_key(&self, name: &str, scopes: &[String]) -> Result<NewApiKeyView, ApiError> {
        let scopes = Scopes::from_words(scopes.iter().map(String::as_str))
            .map_err(|word| ApiError::field_error("scopes", format!("{word:?} is none of send, read and admin")))?;
        let (key, secret) = self.0.keys.create(name.to_owned(), scopes, self.0.clock.now()).await?;
        Ok(NewApiKeyView { success: true, api_key: secret, key: (&*key).into() })
    }

    /// An API key stops working at once; the default one can only be rotated.
    ///
    /// # Errors
    /// There is none of this name, or the store; what it could not write, the next start brings back.
    pub async fn revoke_key(&self, name: &str) -> Result<ApiKeyView, ApiError> {
        Ok((&*self.0.keys.revoke(name.to_owned()).await?).into())
    }

    /// Makes a new default API key and tells it; the old one stops working at once.
    ///
    /// # Errors
    /// The store or the data folder cannot be written.
    pub async fn rotate_key(&self) -> Result<String, ApiError> {
        self.0.keys.rotate().await
    }
}

/// Carries a change out to its end, also when the caller goes away.
async fn to_the_end<T: Send + 'static>(
    change: impl Future<Output = Result<T, ApiError>> + Send + 'static,
) -> Result<T, ApiError> {
    tokio::spawn(change).await.unwrap_or_else(|error| Err(StoreError::Unavailable(error.to_string()).into()))
}

/// 32 random bytes in hex: no character of it means anything to a shell.
fn random_key() -> io::Result<String> {
    let mut bytes = [0u8; 32];
    rand::rngs::OsRng.try_fill_bytes(&mut bytes).map_err(io::Error::other)?;
    Ok(hex(&bytes))
}

fn hex(bytes: &[u8; 32]) -> String {
    use fmt::Write as _;
    bytes.iter().fold(String::with_capacity(64), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// Without the hashes.
impl fmt::Debug for ApiKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ApiKeys").finish_non_exhaustive()
    }
}
