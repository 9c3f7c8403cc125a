//! Probes without a key: they tell nothing but yes or no.

use axum::Json;
use axum::extract::State;
use serde_json::{Value, json};

use crate::api::Api;
use crate::http::error::HttpError;

/// `GET /livez`: the process answers.
pub(in crate::http) async fn live() -> Json<Value> {
    Json(json!({ "live": true }))
}

/// `GET /readyz`: the store accepts work, whatever the link.
pub(in crate::http) async fn ready(State(api): State<Api>) -> Result<Json<Value>, HttpError> {
    api.ready()?;
    Ok(Json(json!({ "ready": true })))
}
