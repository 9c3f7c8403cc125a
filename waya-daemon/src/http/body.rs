//! Reading a request's body within its limits, and the query's and path's words.

use std::time::Duration;

use axum::body::Body;
use axum::extract::rejection::{PathRejection, QueryRejection};
use axum::http::{HeaderMap, header};
use http_body_util::BodyExt as _;
use tokio::time::Instant;

use super::Options;
use super::error::HttpError;
use crate::api::ApiError;

/// So many bytes a second have to come of a body, once its first time is over: a document takes its time on a thin line.
const BYTES_A_SECOND: f64 = 262_144.0;
/// Room made for a body on the word of its sender, in bytes; the rest comes with the bytes.
const FIRST: usize = 1 << 20;

/// How long a body may go on: for as long as every body may, and longer for what came of it. Who dribbles is left.
#[derive(Debug)]
pub(super) struct Patience {
    until: Instant,
}

impl Patience {
    /// From now on.
    pub(super) fn new(options: &Options) -> Self {
        Self { until: Instant::now() + options.body_timeout }
    }

    /// Waits for the next piece.
    pub(super) async fn wait<T>(&self, piece: impl Future<Output = T>) -> Result<T, HttpError> {
        tokio::time::timeout_at(self.until, piece).await.map_err(|_| HttpError::TooSlow)
    }

    /// So much of it came.
    pub(super) fn came(&mut self, bytes: usize) {
        self.until += Duration::from_secs_f64(bytes as f64 / BYTES_A_SECOND);
    }
}

/// The whole body of a JSON request.
pub(super) async fn read_json(headers: &HeaderMap, mut body: Body, options: &Options) -> Result<Vec<u8>, HttpError> {
    check_type(headers)?;
    let announced: Option<u64> =
        headers.get(header::CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse().ok());
    let limit = options.body_limit;
    let too_large = || HttpError::TooLarge(limit);
    if announced.is_some_and(|length| length > limit as u64) {
        return Err(too_large());
    }
    let mut patience = Patience::new(options);
    // In one piece, and never held twice.
    let mut bytes = Vec::with_capacity(announced.map_or(0, |length| (length as usize).min(FIRST)));
    while let Some(frame) = patience.wait(body.frame()).await? {
        let frame = frame.map_err(|_| HttpError::InvalidJson("the body ended early".to_owned()))?;
        let Ok(data) = frame.into_data() else { continue };
        if bytes.len() + data.len() > limit {
            return Err(too_large());
        }
        patience.came(data.len());
        bytes.extend_from_slice(&data);
    }
    Ok(bytes)
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
