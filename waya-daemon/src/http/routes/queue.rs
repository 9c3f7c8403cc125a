//! The queue.

use axum::Json;
use axum::extract::rejection::{PathRejection, QueryRejection};
use axum::extract::{Path, Query, State};
use serde::Deserialize;

use crate::api::view::{MessageView, QueueView, QueuedView};
use crate::api::{Api, ApiError, DEFAULT_LIST, ListRequest, MAX_LIST};
use crate::http::body::{path_error, query_error, query_number};
use crate::http::error::HttpError;
use crate::model::Status;

/// What may be asked.
#[derive(Deserialize)]
pub(in crate::http) struct List {
    status: Option<String>,
    before: Option<String>,
    limit: Option<String>,
}

/// `GET /api/queue?status=pending,sending&before=ID&limit=N`: newest first.
pub(in crate::http) async fn list(
    State(api): State<Api>,
    query: Result<Query<List>, QueryRejection>,
) -> Result<Json<QueueView>, HttpError> {
    let Query(list) = query.map_err(|rejection| query_error(&rejection))?;
    let words = list.status.as_deref().unwrap_or_default();
    let statuses =
        words.split(',').map(str::trim).filter(|word| !word.is_empty()).map(status).collect::<Result<_, _>>()?;
    let limit = query_number("limit", list.limit.as_deref(), 1..=MAX_LIST, DEFAULT_LIST)?;
    let before = list.before.filter(|before| !before.is_empty());
    Ok(Json(api.queue_list(ListRequest { statuses, before, limit }).await?))
}

/// `GET /api/queue/:id`: a message, and the request that put it there.
pub(in crate::http) async fn show(
    State(api): State<Api>,
    path: Result<Path<String>, PathRejection>,
) -> Result<Json<QueuedView>, HttpError> {
    let Path(id) = path.map_err(path_error)?;
    Ok(Json(api.queued(&id).await?))
}

/// `DELETE /api/queue/:id`: takes a pending message back.
pub(in crate::http) async fn cancel(
    State(api): State<Api>,
    path: Result<Path<String>, PathRejection>,
) -> Result<Json<MessageView>, HttpError> {
    let Path(id) = path.map_err(path_error)?;
    Ok(Json(api.cancel(&id).await?))
}

fn status(word: &str) -> Result<Status, HttpError> {
    [Status::Pending, Status::Sending, Status::Sent, Status::Failed, Status::Cancelled]
        .into_iter()
        .find(|status| status.as_str() == word)
        .ok_or_else(|| ApiError::field_error("status", "must be of pending, sending, sent, failed, cancelled").into())
}
