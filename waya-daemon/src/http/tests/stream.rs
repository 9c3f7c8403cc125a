//! Events as a stream.

use std::time::Duration;

use futures_util::StreamExt as _;
use serde_json::Value;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::{Door, assert_refused};
use crate::api::testing::incoming;

/// A stream, read event by event.
struct Events {
    bytes: std::pin::Pin<Box<dyn futures_util::Stream<Item = reqwest::Result<bytes::Bytes>> + Send>>,
    text: String,
}

/// What a browser would make of it.
#[derive(Debug, PartialEq)]
struct Event {
    id: String,
    kind: String,
    data: Value,
}

impl Events {
    async fn open(request: reqwest::RequestBuilder) -> Self {
        let response = request.send().await.unwrap();
        assert_eq!(response.status(), 200);
        assert_eq!(response.headers()["content-type"], "text/event-stream");
        Self { bytes: Box::pin(response.bytes_stream()), text: String::new() }
    }

    /// The next one; `None` at the end of the stream.
    async fn next(&mut self) -> Option<Event> {
        loop {
            while let Some((block, rest)) = self.text.split_once("\n\n") {
                let (block, rest) = (block.to_owned(), rest.to_owned());
                self.text = rest;
                let field = |name: &str| {
                    let line = block.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "));
                    line.map(str::to_owned)
                };
                if let Some(data) = field("data") {
                    let data = serde_json::from_str(&data).unwrap();
                    return Some(Event { id: field("id").unwrap(), kind: field("event").unwrap(), data });
                }
            }
            let bytes = tokio::time::timeout(Duration::from_secs(20), self.bytes.next()).await.expect("silence")?;
            self.text.push_str(std::str::from_utf8(&bytes.unwrap()).unwrap());
        }
    }
}

async fn comes(door: &Door, id: &str, text: &str) {
    door.world.store.journal.record_incoming(vec![incoming(id, text)]).await.unwrap();
}

#[tokio::test]
async fn a_stream_tells_what_was_and_what_comes_and_ends_with_the_daemon() {
    let door = Door::open().await;
    comes(&door, "A", "line\nend").await;
    let mut events = Events::open(door.request("GET", "/api/events").header("accept", "text/event-stream")).await;
    let first = events.next().await.unwrap();
    let (_, page) = door.get("/api/events").await;
    assert_eq!((first.kind.as_str(), &first.data), ("message", &page["events"][0]));
    assert_eq!(first.id, page["next"].as_str().unwrap());
    comes(&door, "B", "later").await;
    assert_eq!(events.next().await.unwrap().data["message"]["id"], "B");
    door.stop.cancel();
    assert_eq!(events.next().await, None);
    door.server.await.unwrap();
}

#[tokio::test]
async fn who_comes_back_goes_on_where_it_was() {
    let door = Door::open().await;
    for id in ["A", "B", "C"] {
        comes(&door, id, "Halo").await;
    }
    let mut events = Events::open(door.request("GET", "/api/events?stream=1&after=0")).await;
    let first = events.next().await.unwrap();
    drop(events);
    let again = door.request("GET", "/api/events?stream=1&after=0").header("last-event-id", &first.id);
    let mut events = Events::open(again).await;
    assert_eq!(events.next().await.unwrap().data["message"]["id"], "B");
    let mut events = Events::open(door.request("GET", "/api/events?stream=1&after=now")).await;
    comes(&door, "D", "Halo").await;
    assert_eq!(events.next().await.unwrap().data["message"]["id"], "D");
}

#[tokio::test]
async fn a_wrong_cursor_is_refused_before_anything_streams() {
    let door = Door::open().await;
    for cursor in ["c999999", "x"] {
        for query in [format!("after={cursor}&stream=1"), format!("after={cursor}")] {
            assert_refused(&door.get(&format!("/api/events?{query}")).await, 422, "invalid_field", Some("after"));
        }
    }
    let (_, body) = door.get("/api/events?after=c999999").await;
    assert!(body["error"].as_str().unwrap().contains("ahead of this journal"), "{body}");
    assert_refused(&door.get("/api/events?stream=maybe").await, 422, "invalid_field", Some("stream"));
}

#[tokio::test]
async fn a_reader_that_stands_still_misses_nothing() {
    let door = Door::open().await;
    let mut stream = TcpStream::connect(door.address).await.unwrap();
    let key = door.world.key();
    let head = format!("GET /api/events?stream=1 HTTP/1.1\r\nhost: x\r\nx-api-key: {key}\r\n\r\n");
    stream.write_all(head.as_bytes()).await.unwrap();
    // More than the buffers of both sides hold.
    for n in 0..800 {
        comes(&door, &format!("E{n}"), &"x".repeat(20_000)).await;
    }
    comes(&door, "LAST", "Halo").await;
    let mut text = Vec::new();
    let mut chunk = vec![0; 1 << 16];
    while !text.windows(11).any(|part| part == b"\"id\":\"LAST\"") {
        let read = stream.read(&mut chunk).await.unwrap();
        assert!(read > 0, "the stream ended");
        text.extend_from_slice(&chunk[..read]);
        let keep = text.len().saturating_sub(1 << 17);
        text.drain(..keep);
    }
}
