//! How often somebody may ask: the limits that are set, and a brake for those who guess keys.
//!
//! Counts nothing as long as no limit is set, but for wrong keys. A right key is looked at first: no number of wrong ones,
//! from whatever address, keeps it out.

use std::num::NonZeroU32;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::extract::Request;
use axum::response::{IntoResponse as _, Response};
use tokio::time::Instant;

use super::client::Client;
use super::rate::Buckets;
use crate::api::{ApiKey, RateLimit};
use crate::http::Door;
use crate::http::error::HttpError;

/// So many wrong keys a minute from one address are told that they are wrong.
const WRONG_KEYS: RateLimit = RateLimit::per_minute(NonZeroU32::new(30).expect("it is not 0"));

/// Who asked how often.
#[derive(Debug)]
pub(in crate::http) struct Limits {
    since: Instant,
    keys: Mutex<Buckets<Arc<str>>>,
    addresses: Mutex<Buckets<std::net::IpAddr>>,
    wrong: Mutex<Buckets<std::net::IpAddr>>,
}

impl Default for Limits {
    fn default() -> Self {
        Self { since: Instant::now(), keys: Mutex::default(), addresses: Mutex::default(), wrong: Mutex::default() }
    }
}

impl Limits {
    fn take<K: Eq + std::hash::Hash>(
        &self,
        buckets: &Mutex<Buckets<K>>,
        key: K,
        rate: RateLimit,
    ) -> Result<(), Duration> {
        let now = self.since.elapsed();
        buckets.lock().unwrap_or_else(PoisonError::into_inner).take(key, rate, now)
    }

    /// Whether this key may ask once more.
    pub(in crate::http) fn key(&self, key: &ApiKey, rate: Option<RateLimit>) -> Result<(), HttpError> {
        let Some(rate) = rate else { return Ok(()) };
        self.take(&self.keys, Arc::clone(&key.name), rate)
            .map_err(|wait| HttpError::RateLimited { wait, what: "this API key has made too many requests" })
    }

    /// Whether a wrong key from there is told that it is wrong.
    pub(in crate::http) fn wrong_key(&self, client: Client) -> Result<(), HttpError> {
        self.take(&self.wrong, client.network(), WRONG_KEYS)
            .map_err(|wait| HttpError::RateLimited { wait, what: "too many wrong API keys came from this address" })
    }
}

/// Lets an address in as often as is set.
pub(in crate::http) async fn per_address(
    door: &Door,
    request: Request,
    next: impl AsyncFnOnce(Request) -> Response,
) -> Response {
    let rate = door.settings.borrow().http.per_address;
    if let (Some(rate), Some(client)) = (rate, request.extensions().get::<Client>())
        && request.uri().path().starts_with("/api/")
        && let Err(wait) = door.limits.take(&door.limits.addresses, client.network(), rate)
    {
        return HttpError::RateLimited { wait, what: "this address has made too many requests" }.into_response();
    }
    next(request).await
}
