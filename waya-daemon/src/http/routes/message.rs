//! One message's status.

use std::time::Duration;

use axum::Json;
use axum::extract::rejection::{PathRejection, QueryRejection};
use axum::extract::{Path, Query, State};
use serde::Deserialize;

use crate::api::view::MessageView;
use crate::api::{Api, ApiError, MAX_WAIT, WaitFor};
use crate::http::body::{path_error, query_error, query_number};
use crate::http::error::HttpError;

/// How long to wait when the caller does not say, in seconds.
const DEFAULT_WAIT: usize = 60;

/// What may be asked.
#[derive(Deserialize)]
pub(in crate::http) struct Wait {
    wait: Option<String>,
    timeout: Option<String>,
}

/// `GET /api/message-status/:id?wait=sent|delivered|read&timeout=SECONDS`.
pub(in crate::http) async fn status(
    State(api): State<Api>,
    path: Result<Path<String>, PathRejection>,
    query: Result<Query<Wait>, QueryRejection>,
) -> Result<Json<MessageView>, HttpError> {
    let Path(id) = path.map_err(path_error)?;
    let Query(wait) = query.map_err(|rejection| query_error(&rejection))?;
    let seconds = query_number("timeout", wait.timeout.as_deref(), 1..=MAX_WAIT.as_secs() as usize, DEFAULT_WAIT)?;
    let view = match wait.wait.as_deref() {
        None => api.message(&id).await?,
        Some(word) => {
            let target = WaitFor::from_word(word)
                .ok_or_else(|| ApiError::field_error("wait", "must be sent, delivered or read"))?;
            api.wait_message(&id, target, Duration::from_secs(seconds as u64)).await?
        }
    };
    Ok(Json(view))
}
