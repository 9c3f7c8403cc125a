//! How the link and the daemon stand.

use axum::Json;
use axum::extract::State;

use crate::api::Api;
use crate::api::view::{SessionView, StatusView};
use crate::http::error::HttpError;

/// `GET /api/session`.
pub(in crate::http) async fn session(State(api): State<Api>) -> Json<SessionView> {
    Json(api.session())
}

/// `GET /api/status`.
pub(in crate::http) async fn status(State(api): State<Api>) -> Result<Json<StatusView>, HttpError> {
    Ok(Json(api.status().await?))
}
