//! A message's file.

use axum::body::Body;
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, State};
use axum::http::{HeaderValue, Response, header};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use tokio_util::io::ReaderStream;

use crate::api::{Api, ApiError};
use crate::http::body::path_error;
use crate::http::error::HttpError;

/// `GET /api/messages/:id/media`: the content, streamed.
pub(in crate::http) async fn media(
    State(api): State<Api>,
    path: Result<Path<String>, PathRejection>,
) -> Result<Response<Body>, HttpError> {
    let Path(id) = path.map_err(path_error)?;
    let file = api.message_media(&id).await?;
    let content = tokio::fs::File::open(&file.path).await;
    let content = content.map_err(|_| ApiError::MediaGone("the file is not kept any more".to_owned()))?;
    let mut response = Response::new(Body::from_stream(ReaderStream::new(content)));
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_LENGTH, file.size.into());
    let kind = HeaderValue::from_str(&file.mimetype);
    headers.insert(header::CONTENT_TYPE, kind.unwrap_or(HeaderValue::from_static("application/octet-stream")));
    // What others send is never shown as a page of ours.
    headers.insert("x-content-type-options", HeaderValue::from_static("nosniff"));
    let name = file.filename.as_deref().unwrap_or("file");
    let name = format!("attachment; filename*=UTF-8''{}", utf8_percent_encode(name, NON_ALPHANUMERIC));
    if let Ok(name) = HeaderValue::from_str(&name) {
        headers.insert(header::CONTENT_DISPOSITION, name);
    }
    Ok(response)
}
