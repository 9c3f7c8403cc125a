//! The API key, as `X-API-Key: KEY` or `Authorization: Bearer KEY`.

use axum::extract::{Request, State};
use axum::http::{HeaderMap, header};
use axum::middleware::Next;
use axum::response::{IntoResponse as _, Response};

use super::error::HttpError;
use crate::api::Api;

/// Lets nobody in without the key.
pub(super) async fn require_key(State(api): State<Api>, request: Request, next: Next) -> Response {
    match presented(request.headers()) {
        Some(key) if api.check_key(key) => next.run(request).await,
        Some(_) => HttpError::Unauthorized("the API key is wrong; the one in use is in the file api-key of the data folder, `waya settings api-key rotate` makes a new one").into_response(),
        None => HttpError::Unauthorized("give the API key as X-API-Key: KEY or Authorization: Bearer KEY").into_response(),
    }
}

fn presented(headers: &HeaderMap) -> Option<&[u8]> {
    if let Some(key) = headers.get("x-api-key") {
        return Some(key.as_bytes());
    }
    let (scheme, key) = headers.get(header::AUTHORIZATION)?.as_bytes().split_at_checked("Bearer ".len())?;
    scheme.eq_ignore_ascii_case(b"bearer ").then(|| key.trim_ascii())
}
