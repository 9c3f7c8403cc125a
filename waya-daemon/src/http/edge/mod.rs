//! What happens around every request, whatever it asks for: its id, who is behind it, and how often it may come.

pub(super) mod client;
mod cors;
mod frame;
pub(super) mod limits;
mod rate;
pub(super) mod record;

use std::convert::Infallible;

use axum::Router;
use axum::body::Body;
use axum::extract::Request;
use axum::http::{Extensions, HeaderMap, StatusCode, Version, header};
use axum::response::Response;
use tower::{Layer as _, ServiceExt as _, service_fn};
use tower_http::CompressionLevel;
use tower_http::compression::CompressionLayer;
use tower_http::compression::predicate::{Predicate, SizeAbove};

use super::Door;

/// Smaller answers, in bytes, are not compressed.
const WORTH_COMPRESSING: u16 = 1024;

/// A request's whole way, from the outermost to its handler.
///
/// Plain calls, and not layers of the router: each layer is cloned with all that is below it for every request.
pub(super) async fn pass(door: &Door, router: Router, request: Request) -> Response {
    let inside = async |request| compressed(door, router, request).await;
    frame::frame(door, request, async |request| cors::cors(door, request, inside).await).await
}

/// Answers are noted as they are before they are compressed.
async fn compressed(door: &Door, router: Router, request: Request) -> Response {
    let inside = service_fn(move |request: Request| {
        let router = router.clone();
        async move {
            let handler = async |request| match router.oneshot(request).await {
                Ok(response) => response,
                Err(never) => match never {},
            };
            let limited = async |request| limits::per_address(door, request, handler).await;
            Ok::<Response, Infallible>(record::record(door, request, limited).await)
        }
    });
    match compression().layer(inside).oneshot(request).await {
        Ok(response) => response.map(Body::new),
        Err(never) => match never {},
    }
}

/// Answers for people and programs, unless they are small; never a stream, whose parts are to leave at once.
fn compression() -> CompressionLayer<impl Predicate> {
    let text = |_: StatusCode, _: Version, headers: &HeaderMap, _: &Extensions| {
        let kind = headers.get(header::CONTENT_TYPE).map_or(&b""[..], |kind| kind.as_bytes());
        kind.starts_with(b"application/json") || kind.starts_with(b"text/html")
    };
    CompressionLayer::new()
        .quality(CompressionLevel::Fastest)
        .compress_when(SizeAbove::new(WORTH_COMPRESSING).and(text))
}
