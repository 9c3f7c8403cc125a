//! Reading a request's body within its limits, and the query's and path's words.

use std::time::Duration;

use axum::body::Body;
use axum::extract::rejection::{PathRejection, QueryRejection};
use axum::http::{HeaderMap, header};
use bytes::Bytes;
use http_body_util::{BodyExt as _, LengthLimitError, Limited};

use super::Options;
use super::error::HttpError;
use crate::api::ApiError;

/// What is read and thrown away of a body that is too large, so that its sender gets to read the answer.
const SWALLOW: usize = 64 << 20;
/// A large body that is announced may take a second more for so many bytes.
const BYTES_A_SECOND: u64 = 256 << 10;
/// How long that may take.
const SWALLOW_FOR: Duration = Duration::from_secs(2);

/// The whole body of a JSON request.
pub(super) async fn read_json(headers: &HeaderMap, mut body: Body, options: &Options) -> Result<Bytes, HttpError> {
    check_type(headers)?;
    let limit = options.body_limit;
    let announced = headers.get(header::CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse().ok());
    let refused = if announced.is_some_and(|length: u64| length > limit as u64) {
        HttpError::TooLarge(limit)
    } else {
        let read = Limited::new(&mut body, limit).collect();
        // A document takes its time on a thin line.
        let patience = options.body_timeout + Duration::from_secs(announced.unwrap_or_default() / BYTES_A_SECOND);
        match tokio::time::timeout(patience, read).await {
            Ok(Ok(read)) => return Ok(read.to_bytes()),
            Ok(Err(error)) if error.is::<LengthLimitError>() => HttpError::TooLarge(limit),
            Ok(Err(_)) => return Err(HttpError::InvalidJson("the body ended early".to_owned())),
            Err(_) => return Err(HttpError::TooSlow),
        }
    };
    let _ = tokio::time::timeout(SWALLOW_FOR, Limited::new(body, SWALLOW).collect()).await;
    Err(refused)
}

/// Whether the body is a form with files.
pub(super) fn is_multipart(headers: &HeaderMap) -> bool {
    let given = headers.get(header::CONTENT_TYPE).and_then(|given| given.to_str().ok()).unwrap_or_default();
    given.split(';').next().is_some_and(|kind| kind.trim().eq_ignore_ascii_case("multipart/form-data"))
}

/// JSON, or nothing said.
fn check_type(headers: &HeaderMap) -> Result<(), HttpError> {
    let Some(given) = headers.get(header::CONTENT_TYPE) else { return Ok(()) };
    let given = String::from_utf8_lossy(given.as_bytes());
    let kind = given.split(';').next().unwrap_or_default().trim();
    let (main, sub) = kind.split_once('/').unwrap_or((kind, ""));
    let is = |a: &str, b: &str| a.eq_ignore_ascii_case(b);
    if is(main, "application") && (is(sub, "json") || sub.to_ascii_lowercase().ends_with("+json")) {
        return Ok(());
    }
    Err(HttpError::UnsupportedMediaType(format!(
        "the body must be JSON (Content-Type: application/json), not {kind:?}"
    )))
}

/// A path's words that are no UTF-8.
pub(super) fn path_error(_: PathRejection) -> HttpError {
    ApiError::field_error("id", "is not valid UTF-8 once its %-signs are decoded").into()
}

/// A query that cannot be read.
pub(super) fn query_error(rejection: &QueryRejection) -> HttpError {
    ApiError::field_error("query", format!("cannot be read: {}", rejection.body_text())).into()
}

/// A number in the query.
pub(super) fn query_number(
    field: &'static str,
    given: Option<&str>,
    fits: std::ops::RangeInclusive<usize>,
    default: usize,
) -> Result<usize, HttpError> {
    let Some(given) = given.filter(|given| !given.is_empty()) else { return Ok(default) };
    given.parse().ok().filter(|number| fits.contains(number)).ok_or_else(|| {
        ApiError::field_error(field, format!("must be a number from {} to {}", fits.start(), fits.end())).into()
    })
}
