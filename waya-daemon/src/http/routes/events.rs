//! The journal.

use std::time::Duration;

use axum::Json;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, State};
use serde::Deserialize;

use crate::api::view::EventsView;
use crate::api::{Api, DEFAULT_EVENTS, MAX_EVENTS, MAX_WAIT};
use crate::http::body::{query_error, query_number};
use crate::http::error::HttpError;

/// What may be asked.
#[derive(Deserialize)]
pub(in crate::http) struct Read {
    after: Option<String>,
    limit: Option<String>,
    wait: Option<String>,
}

/// `GET /api/events?after=CURSOR&limit=N&wait=SECONDS`: what came after the cursor; with `wait`, once there is any.
pub(in crate::http) async fn read(
    State(api): State<Api>,
    query: Result<Query<Read>, QueryRejection>,
) -> Result<Json<EventsView>, HttpError> {
    let Query(read) = query.map_err(|rejection| query_error(&rejection))?;
    let limit = query_number("limit", read.limit.as_deref(), 1..=MAX_EVENTS, DEFAULT_EVENTS)?;
    let seconds = query_number("wait", read.wait.as_deref(), 0..=MAX_WAIT.as_secs() as usize, 0)?;
    let after = read.after.as_deref().unwrap_or("0");
    Ok(Json(api.events(after, limit, Duration::from_secs(seconds as u64)).await?))
}
