//! The API described by itself: OpenAPI 3.1 for programs, and a page made of it for people. Both come out of the binary.
//!
//! `spec.json` is written by hand. A new route has a place under `paths` there, with the scope that its key needs under
//! `x-scope`; a new shape or code one under `components`. `http/tests/openapi.rs` fails until they have, and holds real
//! answers against the shapes.

use axum::http::header;
use axum::response::IntoResponse;

/// The description, but for the version.
pub(super) const SPEC: &str = include_str!("spec.json");
const PAGE: &str = include_str!("docs.html");
/// The page loads the description, and nothing else from anywhere.
const POLICY: &str = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; connect-src 'self'";

/// `GET /api/openapi.json`.
pub(super) async fn spec() -> impl IntoResponse {
    let version = concat!("\"version\": \"", env!("CARGO_PKG_VERSION"), "\"");
    ([(header::CONTENT_TYPE, "application/json")], SPEC.replacen("\"version\": \"0\"", version, 1))
}

/// `GET /api/docs`.
pub(super) async fn page() -> impl IntoResponse {
    ([(header::CONTENT_TYPE, "text/html; charset=utf-8"), (header::CONTENT_SECURITY_POLICY, POLICY)], PAGE)
}
