//! Sizes, times and numbers of connections.

use std::time::Duration;

use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::{Door, answer, assert_refused};
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

/// Who asks before sending a large body is told at once, and sends none of it.
#[tokio::test]
async fn a_body_over_the_limit_is_not_asked_for() {
    let door = Door::with(Options { body_limit: 1000, ..Options::default() }).await;
    let mut asks = TcpStream::connect(door.address).await.unwrap();
    let head = format!(
        "POST /api/send-message HTTP/1.1\r\nhost: x\r\nx-api-key: {}\r\nexpect: 100-continue\r\ncontent-length: 1001\r\n\r\n",
        door.world.key()
    );
    asks.write_all(head.as_bytes()).await.unwrap();
    let answer = rest(&mut asks).await;
    assert!(answer.starts_with("HTTP/1.1 413 ") && answer.contains("\"code\":\"too_large\""), "{answer}");
}

/// Whoever sends on regardless gets to read why it is of no use.
#[tokio::test]
async fn who_pours_on_reads_the_refusal() {
    let door = Door::with(Options { body_limit: 1000, ..Options::default() }).await;
    let (mut reader, mut writer) = TcpStream::connect(door.address).await.unwrap().into_split();
    let head = format!(
        "POST /api/send-message HTTP/1.1\r\nhost: x\r\nx-api-key: {}\r\ncontent-length: 100000000\r\n\r\n",
        door.world.key()
    );
    let pouring = tokio::spawn(async move {
        writer.write_all(head.as_bytes()).await.unwrap();
        for _ in 0..20 {
            writer.write_all(&vec![b'x'; 1 << 20]).await.unwrap();
        }
        writer
    });
    // Nothing is read before everything is written: it must not have been torn down meanwhile.
    let _writer = pouring.await.unwrap();
    let mut text = String::new();
    reader.read_to_string(&mut text).await.unwrap();
    assert!(text.starts_with("HTTP/1.1 413 "), "{text}");
}

/// A long answer is whole, also for who reads it slowly and wants no more than that.
#[tokio::test]
async fn a_long_answer_is_whole_before_the_end() {
    let door = Door::open().await;
    for _ in 0..40 {
        door.sent(&"ж".repeat(60_000)).await;
    }
    let mut stream = TcpStream::connect(door.address).await.unwrap();
    let head =
        format!("GET /api/queue HTTP/1.1\r\nhost: x\r\nconnection: close\r\nx-api-key: {}\r\n\r\n", door.world.key());
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut first = [0; 12];
    stream.read_exact(&mut first).await.unwrap();
    tokio::time::sleep(Duration::from_millis(200)).await;
    let answer = rest(&mut stream).await;
    let body = answer.split_once("\r\n\r\n").unwrap().1;
    assert!(body.len() > 4_000_000 && body.ends_with('}'), "{} bytes", body.len());
}

/// Who reads nothing keeps no connection: there is one only, and the next caller gets it.
#[tokio::test]
async fn who_reads_no_answer_is_cut() {
    let options = Options { write_timeout: Duration::from_millis(300), max_connections: 1, ..Options::default() };
    let door = Door::with(options).await;
    let mut deaf = TcpStream::connect(door.address).await.unwrap();
    let asks = "GET /api/openapi.json HTTP/1.1\r\nhost: x\r\n\r\n".repeat(1_000);
    deaf.write_all(asks.as_bytes()).await.unwrap();
    let next = tokio::time::timeout(Duration::from_secs(20), door.get("/livez")).await;
    assert_eq!(next.expect("the connection is kept").0, 200);
}

#[tokio::test]
async fn the_fields_of_a_form_have_a_limit_together() {
    let door = Door::with(Options { body_limit: 1000, ..Options::default() }).await;
    let form = |count: usize| {
        let field = |(name, text): (String, String)| {
            format!("--b\r\ncontent-disposition: form-data; name=\"{name}\"\r\n\r\n{text}\r\n")
        };
        let extra = (0..count).map(|n| (format!("extra{n}"), "x".repeat(100)));
        let known = [("number", "6281200000002"), ("message", "Halo")].map(|(name, text)| (name.into(), text.into()));
        known.into_iter().chain(extra).map(field).collect::<String>() + "--b--\r\n"
    };
    let send = |count| {
        let request = door.request("POST", "/api/send-message");
        answer(request.header("content-type", "multipart/form-data; boundary=b").body(form(count)))
    };
    assert_refused(&send(20).await, 413, "too_large", None);
    assert_eq!(door.world.memory.count(), 0);
    assert_eq!(send(5).await.0, 202);
}

/// A byte now and then keeps no connection.
#[tokio::test]
async fn who_dribbles_is_cut() {
    let brief = Duration::from_millis(300);
    let door = Door::with(Options { header_timeout: brief, body_timeout: brief, ..Options::default() }).await;
    let head = |kind: &str| {
        let key = door.world.key();
        format!("POST /api/send-message HTTP/1.1\r\nhost: x\r\nx-api-key: {key}\r\ncontent-type: {kind}\r\n")
    };
    let (json, form) = (head("application/json"), head("multipart/form-data; boundary=b"));
    let file = "--b\r\ncontent-disposition: form-data; name=\"file\"; filename=\"a\"\r\n\r\n";
    let dribbles = [
        ("GET /livez HTTP/1.1\r\nx-a: ".to_owned(), None),
        (format!("{json}content-length: 100000\r\n\r\n"), Some("408")),
        (format!("{json}transfer-encoding: chunked\r\n\r\n7fffffff\r\n"), Some("408")),
        (format!("{form}content-length: 100000\r\n\r\n{file}"), Some("408")),
        (format!("{form}content-length: 100000\r\n\r\n--b\r\n"), Some("408")),
    ];
    let ends = dribbles.map(|(begins, status)| dribble(door.address, begins, status));
    tokio::time::timeout(Duration::from_secs(30), futures_util::future::join_all(ends)).await.unwrap();
    door.sent("still here").await;
}

/// Sends this and then byte after byte, until the other side has had enough and said so.
async fn dribble(address: std::net::SocketAddr, begins: String, status: Option<&str>) {
    let (mut reader, mut writer) = TcpStream::connect(address).await.unwrap().into_split();
    writer.write_all(begins.as_bytes()).await.unwrap();
    let writing = tokio::spawn(async move {
        while writer.write_all(b"x").await.is_ok() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    });
    let mut text = Vec::new();
    let mut piece = [0; 1024];
    while let Ok(count @ 1..) = reader.read(&mut piece).await {
        text.extend_from_slice(&piece[..count]);
    }
    writing.abort();
    let text = String::from_utf8(text).unwrap();
    if let Some(status) = status {
        assert!(text.starts_with(&format!("HTTP/1.1 {status} ")), "{begins}: {text}");
    }
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
