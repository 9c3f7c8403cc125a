//! One logged request: as it passed, and as it is kept.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::http::{HeaderMap, Method, Uri};
use serde::{Deserialize, Serialize};

use super::body::{Kept, Seen};
use super::mask::{MASK, is_secret};
use crate::model::{MessageId, Timestamp};

/// The longest URL that is kept, in characters.
const MAX_URL: usize = 2048;
/// So much of all headers is kept, in bytes.
const MAX_HEADERS: usize = 16 << 10;

/// A request as it passed, before anything is made of it.
#[derive(Debug)]
pub struct Passed {
    /// The name in `X-Request-Id`.
    pub request_id: String,
    /// When it came.
    pub at: Timestamp,
    /// How long it took, to the last byte of the answer.
    pub took: Duration,
    /// Its method.
    pub method: Method,
    /// What it asked for.
    pub uri: Uri,
    /// The answer's status; none when the caller went away before.
    pub status: Option<u16>,
    /// Who asked.
    pub ip: IpAddr,
    /// The name of the API key.
    pub key: Option<Arc<str>>,
    /// The request's headers.
    pub headers: HeaderMap,
    /// The request's body.
    pub body: Seen,
    /// The answer's headers.
    pub answer_headers: HeaderMap,
    /// The answer's body.
    pub answer_body: Seen,
    /// The messages that it put into the queue.
    pub messages: Option<Arc<[MessageId]>>,
}

/// A logged request in short.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Summary {
    /// Its id in the log.
    pub id: String,
    /// The name in `X-Request-Id`.
    pub request_id: String,
    /// When it came.
    pub at: Timestamp,
    /// Its method.
    pub method: String,
    /// Path and query, secrets masked.
    pub url: String,
    /// The answer's status; none when the caller went away before.
    pub status: Option<u16>,
    /// How long it took, in milliseconds.
    pub duration_ms: u64,
    /// Who asked.
    pub ip: IpAddr,
    /// The name of the API key that it came with.
    pub key: Option<String>,
}

/// One side of a logged request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Side {
    /// The headers, by name, secrets masked.
    pub headers: serde_json::Map<String, serde_json::Value>,
    /// The body, secrets masked, files left out, cut; none when it was empty.
    pub body: Option<String>,
    /// The whole body's size in bytes.
    pub size: u64,
}

/// A logged request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Row {
    /// In short.
    #[serde(flatten)]
    pub summary: Summary,
    /// What was asked.
    pub request: Side,
    /// What was answered.
    pub response: Side,
}

/// Which messages a request put into the queue: exact but for one in millions, in a few bytes each.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Marks {
    first: MessageId,
    last: MessageId,
    tails: Vec<u32>,
}

impl Marks {
    /// `None` for no messages.
    pub(super) fn of(messages: &[MessageId]) -> Option<Self> {
        let (first, last) = (messages.iter().min()?, messages.iter().max()?);
        Some(Self { first: *first, last: *last, tails: messages.iter().map(|id| tail(*id)).collect() })
    }

    /// Whether this message is one of them.
    pub(super) fn has(&self, id: MessageId) -> bool {
        (self.first..=self.last).contains(&id) && self.tails.contains(&tail(id))
    }
}

/// The random end of an id.
fn tail(id: MessageId) -> u32 {
    id.0.as_u128() as u32
}

impl Passed {
    /// As it is kept, under this id.
    pub(super) fn row(self, id: String) -> (Row, Option<Marks>) {
        let marks = self.messages.as_deref().and_then(Marks::of);
        let summary = Summary {
            id,
            request_id: self.request_id,
            at: self.at,
            method: self.method.to_string(),
            url: url(&self.uri),
            status: self.status,
            duration_ms: self.took.as_millis() as u64,
            ip: self.ip,
            key: self.key.map(|key| key.to_string()),
        };
        let (request, response) = (side(&self.headers, self.body), side(&self.answer_headers, self.answer_body));
        (Row { summary, request, response }, marks)
    }
}

fn side(headers: &HeaderMap, body: Seen) -> Side {
    let Kept { size, text } = body.finish();
    let mut kept = serde_json::Map::new();
    let mut room = MAX_HEADERS;
    for name in headers.keys() {
        let mut values: Vec<_> =
            headers.get_all(name).iter().map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned()).collect();
        if is_secret(name.as_str()) {
            values = vec![MASK.to_owned()];
        }
        let value = values.join(", ");
        let Some(left) = room.checked_sub(name.as_str().len() + value.len()) else { continue };
        room = left;
        kept.insert(name.to_string(), value.into());
    }
    Side { headers: kept, body: text, size }
}

/// Path and query; the values of secrets masked.
fn url(uri: &Uri) -> String {
    let mut url = uri.path().to_owned();
    if let Some(query) = uri.query() {
        let masked = query.split('&').map(|pair| match pair.split_once('=') {
            Some((name, _)) if is_secret_parameter(name) => format!("{name}={MASK}"),
            _ => pair.to_owned(),
        });
        url.push('?');
        url.push_str(&masked.collect::<Vec<_>>().join("&"));
    }
    if url.len() > MAX_URL {
        url = url.chars().take(MAX_URL).chain(['…']).collect();
    }
    url
}

fn is_secret_parameter(name: &str) -> bool {
    let name = percent_encoding::percent_decode_str(name).decode_utf8_lossy();
    name.eq_ignore_ascii_case("key") || is_secret(&name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use uuid::Uuid;

    #[test]
    fn secrets_of_the_query_and_the_headers_are_masked() {
        let uri = |text: &str| url(&text.parse().unwrap());
        assert_eq!(
            uri("/api/events?after=0&api_key=x&X%2Dtoken=y&wait"),
            "/api/events?after=0&api_key=***&X%2Dtoken=***&wait"
        );
        let mut headers = HeaderMap::new();
        for (name, value) in [("x-api-key", "k"), ("cookie", "a"), ("authorization", "Bearer k"), ("accept", "*/*")] {
            headers.append(name, value.parse().unwrap());
        }
        headers.append("accept", "text/html".parse().unwrap());
        let kept = serde_json::to_string(&side(&headers, Seen::new(&headers)).headers).unwrap();
        assert_eq!(kept, r#"{"accept":"*/*, text/html","authorization":"***","cookie":"***","x-api-key":"***"}"#);
        headers.append("x-long", "x".repeat(20_000).parse().unwrap());
        assert_eq!(side(&headers, Seen::new(&headers)).headers.len(), 4);
    }

    #[test]
    fn messages_are_found_among_the_marks() {
        let id = |n: u128| MessageId(Uuid::from_u128(n));
        let marks = Marks::of(&[id(10), id(30), id(20)]).unwrap();
        assert!(marks.has(id(10)) && marks.has(id(30)) && !marks.has(id(15)) && !marks.has(id((1 << 64) + 20)));
        assert_eq!(Marks::of(&[]), None);
    }
}
