//! Sizes, times and numbers of connections.

use std::time::Duration;

use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::{Door, assert_refused};
use crate::http::Options;

/// Reads until the other side closes.
async fn rest(stream: &mut TcpStream) -> String {
    let mut text = Vec::new();
    let _ = stream.read_to_end(&mut text).await;
    String::from_utf8(text).unwrap()
}

#[tokio::test]
async fn a_body_over_the_limit_is_refused_announced_or_not() {
    let door = Door::with(Options { body_limit: 1000, ..Options::default() }).await;
    let body = json!({ "number": "6281200000002", "message": "x".repeat(2_000_000) }).to_string();
    assert_refused(&door.post_raw(body.clone()).await, 413, "too_large", None);
    let chunks = futures_util::stream::iter(body.into_bytes().chunks(100_000).map(<[u8]>::to_vec).collect::<Vec<_>>());
    let chunked = reqwest::Body::wrap_stream(futures_util::StreamExt::map(chunks, Ok::<_, std::io::Error>));
    assert_refused(&door.post_raw(chunked).await, 413, "too_large", None);
    door.sent("small").await;
}

#[tokio::test]
async fn a_head_that_never_ends_is_cut() {
    let door = Door::with(Options { header_timeout: Duration::from_millis(500), ..Options::default() }).await;
    let mut silent = TcpStream::connect(door.address).await.unwrap();
    let mut slow = TcpStream::connect(door.address).await.unwrap();
    slow.write_all(b"POST /api/send-message HTTP/1.1\r\nhost: x\r\nx-a").await.unwrap();
    let (_, _) = tokio::join!(rest(&mut silent), rest(&mut slow));
    door.sent("still here").await;
}

#[tokio::test]
async fn a_body_that_never_ends_is_cut() {
    let door = Door::with(Options { body_timeout: Duration::from_millis(100), ..Options::default() }).await;
    let mut slow = TcpStream::connect(door.address).await.unwrap();
    let head = format!(
        "POST /api/send-message HTTP/1.1\r\nhost: x\r\nx-api-key: {}\r\ncontent-length: 50\r\n\r\n{{",
        door.world.key()
    );
    slow.write_all(head.as_bytes()).await.unwrap();
    let answer = rest(&mut slow).await;
    assert!(answer.starts_with("HTTP/1.1 408 ") && answer.contains("\"code\":\"timeout\""), "{answer}");
}

#[tokio::test]
async fn connections_over_the_limit_wait_for_room() {
    let door = Door::with(Options { max_connections: 1, ..Options::default() }).await;
    let held = TcpStream::connect(door.address).await.unwrap();
    let waiting = door.get("/livez");
    tokio::pin!(waiting);
    assert!(tokio::time::timeout(Duration::from_millis(200), &mut waiting).await.is_err());
    drop(held);
    assert_eq!(waiting.await.0, 200);
}

#[tokio::test]
async fn requests_under_way_are_finished_at_the_end() {
    let door = Door::with(Options { drain_timeout: Duration::from_secs(20), ..Options::default() }).await;
    let mut slow = TcpStream::connect(door.address).await.unwrap();
    let body = json!({ "number": "6281200000002", "message": "Halo" }).to_string();
    let (first, second) = body.split_at(10);
    let head = format!(
        "POST /api/send-message HTTP/1.1\r\nhost: x\r\nx-api-key: {}\r\nexpect: 100-continue\r\ncontent-length: {}\r\n\r\n",
        door.world.key(),
        body.len()
    );
    slow.write_all(head.as_bytes()).await.unwrap();
    // "100 Continue" shows that the request is under way.
    let mut seen = [0; 25];
    slow.read_exact(&mut seen).await.unwrap();
    slow.write_all(first.as_bytes()).await.unwrap();
    door.stop.cancel();
    slow.write_all(second.as_bytes()).await.unwrap();
    let answer = rest(&mut slow).await;
    assert!(answer.starts_with("HTTP/1.1 202 "), "{answer}");
    door.server.await.unwrap();
    assert!(TcpStream::connect(door.address).await.is_err());
}

#[tokio::test]
async fn what_does_not_finish_is_cut_at_the_deadline() {
    let door = Door::with(Options { drain_timeout: Duration::from_millis(100), ..Options::default() }).await;
    let mut slow = TcpStream::connect(door.address).await.unwrap();
    slow.write_all(b"GET /livez HTTP/1.1\r\nhost: x\r\n\r\nGET /livez HTTP/1.1\r\n").await.unwrap();
    let mut seen = [0; 8];
    slow.read_exact(&mut seen).await.unwrap();
    door.stop.cancel();
    door.server.await.unwrap();
}
