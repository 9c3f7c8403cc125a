//! API keys, the request log, settings.

use serde::Serialize;

use super::RequestSummaryView;
use crate::model::Timestamp;

/// All API keys.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ApiKeysView {
    /// The default one first, then the others by name.
    pub keys: Vec<ApiKeyView>,
}

/// One API key; what it is, nobody can ask for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ApiKeyView {
    /// What its owner calls it; `default` is the one of the first start.
    pub name: String,
    /// `send`, `read`, `admin`.
    pub scopes: Vec<&'static str>,
    /// When it was made; none for the default one.
    pub created_at: Option<Timestamp>,
}

/// A new API key; it is told only here.
#[derive(Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct NewApiKeyView {
    /// Always true: refusals are errors.
    pub success: bool,
    /// The key itself.
    pub api_key: String,
    /// Its name, and what it may do.
    #[serde(flatten)]
    pub key: ApiKeyView,
}

/// Without the key itself.
impl std::fmt::Debug for NewApiKeyView {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("NewApiKeyView").field("key", &self.key).finish_non_exhaustive()
    }
}

/// `GET /api/requests`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct RequestsView {
    /// Logged requests, newest first.
    pub requests: Vec<RequestSummaryView>,
    /// `before` of the next page, when there is one.
    pub next: Option<String>,
    /// How many could not be kept since the start.
    pub dropped: u64,
}

/// `DELETE /api/requests`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct ClearedView {
    /// Always true: refusals are errors.
    pub success: bool,
    /// How many were forgotten.
    pub cleared: u64,
}

/// One setting.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct SettingView {
    /// Its key.
    pub key: &'static str,
    /// The value that counts; empty when there is none.
    pub value: String,
    /// What it is when nobody says otherwise.
    pub default: &'static str,
    /// `default`, `stored`, or the place that pins it.
    pub origin: String,
    /// Environment or config file decide it; it cannot be changed here.
    pub pinned: bool,
    /// What it does.
    pub description: &'static str,
}
