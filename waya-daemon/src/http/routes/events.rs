//! The journal: a page at a time, or as a stream.

use std::convert::Infallible;
use std::time::Duration;

use axum::Json;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, State};
use axum::http::{HeaderMap, header};
use axum::response::sse::{KeepAlive, Sse};
use axum::response::{IntoResponse as _, Response, sse};
use futures_util::{Stream, stream};
use serde::Deserialize;

use crate::api::view::{EventView, EventsView};
use crate::api::{Api, ApiError, DEFAULT_EVENTS, MAX_EVENTS, MAX_WAIT};
use crate::http::body::{query_error, query_number};
use crate::http::error::HttpError;

/// How often a silent stream shows that it is alive: middlemen close what is silent for a minute.
const HEARTBEAT: Duration = Duration::from_secs(15);
/// After how long a client comes back when a stream broke.
const COME_BACK: Duration = Duration::from_secs(2);

/// What may be asked.
#[derive(Deserialize)]
pub(in crate::http) struct Read {
    after: Option<String>,
    limit: Option<String>,
    wait: Option<String>,
    stream: Option<String>,
}

/// `GET /api/events?after=CURSOR&limit=N&wait=SECONDS`: what came after the cursor; with `wait`, once there is any. With
/// `stream=1`, or for those who accept nothing but event streams: everything from there on, as it comes.
pub(in crate::http) async fn read(
    State(api): State<Api>,
    headers: HeaderMap,
    query: Result<Query<Read>, QueryRejection>,
) -> Result<Response, HttpError> {
    let Query(read) = query.map_err(|rejection| query_error(&rejection))?;
    let limit = query_number("limit", read.limit.as_deref(), 1..=MAX_EVENTS, DEFAULT_EVENTS)?;
    let seconds = query_number("wait", read.wait.as_deref(), 0..=MAX_WAIT.as_secs() as usize, 0)?;
    // A browser that comes back repeats the address it began with: where it was stands in the header.
    let streams = wants_stream(read.stream.as_deref(), &headers)?;
    let last = headers.get("last-event-id").filter(|_| streams).map(|id| String::from_utf8_lossy(id.as_bytes()));
    let after = match last.as_deref().filter(|last| !last.is_empty()).or(read.after.as_deref()).unwrap_or("0") {
        "now" => api.newest_cursor(),
        cursor => cursor.to_owned(),
    };
    if streams {
        // A wrong cursor is refused, not streamed.
        let page = api.events(&after, DEFAULT_EVENTS, Duration::ZERO).await?;
        return Ok(follow(api, page).into_response());
    }
    Ok(Json(api.events(&after, limit, Duration::from_secs(seconds as u64)).await?).into_response())
}

fn wants_stream(asked: Option<&str>, headers: &HeaderMap) -> Result<bool, ApiError> {
    match asked {
        Some("1" | "true") => Ok(true),
        Some("0" | "false") => Ok(false),
        Some(_) => Err(ApiError::field_error("stream", "must be 1 or 0")),
        None => {
            let accept = headers.get(header::ACCEPT).map_or(&b""[..], |accept| accept.as_bytes());
            Ok(accept.to_ascii_lowercase().starts_with(b"text/event-stream"))
        }
    }
}

/// The page, and everything after it, until the daemon stops or the journal cannot be read. Events come from the journal a
/// page at a time, and the next page is read when the reader has taken the one before: a slow one costs no memory and
/// misses nothing.
fn follow(api: Api, page: EventsView) -> Sse<impl Stream<Item = Result<sse::Event, Infallible>>> {
    let first = stream::once(async { Ok(sse::Event::default().retry(COME_BACK).comment("events")) });
    let follower = Follower { api, next: page.next, page: page.events.into_iter() };
    let events = stream::unfold(follower, |mut follower| async move { Some((follower.event().await?, follower)) });
    let told = futures_util::StreamExt::map(events, |event| Ok(told(&event)));
    Sse::new(futures_util::StreamExt::chain(first, told)).keep_alive(KeepAlive::new().interval(HEARTBEAT))
}

fn told(event: &EventView) -> sse::Event {
    // JSON has no bare line ends, and a view can always be written as JSON.
    let data = serde_json::to_string(event).unwrap_or_default();
    sse::Event::default().id(&event.cursor).event(event.body.kind()).data(data)
}

/// A reader that goes on where it stopped.
struct Follower {
    api: Api,
    /// The cursor behind `page`.
    next: String,
    /// Read, and not handed out yet.
    page: std::vec::IntoIter<EventView>,
}

impl Follower {
    async fn event(&mut self) -> Option<EventView> {
        loop {
            if let Some(event) = self.page.next() {
                return Some(event);
            }
            if self.api.is_stopping() {
                return None;
            }
            // The reader comes back with the last cursor it saw.
            let page = self.api.events(&self.next, DEFAULT_EVENTS, MAX_WAIT).await.ok()?;
            self.next = page.next;
            self.page = page.events.into_iter();
        }
    }
}
