//! The log of requests.

use axum::Json;
use axum::extract::rejection::{PathRejection, QueryRejection};
use axum::extract::{Path, Query, State};
use serde::Deserialize;

use crate::api::view::{ClearedView, RequestView, RequestsView};
use crate::api::{Api, DEFAULT_REQUESTS, MAX_REQUESTS};
use crate::http::body::{path_error, query_error, query_number};
use crate::http::error::HttpError;

/// What may be asked.
#[derive(Deserialize)]
pub(in crate::http) struct List {
    before: Option<String>,
    limit: Option<String>,
}

/// `GET /api/requests?before=ID&limit=N`: newest first.
pub(in crate::http) async fn list(
    State(api): State<Api>,
    query: Result<Query<List>, QueryRejection>,
) -> Result<Json<RequestsView>, HttpError> {
    let Query(list) = query.map_err(|rejection| query_error(&rejection))?;
    let limit = query_number("limit", list.limit.as_deref(), 1..=MAX_REQUESTS, DEFAULT_REQUESTS)?;
    let before = list.before.as_deref().filter(|before| !before.is_empty());
    Ok(Json(api.requests(before, limit).await?))
}

/// `GET /api/requests/:id`: by its id, its `X-Request-Id`, or a message that it put into the queue.
pub(in crate::http) async fn show(
    State(api): State<Api>,
    path: Result<Path<String>, PathRejection>,
) -> Result<Json<RequestView>, HttpError> {
    let Path(id) = path.map_err(path_error)?;
    Ok(Json(api.request(&id).await?))
}

/// `DELETE /api/requests`: forgets them all.
pub(in crate::http) async fn clear(State(api): State<Api>) -> Result<Json<ClearedView>, HttpError> {
    Ok(Json(api.clear_requests().await?))
}
