//! The HTTP door: JSON under `/api`, behind API keys; its description and two health probes without one.
//!
//! Owns its connections, their limits and the shape of errors; every decision is `api`'s. It is woken by its
//! connections only, and never answers with a cause it has not looked at.

mod auth;
mod body;
mod edge;
mod error;
mod openapi;
mod parting;
mod routes;
mod server;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::FromRef;
use axum::http::{Method, StatusCode};
use axum::middleware::from_fn_with_state;
use axum::response::{IntoResponse as _, Response};
use axum::routing::{delete, get, patch, post, put};

pub use server::serve;
use tokio::sync::watch;

use crate::api::{Api, Scopes, Snapshot};
use auth::Guard;
use edge::limits::Limits;
use error::HttpError;
use routes::{deeds, events, health, media, message, passkey, queue, requests, send, session};

/// Limits of the door.
#[derive(Debug, Clone)]
pub struct Options {
    /// The largest body in JSON, in bytes; files of other bodies have their own limits.
    pub body_limit: usize,
    /// The most connections at once; more of them wait.
    pub max_connections: usize,
    /// How long a request's head may take, and how long a kept-alive connection may be silent.
    pub header_timeout: Duration,
    /// How long a body may take.
    pub body_timeout: Duration,
    /// How long the caller may read nothing of an answer.
    pub write_timeout: Duration,
    /// How long requests under way may take once the daemon stops.
    pub drain_timeout: Duration,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            body_limit: 140 << 20,
            max_connections: 1024,
            header_timeout: Duration::from_secs(30),
            body_timeout: Duration::from_secs(30),
            write_timeout: Duration::from_secs(60),
            drain_timeout: Duration::from_secs(5),
        }
    }
}

/// What handlers stand on.
#[derive(Debug, Clone)]
struct Door {
    api: Api,
    options: Arc<Options>,
    /// Shared, because handlers get a door of their own for every request.
    settings: Arc<watch::Receiver<Snapshot>>,
    limits: Arc<Limits>,
}

impl Door {
    fn new(api: Api, options: Options) -> Self {
        let settings = Arc::new(api.settings_watch());
        Self { api, options: Arc::new(options), settings, limits: Arc::default() }
    }
}

impl FromRef<Door> for Api {
    fn from_ref(door: &Door) -> Self {
        door.api.clone()
    }
}

/// `OPTIONS` is answered wherever there is a route; the `Allow` header comes with either answer.
async fn other_method(method: Method) -> Response {
    match method {
        Method::OPTIONS => StatusCode::NO_CONTENT.into_response(),
        _ => HttpError::MethodNotAllowed.into_response(),
    }
}

/// What a key with the scope `send` may do.
fn sending() -> Router<Door> {
    Router::new()
        .route("/api/send-message", post(send::send))
        .route("/api/messages/{id}", patch(deeds::edit).delete(deeds::revoke))
        .route("/api/messages/{id}/reaction", put(deeds::react).delete(deeds::take_back))
        .route("/api/messages/{id}/forward", post(deeds::forward))
        .route("/api/queue/{id}", delete(queue::cancel))
}

/// What a key with `send` or with `read` may do: whoever sends may ask what became of it.
fn following() -> Router<Door> {
    Router::new().route("/api/message-status/{id}", get(message::status))
}

/// What a key with the scope `read` may do: everything that only looks.
fn reading() -> Router<Door> {
    Router::new()
        .route("/api/messages/{id}/media", get(media::media))
        .route("/api/queue", get(queue::list))
        .route("/api/queue/{id}", get(queue::show))
        .route("/api/requests", get(requests::list))
        .route("/api/requests/{id}", get(requests::show))
        .route("/api/events", get(events::read))
        .route("/api/session", get(session::session))
        .route("/api/status", get(session::status))
}

/// What only a key with the scope `admin` may do.
fn governing() -> Router<Door> {
    Router::new()
        .route("/api/requests", delete(requests::clear))
        .route("/api/session/passkey", post(passkey::answer))
        .route("/api/session/passkey/confirm", post(passkey::confirm))
}

/// All routes.
fn router(door: Door) -> Router {
    let needs = |needed: Scopes, routes: Router<Door>| {
        routes.route_layer(from_fn_with_state(Guard { door: door.clone(), needed }, auth::require_key))
    };
    Router::new()
        .merge(needs(Scopes::SEND, sending()))
        .merge(needs(Scopes::SEND_OR_READ, following()))
        .merge(needs(Scopes::READ, reading()))
        .merge(needs(Scopes::ADMIN, governing()))
        .route("/api/openapi.json", get(openapi::spec))
        .route("/api/docs", get(openapi::page))
        .route("/livez", get(health::live))
        .route("/readyz", get(health::ready))
        .fallback(|| async { HttpError::NoSuchRoute })
        .method_not_allowed_fallback(other_method)
        .with_state(door)
}
