//! What a user may change while the daemon runs.

use tokio::sync::watch;

use super::view::SettingView;
use super::{Api, ApiError, Snapshot};

impl Api {
    /// All settings, as they change.
    #[must_use]
    pub fn settings_watch(&self) -> watch::Receiver<Snapshot> {
        self.0.settings.watch()
    }

    /// Every setting.
    pub async fn settings_list(&self) -> Vec<SettingView> {
        self.0.settings.list().await.into_iter().map(Into::into).collect()
    }

    /// One setting.
    ///
    /// # Errors
    /// There is no such key.
    pub async fn settings_get(&self, key: &str) -> Result<SettingView, ApiError> {
        Ok(self.0.settings.get(key).await?.into())
    }

    /// Sets one, or with `None` goes back to its default.
    ///
    /// # Errors
    /// An unknown key, a value that does not fit, a key that environment or config file pin, or the store.
    pub async fn settings_set(&self, key: &str, value: Option<&str>) -> Result<SettingView, ApiError> {
        Ok(self.0.settings.set(key, value).await?.into())
    }
}
