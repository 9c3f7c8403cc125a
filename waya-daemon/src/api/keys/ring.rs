//! The keys as they are held in memory and in the store; pure.

use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use subtle::{Choice, ConditionallySelectable as _, ConstantTimeEq as _};

use super::Scopes;
use crate::model::Timestamp;

/// The name of the key that the first start made.
pub const DEFAULT_KEY: &str = "default";
/// The longest name.
const MAX_NAME_CHARS: usize = 64;

/// One key without its secret.
#[derive(Clone)]
pub struct ApiKey {
    /// What its owner calls it.
    pub name: Arc<str>,
    /// What it may do.
    pub scopes: Scopes,
    /// When it was made; the first key does not know.
    pub created_at: Option<Timestamp>,
    hash: [u8; 32],
}

impl ApiKey {
    pub(super) fn new(name: &str, scopes: Scopes, created_at: Option<Timestamp>, hash: [u8; 32]) -> Self {
        Self { name: name.into(), scopes, created_at, hash }
    }

    /// The key of the first start: it may do everything.
    pub(super) fn first(hash: [u8; 32]) -> Self {
        Self::new(DEFAULT_KEY, Scopes::ADMIN, None, hash)
    }

    /// Whether it is the one that the first start made.
    #[must_use]
    pub fn is_default(&self) -> bool {
        &*self.name == DEFAULT_KEY
    }

    /// What tells this key from every other one, also from a later one of the same name. It opens nothing. None for the
    /// default key, which stays the same one when it is rotated.
    #[must_use]
    pub fn identity(&self) -> Option<[u8; 32]> {
        (!self.is_default())
            .then(|| Sha256::new().chain_update(b"identity\0").chain_update(self.hash).finalize().into())
    }
}

/// Without the hash.
impl fmt::Debug for ApiKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ApiKey").field("name", &self.name).field("scopes", &self.scopes).finish_non_exhaustive()
    }
}

/// The key whose hash this is; looks at all of them, in the same time wherever they differ.
pub(super) fn find<'a>(keys: &'a [Arc<ApiKey>], presented: &[u8]) -> Option<&'a Arc<ApiKey>> {
    let hash: [u8; 32] = Sha256::digest(presented).into();
    let mut found = u32::MAX;
    for (index, key) in keys.iter().enumerate() {
        let same: Choice = key.hash.ct_eq(&hash);
        found.conditional_assign(&(index as u32), same);
    }
    keys.get(found as usize)
}

/// What is wrong with a name, if anything is.
pub(super) fn name_problem(name: &str) -> Option<&'static str> {
    let fits = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    if name.is_empty() || name.len() > MAX_NAME_CHARS || !name.chars().all(fits) {
        return Some("must be 1 to 64 letters, digits, dots, dashes or underscores");
    }
    None
}

/// A key as it lies in the store.
#[derive(Serialize, Deserialize)]
struct Record {
    sha256: String,
    scopes: Vec<String>,
    created_at: u64,
}

/// To bytes for the store.
pub(super) fn encode(key: &ApiKey) -> Vec<u8> {
    let record = Record {
        sha256: super::hex(&key.hash),
        scopes: key.scopes.words().map(str::to_owned).collect(),
        created_at: key.created_at.unwrap_or_default().as_millis(),
    };
    // Strings and numbers only: it cannot fail.
    serde_json::to_vec(&record).unwrap_or_default()
}

/// From the store's bytes; `None` when they are no key of this version's.
pub(super) fn decode(name: &str, bytes: &[u8]) -> Option<ApiKey> {
    let record: Record = serde_json::from_slice(bytes).ok()?;
    let mut hash = [0u8; 32];
    let digits = record.sha256.as_bytes();
    if digits.len() != 64 {
        return None;
    }
    for (byte, pair) in hash.iter_mut().zip(digits.chunks_exact(2)) {
        *byte = u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok()?;
    }
    // A scope that a later version has is one that this key does not get here.
    let known = record.scopes.iter().map(String::as_str).filter(|word| super::Scope::from_word(word).is_some());
    let scopes = Scopes::from_words(known).ok()?;
    Some(ApiKey::new(name, scopes, Some(Timestamp::from_millis(record.created_at)), hash))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn key(name: &str, secret: &str) -> Arc<ApiKey> {
        let hash = Sha256::digest(secret).into();
        Arc::new(ApiKey::new(name, Scopes::SEND_OR_READ, Some(Timestamp::from_millis(1_800_000_000_000)), hash))
    }

    #[test]
    fn each_key_is_found_by_its_secret_only() {
        let keys = [key("a", "one"), key("b", "two"), key("c", "three")];
        for (name, secret) in [("a", "one"), ("b", "two"), ("c", "three")] {
            assert_eq!(&*find(&keys, secret.as_bytes()).unwrap().name, name);
        }
        assert!(find(&keys, b"four").is_none() && find(&[], b"one").is_none());
    }

    #[test]
    fn a_stored_key_is_read_back_without_what_is_not_known_yet() {
        let written = encode(&key("a", "one"));
        let read = decode("a", &written).unwrap();
        assert_eq!(
            (read.scopes, read.hash, read.created_at.unwrap().as_millis()),
            (Scopes::SEND_OR_READ, key("a", "one").hash, 1_800_000_000_000)
        );
        let later = String::from_utf8(written).unwrap().replace("\"send\"", "\"fly\"");
        assert_eq!(decode("a", later.as_bytes()).unwrap().scopes, Scopes::READ);
        for damaged in [&b""[..], b"{}", br#"{"sha256":"zz","scopes":[],"created_at":1}"#] {
            assert!(decode("a", damaged).is_none());
        }
    }

    #[test]
    fn an_identity_is_no_hash_of_the_key() {
        let one = key("a", "one");
        assert_ne!(one.identity().unwrap(), one.hash);
        assert_ne!(one.identity(), key("a", "two").identity());
        assert_eq!(key(DEFAULT_KEY, "one").identity(), None);
    }

    #[test]
    fn names_are_plain_words() {
        assert_eq!(name_problem("shop-1.web_x"), None);
        for name in ["", "a b", "a/b", "ä", &"x".repeat(65)] {
            assert!(name_problem(name).is_some(), "{name}");
        }
    }
}
