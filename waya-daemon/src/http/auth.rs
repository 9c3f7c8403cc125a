//! The API key, as `X-API-Key: KEY` or `Authorization: Bearer KEY`, and what it may do.

use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::{Extensions, HeaderMap, header};
use axum::middleware::Next;
use axum::response::{IntoResponse as _, Response};

use super::Door;
use super::edge::client::Client;
use super::error::HttpError;
use crate::api::{ApiKey, Scopes};

/// What is said to those without a key.
const NO_KEY: &str = "give the API key as X-API-Key: KEY or Authorization: Bearer KEY";
/// What is said to those with a wrong one.
const WRONG_KEY: &str = "the API key is wrong; the one of the first start is in the file api-key of the data folder, `waya settings api-key` lists them all and makes new ones";

/// What a route wants: one of the scopes.
#[derive(Debug, Clone)]
pub(super) struct Guard {
    pub(super) door: Door,
    pub(super) needed: Scopes,
}

/// The API key that a request came with.
#[derive(Debug, Clone)]
pub(super) struct Caller(pub(super) Arc<ApiKey>);

/// Lets nobody in without a key that may do this.
pub(super) async fn require_key(State(guard): State<Guard>, mut request: Request, next: Next) -> Response {
    match guard.admit(&request) {
        Ok(key) => {
            request.extensions_mut().insert(Caller(Arc::clone(&key)));
            let mut response = next.run(request).await;
            // For those who stand around: whose answer it is.
            response.extensions_mut().insert(Caller(key));
            response
        }
        Err(refusal) => refusal.into_response(),
    }
}

impl Guard {
    /// The key of those who may go on.
    fn admit(&self, request: &Request) -> Result<Arc<ApiKey>, HttpError> {
        let Self { door, needed } = self;
        let Some(presented) = presented(request.headers()) else { return Err(HttpError::Unauthorized(NO_KEY)) };
        let Some(key) = door.api.find_key(presented) else {
            if let Some(client) = request.extensions().get::<Client>() {
                door.limits.wrong_key(*client)?;
            }
            return Err(HttpError::Unauthorized(WRONG_KEY));
        };
        let rate = door.settings.borrow().http.per_key;
        door.limits.key(&key, rate)?;
        if key.scopes.allow(*needed) {
            return Ok(key);
        }
        Err(HttpError::Forbidden { name: Arc::clone(&key.name), has: key.scopes, needed: *needed })
    }
}

/// What tells the caller's API key from others, for whatever must not be shared between them.
pub(super) fn key_identity(extensions: &Extensions) -> Option<[u8; 32]> {
    extensions.get::<Caller>().and_then(|caller| caller.0.identity())
}

fn presented(headers: &HeaderMap) -> Option<&[u8]> {
    if let Some(key) = headers.get("x-api-key") {
        return Some(key.as_bytes());
    }
    let (scheme, key) = headers.get(header::AUTHORIZATION)?.as_bytes().split_at_checked("Bearer ".len())?;
    scheme.eq_ignore_ascii_case(b"bearer ").then(|| key.trim_ascii())
}
