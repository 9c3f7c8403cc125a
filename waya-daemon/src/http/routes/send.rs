//! Accepting messages.

use axum::extract::Request;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::{Extension, Json};

use super::{multipart, send_body};
use crate::api::ApiError;
use crate::api::view::SendAnswer;
use crate::http::Door;
use crate::http::auth::key_identity;
use crate::http::body::{is_multipart, read_json};
use crate::http::edge::record::Queued;
use crate::http::error::HttpError;
use crate::model::Source;

/// `POST /api/send-message`: 202 once it is on disk; a dry run is a 200.
pub(in crate::http) async fn send(
    State(door): State<Door>,
    request: Request,
) -> Result<(StatusCode, Extension<Queued>, Json<SendAnswer>), HttpError> {
    let api_key = key_identity(request.extensions());
    let mut request = if is_multipart(request.headers()) {
        multipart::read(&door, request).await?
    } else {
        let (head, body) = request.into_parts();
        let bytes = read_json(&head.headers, body, &door.options).await?;
        send_body::read(&bytes, header_key(&head.headers)?)?
    };
    request.api_key = api_key;
    let answer = door.api.send(request, Source::Api).await?;
    let status = if answer.dry_run { StatusCode::OK } else { StatusCode::ACCEPTED };
    let queued = answer.messages.iter().filter_map(|message| message.id).collect();
    Ok((status, Extension(Queued(queued)), Json(answer)))
}

pub(super) fn header_key(headers: &HeaderMap) -> Result<Option<&str>, ApiError> {
    headers
        .get("idempotency-key")
        .map(|key| std::str::from_utf8(key.as_bytes()))
        .transpose()
        .map_err(|_| ApiError::field_error("idempotency_key", "is not valid UTF-8"))
}
