//! Settings and the API key.

use serde::Serialize;
use waya_proto::v1;

/// All settings.
#[derive(Debug, Clone, Serialize)]
pub struct Settings {
    settings: Vec<Setting>,
}

/// One setting.
#[derive(Debug, Clone, Serialize)]
pub struct Setting {
    key: String,
    value: String,
    default: String,
    origin: String,
    pinned: bool,
    description: String,
}

/// A new default API key; it is told only here.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct NewApiKey {
    success: bool,
    api_key: String,
}

/// All API keys.
#[derive(Debug, Clone, Serialize)]
pub struct ApiKeys {
    keys: Vec<KeyOfApi>,
}

/// One API key, without what it is.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct KeyOfApi {
    name: String,
    scopes: Vec<String>,
    created_at: Option<i64>,
}

/// A new API key with its name; it is told only here.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct MadeApiKey {
    success: bool,
    api_key: String,
    #[serde(flatten)]
    key: KeyOfApi,
}

impl From<v1::ListSettingsResponse> for Settings {
    fn from(list: v1::ListSettingsResponse) -> Self {
        Self { settings: list.settings.into_iter().map(Setting::from).collect() }
    }
}

impl From<v1::Setting> for Setting {
    fn from(setting: v1::Setting) -> Self {
        Self {
            key: setting.key,
            value: setting.value,
            default: setting.default_value,
            origin: setting.origin,
            pinned: setting.pinned,
            description: setting.description,
        }
    }
}

impl From<v1::RotateApiKeyResponse> for NewApiKey {
    fn from(answer: v1::RotateApiKeyResponse) -> Self {
        Self { success: true, api_key: answer.api_key }
    }
}

impl From<v1::ListApiKeysResponse> for ApiKeys {
    fn from(list: v1::ListApiKeysResponse) -> Self {
        Self { keys: list.keys.into_iter().map(KeyOfApi::from).collect() }
    }
}

impl From<v1::ApiKey> for KeyOfApi {
    fn from(key: v1::ApiKey) -> Self {
        Self { name: key.name, scopes: key.scopes, created_at: key.created_at }
    }
}

impl From<v1::CreateApiKeyResponse> for MadeApiKey {
    fn from(made: v1::CreateApiKeyResponse) -> Self {
        Self { success: true, api_key: made.api_key, key: made.key.unwrap_or_default().into() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_setting_tells_where_its_value_comes_from() {
        let setting = v1::Setting {
            key: "queue.delay".to_owned(),
            value: "1s".to_owned(),
            default_value: "5s".to_owned(),
            origin: "environment variable WAYA_QUEUE_DELAY".to_owned(),
            description: "how long".to_owned(),
            pinned: true,
        };
        insta::assert_json_snapshot!(Settings::from(v1::ListSettingsResponse { settings: vec![setting] }), @r#"
        {
          "settings": [
            {
              "key": "queue.delay",
              "value": "1s",
              "default": "5s",
              "origin": "environment variable WAYA_QUEUE_DELAY",
              "pinned": true,
              "description": "how long"
            }
          ]
        }
        "#);
    }
}
