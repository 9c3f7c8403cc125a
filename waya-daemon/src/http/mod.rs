//! The HTTP door: JSON under `/api`, behind the API key, and two health probes without it.
//!
//! Owns its connections, their limits and the shape of errors; every decision is `api`'s. It is woken by its
//! connections only, and never answers with a cause it has not looked at.

mod auth;
mod body;
mod error;
mod routes;
mod server;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::{DefaultBodyLimit, FromRef};
use axum::middleware::from_fn_with_state;
use axum::routing::{delete, get, patch, post, put};

pub use server::serve;

use crate::api::Api;
use error::HttpError;
use routes::{deeds, events, health, media, message, passkey, queue, send, session};

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
            drain_timeout: Duration::from_secs(5),
        }
    }
}

/// What handlers stand on.
#[derive(Debug, Clone)]
struct Door {
    api: Api,
    options: Arc<Options>,
}

impl FromRef<Door> for Api {
    fn from_ref(door: &Door) -> Self {
        door.api.clone()
    }
}

/// All routes.
fn router(api: Api, options: Options) -> Router {
    let door = Door { api, options: Arc::new(options) };
    let keyed = Router::new()
        .route("/api/send-message", post(send::send))
        .route("/api/message-status/{id}", get(message::status))
        .route("/api/messages/{id}", patch(deeds::edit).delete(deeds::revoke))
        .route("/api/messages/{id}/media", get(media::media))
        .route("/api/messages/{id}/reaction", put(deeds::react).delete(deeds::take_back))
        .route("/api/messages/{id}/forward", post(deeds::forward))
        .route("/api/queue", get(queue::list))
        .route("/api/queue/{id}", delete(queue::cancel))
        .route("/api/events", get(events::read))
        .route("/api/session", get(session::session))
        .route("/api/session/passkey", post(passkey::answer))
        .route("/api/session/passkey/confirm", post(passkey::confirm))
        .route("/api/status", get(session::status))
        .route_layer(from_fn_with_state(door.api.clone(), auth::require_key));
    Router::new()
        .merge(keyed)
        .route("/livez", get(health::live))
        .route("/readyz", get(health::ready))
        .fallback(|| async { HttpError::NoSuchRoute })
        .method_not_allowed_fallback(|| async { HttpError::MethodNotAllowed })
        // Bodies have limits of ours.
        .layer(DefaultBodyLimit::disable())
        .with_state(door)
}
