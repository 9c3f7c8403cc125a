//! The outermost of every request: its id, in the answer and in all log lines, and who is behind it.

use std::net::{IpAddr, Ipv4Addr};
use std::panic::AssertUnwindSafe;

use axum::extract::Request;
use axum::http::{HeaderMap, HeaderName, HeaderValue};
use axum::response::{IntoResponse as _, Response};
use futures_util::FutureExt as _;
use tracing::Instrument as _;
use uuid::Uuid;

use super::client::{Client, Peer};
use crate::http::Door;
use crate::http::error::HttpError;

/// The header that names a request, both ways.
const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
/// A longer one of the caller's is not taken over.
const MAX_ID: usize = 128;

/// A request's name: the caller's own, else one of ours.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::http) struct RequestId(pub(in crate::http) HeaderValue);

impl RequestId {
    fn of(headers: &HeaderMap) -> Self {
        let plain =
            |id: &&HeaderValue| (1..=MAX_ID).contains(&id.len()) && id.as_bytes().iter().all(u8::is_ascii_graphic);
        let own = headers.get(REQUEST_ID).filter(plain).cloned();
        Self(own.unwrap_or_else(|| {
            let mut text = [0; uuid::fmt::Hyphenated::LENGTH];
            let id = Uuid::new_v4().hyphenated().encode_lower(&mut text);
            // Hexadecimal digits and dashes always fit.
            HeaderValue::from_str(id).unwrap_or_else(|_| HeaderValue::from_static("unknown"))
        }))
    }

    /// As text; only visible ASCII is ever in it.
    pub(in crate::http) fn as_str(&self) -> &str {
        self.0.to_str().unwrap_or_default()
    }
}

/// Names the request, and puts the last touch on its answer; a panic of ours costs this request only.
pub(in crate::http) async fn frame(
    door: &Door,
    mut request: Request,
    next: impl AsyncFnOnce(Request) -> Response,
) -> Response {
    let id = RequestId::of(request.headers());
    let peer = request.extensions().get::<Peer>().map_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED), |peer| peer.0);
    let client = Client::of(peer, request.headers(), &door.settings.borrow().http);
    request.extensions_mut().insert(id.clone());
    request.extensions_mut().insert(client);
    let span = tracing::info_span!("request", id = id.as_str());
    let answer = AssertUnwindSafe(next(request)).catch_unwind().instrument(span).await;
    let mut response = answer.unwrap_or_else(|_| HttpError::Internal.into_response());
    response.headers_mut().insert(REQUEST_ID, id.0);
    response
}
