//! What a user may change while the daemon runs: typed, checked, kept in the store.
//!
//! Owns the namespace `settings` of the store. Who needs a value holds a `watch` and sees each change at once.
//! Values that the environment or the config file fix ([`Pin`]) win over stored ones and cannot be changed here.
//! It never reads files or the environment itself.

mod http;
mod keys;
mod parse;
mod snapshot;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::sync::Arc;

use tokio::sync::{Mutex, watch};

pub use http::{CorsOrigins, HttpSettings, RateLimit};
pub use keys::{is_known, keys, validate};
pub use snapshot::{AllowList, QuietHours, Snapshot, folded};

use crate::store::{KeyValues, StoreError};
use keys::{KEYS, Key};

/// Where the store keeps them.
const NAMESPACE: &str = "settings";

/// A value that the environment or the config file fixes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pin {
    /// The setting's key.
    pub key: String,
    /// The value, as text.
    pub value: String,
    /// What fixes it: `FILE:LINE` or `environment variable NAME`.
    pub origin: String,
}

/// One setting as it stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Setting {
    /// Its key.
    pub key: &'static str,
    /// The value that counts; empty when there is none.
    pub value: String,
    /// What it is when nobody says otherwise.
    pub default: &'static str,
    /// Who says so.
    pub origin: Origin,
    /// What it does.
    pub description: &'static str,
}

/// Who decides a setting's value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// Nobody said anything.
    Default,
    /// Set by the user while the daemon ran.
    Stored,
    /// Environment or config file; `FILE:LINE` or `environment variable NAME`.
    Pinned(String),
}

impl Origin {
    /// `default`, `stored`, or what pins it.
    #[must_use]
    pub fn as_str(&self) -> &str {
        match self {
            Self::Default => "default",
            Self::Stored => "stored",
            Self::Pinned(origin) => origin,
        }
    }
}

/// A setting was not read or changed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SettingsError {
    /// There is no such key.
    #[error("there is no setting {0:?}; `waya settings list` shows them all")]
    Unknown(String),
    /// The value does not fit.
    #[error("{key} = {value:?}: expected {expected}")]
    Invalid {
        /// The key.
        key: &'static str,
        /// What was given.
        value: String,
        /// What would fit.
        expected: String,
    },
    /// Environment or config file decide it.
    #[error("{key} is pinned by {origin}; change it there")]
    Pinned {
        /// The key.
        key: &'static str,
        /// What pins it.
        origin: String,
    },
    /// The store said no.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// A cheap handle to all settings.
#[derive(Debug, Clone)]
pub struct Settings(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    values: Arc<dyn KeyValues>,
    pins: BTreeMap<&'static str, Pin>,
    /// What the user set, by key; the lock also keeps writers in line.
    stored: Mutex<BTreeMap<&'static str, String>>,
    snapshot: watch::Sender<Snapshot>,
}

impl Settings {
    /// Reads what is stored and lays the pins over it. Stored values that mean nothing (any more) are left alone,
    /// told in the log, and do not count.
    ///
    /// # Errors
    /// A pin that is wrong, or a store that cannot be read.
    pub async fn load(values: Arc<dyn KeyValues>, pins: Vec<Pin>) -> Result<Self, SettingsError> {
        let pins = checked(pins)?;
        let mut stored = BTreeMap::new();
        for (name, value) in values.all(NAMESPACE).await? {
            if let Some((key, value)) = usable(&name, value) {
                stored.insert(key.name, value);
            } else {
                // Without the value: it may be somebody's number.
                tracing::warn!(key = name, "a stored setting means nothing to this version; it is left out");
            }
        }
        let snapshot = watch::Sender::new(resolve(&pins, &stored));
        Ok(Self(Arc::new(Inner { values, pins, stored: Mutex::new(stored), snapshot })))
    }

    /// All values as they stand, and as they change.
    #[must_use]
    pub fn watch(&self) -> watch::Receiver<Snapshot> {
        self.0.snapshot.subscribe()
    }

