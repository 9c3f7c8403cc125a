//! The one map from refusals to HTTP: status, code and words.

use std::sync::Arc;
use std::time::Duration;

use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;

use crate::api::{ApiError, Scopes};

/// Whatever a request is refused with.
#[derive(Debug)]
pub(super) enum HttpError {
    /// A use case refused.
    Api(ApiError),
    /// The body is no JSON object; what is wrong, and where.
    InvalidJson(String),
    /// No key, or a wrong one; what to do.
    Unauthorized(&'static str),
    /// The key may not do this.
    Forbidden {
        /// The key's name.
        name: Arc<str>,
        /// What it may do.
        has: Scopes,
        /// One of these would do.
        needed: Scopes,
    },
    /// No such path.
    NoSuchRoute,
    /// The path is there, for other methods.
    MethodNotAllowed,
    /// The body is over the limit, in bytes.
    TooLarge(usize),
    /// The body is of another type.
    UnsupportedMediaType(String),
    /// The body did not come in time.
    TooSlow,
    /// Too many requests.
    RateLimited {
        /// When the next one is let in.
        wait: Duration,
        /// Whose were too many.
        what: &'static str,
    },
    /// A fault of ours.
    Internal,
}

/// The body of every refusal.
#[derive(Serialize)]
struct Body<'a> {
    success: bool,
    error: &'a str,
    code: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    field: Option<&'a str>,
}

/// What a 5xx says instead of its cause.
const STORE_WORDS: &str = "the store does not accept work right now; try again shortly, with an Idempotency-Key so that nothing can go out twice";
const INTERNAL_WORDS: &str = "something went wrong inside waya; its log says what";

impl HttpError {
    fn status(&self) -> StatusCode {
        match self {
            Self::Api(error) => match error.code() {
                "recipient_not_allowed" | "recipient_opted_out" => StatusCode::FORBIDDEN,
                "not_found" | "no_media" => StatusCode::NOT_FOUND,
                "idempotency_conflict"
                | "not_cancellable"
                | "not_possible"
                | "not_retryable"
                | "pinned"
                | "already_linked"
                | "not_linked"
                | "passkey_not_asked"
                | "too_many" => StatusCode::CONFLICT,
                "too_large" => StatusCode::PAYLOAD_TOO_LARGE,
                "invalid_recipient" | "nothing_to_send" | "invalid_field" | "invalid_media" => {
                    StatusCode::UNPROCESSABLE_ENTITY
                }
                "not_implemented" => StatusCode::NOT_IMPLEMENTED,
                "store_unavailable" | "not_connected" => StatusCode::SERVICE_UNAVAILABLE,
                "refused_by_whatsapp" | "media_unavailable" => StatusCode::BAD_GATEWAY,
                _ => StatusCode::INTERNAL_SERVER_ERROR,
            },
            Self::InvalidJson(_) => StatusCode::BAD_REQUEST,
            Self::Unauthorized(_) => StatusCode::UNAUTHORIZED,
            Self::Forbidden { .. } => StatusCode::FORBIDDEN,
            Self::NoSuchRoute => StatusCode::NOT_FOUND,
            Self::MethodNotAllowed => StatusCode::METHOD_NOT_ALLOWED,
            Self::TooLarge(_) => StatusCode::PAYLOAD_TOO_LARGE,
            Self::UnsupportedMediaType(_) => StatusCode::UNSUPPORTED_MEDIA_TYPE,
            Self::TooSlow => StatusCode::REQUEST_TIMEOUT,
            Self::RateLimited { .. } => StatusCode::TOO_MANY_REQUESTS,
            Self::Internal => StatusCode::INTERNAL_SERVER_ERROR,
        }
    }

    fn code(&self) -> &'static str {
        match self {
            Self::Api(error) => error.code(),
            Self::InvalidJson(_) => "invalid_json",
            Self::Unauthorized(_) => "unauthorized",
            Self::Forbidden { .. } => "forbidden",
            Self::NoSuchRoute => "not_found",
            Self::MethodNotAllowed => "method_not_allowed",
            Self::TooLarge(_) => "too_large",
            Self::UnsupportedMediaType(_) => "unsupported_media_type",
            Self::TooSlow => "timeout",
            Self::RateLimited { .. } => "rate_limited",
            Self::Internal => "internal",
        }
    }

    fn words(&self) -> String {
        match self {
            Self::Api(error) => match error.code() {
                "store_unavailable" => STORE_WORDS.to_owned(),
                "internal" => INTERNAL_WORDS.to_owned(),
                "refused_by_whatsapp" => "WhatsApp refused; waya's log says why".to_owned(),
                _ => error.to_string(),
            },
            Self::InvalidJson(words) | Self::UnsupportedMediaType(words) => words.clone(),
            Self::Unauthorized(words) => (*words).to_owned(),
            Self::Forbidden { name, has, needed } => {
                let (has, needed): (Vec<_>, Vec<_>) = (has.words().collect(), needed.words().collect());
                let (has, needed) = (has.join(" and "), needed.join(" or "));
                format!(
                    "this needs an API key with the scope {needed}; the key {name:?} has {has} only. `waya settings \
                     api-key create NAME --scope {}` makes one",
                    needed.split(' ').next().unwrap_or("admin")
                )
            }
            Self::NoSuchRoute => "there is nothing at this path; the API is under /api/".to_owned(),
            Self::MethodNotAllowed => {
                "this path does not take this method; the Allow header lists those it does".to_owned()
            }
            Self::TooLarge(limit) => {
                format!("the body is larger than {limit} bytes; split the request, or raise http.body_limit")
            }
            Self::TooSlow => "the body did not arrive in time; send it faster".to_owned(),
            Self::RateLimited { wait, what } => {
                format!("{what}; try again in {} s", whole_seconds(*wait))
            }
            Self::Internal => INTERNAL_WORDS.to_owned(),
        }
    }
}

/// Rounded up: a second too early would be refused again.
fn whole_seconds(wait: Duration) -> u64 {
    wait.as_millis().div_ceil(1000).max(1) as u64
}

impl IntoResponse for HttpError {
    fn into_response(self) -> Response {
        let status = self.status();
        if let (Self::Api(error), true) = (&self, status.is_server_error() && status != StatusCode::NOT_IMPLEMENTED) {
            tracing::warn!(%error, code = error.code(), "a request failed");
        }
        let field = if let Self::Api(error) = &self { error.field() } else { None };
        let body = Body { success: false, error: &self.words(), code: self.code(), field };
        let wait = if let Self::RateLimited { wait, .. } = &self { Some(whole_seconds(*wait)) } else { None };
        let mut response = (status, axum::Json(body)).into_response();
        let headers = response.headers_mut();
        match status {
            StatusCode::UNAUTHORIZED => {
                headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
            }
            StatusCode::SERVICE_UNAVAILABLE => {
                headers.insert(header::RETRY_AFTER, HeaderValue::from_static("5"));
            }
            _ => {}
        }
        if let Some(wait) = wait {
            headers.insert(header::RETRY_AFTER, wait.into());
        }
        response
    }
}

impl From<ApiError> for HttpError {
    fn from(error: ApiError) -> Self {
        Self::Api(error)
    }
}
