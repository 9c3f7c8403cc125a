//! The log of HTTP requests.

use std::collections::BTreeMap;

use serde::Serialize;
use waya_proto::v1;

/// Logged requests, newest first.
#[derive(Debug, Clone, Serialize)]
pub struct Requests {
    #[serde(rename = "requests")]
    rows: Vec<Summary>,
    next: Option<String>,
    dropped: u64,
}

/// A logged request in short.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
struct Summary {
    id: String,
    request_id: String,
    at: i64,
    method: String,
    url: String,
    status: Option<u32>,
    duration_ms: u64,
    ip: String,
    key: Option<String>,
}

/// A logged request.
#[derive(Debug, Clone, Serialize)]
pub struct Row {
    #[serde(flatten)]
    summary: Summary,
    request: Side,
    response: Side,
}

#[derive(Debug, Clone, Serialize)]
struct Side {
    headers: BTreeMap<String, String>,
    body: Option<String>,
    size: u64,
}

/// What became of a clearing.
#[derive(Debug, Clone, Serialize)]
pub struct Cleared {
    success: bool,
    cleared: u64,
}

impl From<v1::ListRequestsResponse> for Requests {
    fn from(list: v1::ListRequestsResponse) -> Self {
        let rows = list.requests.into_iter().map(Summary::from).collect();
        Self { rows, next: list.next, dropped: list.dropped }
    }
}

impl From<v1::LoggedRequest> for Summary {
    fn from(row: v1::LoggedRequest) -> Self {
        Self {
            id: row.id,
            request_id: row.request_id,
            at: row.at,
            method: row.method,
            url: row.url,
            status: row.status,
            duration_ms: row.duration_ms,
            ip: row.ip,
            key: row.key,
        }
    }
}

impl From<v1::GetRequestResponse> for Row {
    fn from(row: v1::GetRequestResponse) -> Self {
        let side = |side: Option<v1::RequestSide>| Side::from(side.unwrap_or_default());
        Self {
            summary: row.summary.unwrap_or_default().into(),
            request: side(row.request),
            response: side(row.response),
        }
    }
}

impl From<v1::RequestSide> for Side {
    fn from(side: v1::RequestSide) -> Self {
        Self { headers: side.headers.into_iter().collect(), body: side.body, size: side.size }
    }
}

impl From<v1::ClearRequestsResponse> for Cleared {
    fn from(answer: v1::ClearRequestsResponse) -> Self {
        Self { success: true, cleared: answer.cleared }
    }
}