    /// All values as they stand; the guard must not be held across an await.
    #[must_use]
    pub fn now(&self) -> watch::Ref<'_, Snapshot> {
        self.0.snapshot.borrow()
    }

    /// Every setting, in the order of the table.
    pub async fn list(&self) -> Vec<Setting> {
        let stored = self.0.stored.lock().await;
        KEYS.iter().map(|key| self.setting(key, &stored)).collect()
    }

    /// One setting.
    ///
    /// # Errors
    /// [`SettingsError::Unknown`].
    pub async fn get(&self, name: &str) -> Result<Setting, SettingsError> {
        let key = keys::find(name).ok_or_else(|| SettingsError::Unknown(name.to_owned()))?;
        Ok(self.setting(key, &*self.0.stored.lock().await))
    }

    /// Sets one value, or with `None` goes back to the default; the answer comes after the fsync.
    ///
    /// # Errors
    /// An unknown key, a value that does not fit, a pinned key, or the store.
    pub async fn set(&self, name: &str, value: Option<&str>) -> Result<Setting, SettingsError> {
        let key = keys::find(name).ok_or_else(|| SettingsError::Unknown(name.to_owned()))?;
        if let Some(pin) = self.0.pins.get(key.name) {
            return Err(SettingsError::Pinned { key: key.name, origin: pin.origin.clone() });
        }
        if let Some(value) = value {
            key.check(value)?;
        }
        let (settings, value) = (self.clone(), value.map(str::to_owned));
        // To its end, also when the caller goes away: what is on disk is what holds.
        let set = tokio::spawn(async move { settings.store(key, value).await });
        set.await.unwrap_or_else(|error| Err(StoreError::Unavailable(error.to_string()).into()))
    }

    async fn store(&self, key: &'static Key, value: Option<String>) -> Result<Setting, SettingsError> {
        let mut stored = self.0.stored.lock().await;
        self.0.values.put(NAMESPACE, key.name, value.clone().map(String::into_bytes)).await?;
        match value {
            Some(value) => stored.insert(key.name, value),
            None => stored.remove(key.name),
        };
        let snapshot = resolve(&self.0.pins, &stored);
        self.0.snapshot.send_if_modified(|now| {
            let changed = *now != snapshot;
            *now = snapshot;
            changed
        });
        Ok(self.setting(key, &stored))
    }

    fn setting(&self, key: &'static Key, stored: &BTreeMap<&'static str, String>) -> Setting {
        let (value, origin) = match (self.0.pins.get(key.name), stored.get(key.name)) {
            (Some(pin), _) => (pin.value.clone(), Origin::Pinned(pin.origin.clone())),
            (None, Some(value)) => (value.clone(), Origin::Stored),
            (None, None) => (key.default.to_owned(), Origin::Default),
        };
        Setting { key: key.name, value, default: key.default, origin, description: key.description }
    }
}

/// The pins by key, each checked.
fn checked(pins: Vec<Pin>) -> Result<BTreeMap<&'static str, Pin>, SettingsError> {
    pins.into_iter()
        .map(|pin| {
            let key = keys::find(&pin.key).ok_or_else(|| SettingsError::Unknown(pin.key.clone()))?;
            key.check(&pin.value)?;
            Ok((key.name, pin))
        })
        .collect()
}

/// A stored value, if it still means something.
fn usable(name: &str, value: Vec<u8>) -> Option<(&'static Key, String)> {
    let key = keys::find(name)?;
    let value = String::from_utf8(value).ok()?;
    key.check(&value).ok()?;
    Some((key, value))
}

/// What counts: pins over stored values over defaults. All of them were checked before.
fn resolve(pins: &BTreeMap<&'static str, Pin>, stored: &BTreeMap<&'static str, String>) -> Snapshot {
    let mut snapshot = Snapshot::default();
    for key in KEYS {
        let value = pins.get(key.name).map(|pin| &pin.value).or_else(|| stored.get(key.name));
        if let Some(value) = value {
            let _ = (key.apply)(&mut snapshot, value);
        }
    }
    snapshot
}
