//! Browsers on other pages: which origins may call, and what they may read of an answer.
//!
//! Keys travel in headers, never in cookies, so an answer for any origin gives nothing away that the page's script did not
//! have the key for.

use axum::extract::Request;
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use axum::response::{IntoResponse as _, Response};

use crate::api::CorsOrigins;
use crate::http::Door;

const METHODS: HeaderValue = HeaderValue::from_static("GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS");
const REQUEST_HEADERS: HeaderValue = HeaderValue::from_static(
    "Content-Type, X-API-Key, Authorization, Idempotency-Key, X-Request-Id, Last-Event-ID, Cache-Control",
);
const ANSWER_HEADERS: HeaderValue = HeaderValue::from_static("X-Request-Id, Retry-After, Allow, Content-Disposition");
/// How long a browser may remember a preflight, in seconds.
const MAX_AGE: HeaderValue = HeaderValue::from_static("600");

/// Answers preflights, and adds to answers what lets a page read them.
pub(in crate::http) async fn cors(
    door: &Door,
    request: Request,
    next: impl AsyncFnOnce(Request) -> Response,
) -> Response {
    let origin = request.headers().get(header::ORIGIN).cloned();
    let verdict = verdict(&door.settings.borrow().http.cors, origin);
    let Verdict::On { allowed, varies } = verdict else { return next(request).await };
    let is_preflight =
        request.method() == Method::OPTIONS && request.headers().contains_key(header::ACCESS_CONTROL_REQUEST_METHOD);
    let mut response = if is_preflight { StatusCode::NO_CONTENT.into_response() } else { next(request).await };
    let headers = response.headers_mut();
    if varies {
        headers.append(header::VARY, HeaderValue::from_static("Origin"));
    }
    if let Some(allowed) = allowed {
        add(headers, allowed, is_preflight);
    }
    response
}

fn add(headers: &mut HeaderMap, allowed: HeaderValue, is_preflight: bool) {
    headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, allowed);
    if is_preflight {
        headers.insert(header::ACCESS_CONTROL_ALLOW_METHODS, METHODS);
        headers.insert(header::ACCESS_CONTROL_ALLOW_HEADERS, REQUEST_HEADERS);
        headers.insert(header::ACCESS_CONTROL_MAX_AGE, MAX_AGE);
    } else {
        headers.insert(header::ACCESS_CONTROL_EXPOSE_HEADERS, ANSWER_HEADERS);
    }
}

/// What is said to a page.
#[derive(Debug, PartialEq, Eq)]
enum Verdict {
    /// Nothing: it is off.
    Off,
    /// That it is on.
    On {
        /// Who may read the answer, if anybody.
        allowed: Option<HeaderValue>,
        /// Another page would be told something else.
        varies: bool,
    },
}

fn verdict(origins: &CorsOrigins, origin: Option<HeaderValue>) -> Verdict {
    match origins {
        CorsOrigins::Off => Verdict::Off,
        CorsOrigins::Any => Verdict::On { allowed: origin.map(|_| HeaderValue::from_static("*")), varies: false },
        CorsOrigins::Only(only) => {
            let listed =
                |origin: &HeaderValue| origin.to_str().is_ok_and(|origin| only.contains(&origin.to_ascii_lowercase()));
            Verdict::On { allowed: origin.filter(listed), varies: true }
        }
    }
}
