//! The daemon's HTTP API and the emulator's admin endpoints, as a caller sees them.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result};
use reqwest::{Method, StatusCode};
use serde_json::Value;

/// One base address with its key.
#[derive(Debug, Clone)]
pub struct Api {
    client: reqwest::Client,
    base: String,
    key: Option<String>,
}

impl Api {
    /// The daemon at `address` (`127.0.0.1:PORT`), with the key it wrote into its data folder.
    ///
    /// # Errors
    /// When there is no key.
    pub fn daemon(address: &str, data_dir: &Path) -> Result<Self> {
        let key = std::fs::read_to_string(data_dir.join("api-key")).context("the daemon wrote no api-key")?;
        Ok(Self { client: client()?, base: format!("http://{address}"), key: Some(key.trim().to_owned()) })
    }

    /// The emulator's admin endpoints, by the address in its ready line.
    ///
    /// # Errors
    /// When no HTTP client can be made.
    pub fn admin(base: &str) -> Result<Self> {
        Ok(Self { client: client()?, base: base.to_owned(), key: None })
    }

    /// The same with another key.
    #[must_use]
    pub fn with_key(&self, key: Option<&str>) -> Self {
        Self { key: key.map(str::to_owned), ..self.clone() }
    }

    /// Where it is.
    #[must_use]
    pub fn base(&self) -> &str {
        &self.base
    }

    /// A request with the key on it.
    pub fn request(&self, method: Method, path: &str) -> reqwest::RequestBuilder {
        let request = self.client.request(method, format!("{}{path}", self.base));
        match &self.key {
            Some(key) => request.header("X-API-Key", key),
            None => request,
        }
    }

    /// `GET`: status and JSON.
    ///
    /// # Errors
    /// When there is no answer, or no JSON in it.
    pub async fn get(&self, path: &str) -> Result<(StatusCode, Value)> {
        answer(self.request(Method::GET, path)).await
    }

    /// `POST` of JSON: status and JSON.
    ///
    /// # Errors
    /// When there is no answer, or no JSON in it.
    pub async fn post(&self, path: &str, body: &Value) -> Result<(StatusCode, Value)> {
        answer(self.request(Method::POST, path).json(body)).await
    }

    /// `DELETE`: status and JSON.
    ///
    /// # Errors
    /// When there is no answer, or no JSON in it.
    pub async fn delete(&self, path: &str) -> Result<(StatusCode, Value)> {
        answer(self.request(Method::DELETE, path)).await
    }
}

/// A request's status and JSON.
///
/// # Errors
/// When there is no answer, or no JSON in it.
pub async fn answer(request: reqwest::RequestBuilder) -> Result<(StatusCode, Value)> {
    let response = request.send().await?;
    let status = response.status();
    let text = response.text().await?;
    let value = serde_json::from_str(&text).with_context(|| format!("{status} with no JSON: {text:?}"))?;
    Ok((status, value))
}

fn client() -> Result<reqwest::Client> {
    // A fresh connection a request: the daemon at the other end gets killed now and then.
    Ok(reqwest::Client::builder().no_proxy().pool_max_idle_per_host(0).timeout(Duration::from_secs(150)).build()?)
}
