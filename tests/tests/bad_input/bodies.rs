//! Bodies that are too large, stop, dribble, or come a thousand times.

use std::collections::HashSet;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use reqwest::multipart::{Form, Part};
use reqwest::{Method, StatusCode};
use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use waya_tests::{BUDI, OWN_PHONE, SITI, World, answer, until};

use crate::files::server;
use crate::{PNG, TOO_MANY, assert_nothing_queued, refused, send, send_form};

/// Sends a head and a body of many bytes, whatever the other side makes of it; what that says, and how long it took.
async fn pour(address: &str, head: String, mut left: usize, chunked: bool) -> Result<(String, Duration)> {
    let begun = Instant::now();
    let (mut reader, mut writer) = TcpStream::connect(address).await?.into_split();
    writer.write_all(head.as_bytes()).await?;
    let pouring = tokio::spawn(async move {
        let piece = vec![b'A'; 1 << 20];
        while left > 0 {
            let count = left.min(piece.len());
            let sent = if chunked {
                let piece = [format!("{count:x}\r\n").as_bytes(), &piece[..count], b"\r\n"].concat();
                writer.write_all(&piece).await
            } else {
                writer.write_all(&piece[..count]).await
            };
            if sent.is_err() {
                return;
            }
            left -= count;
        }
    });
    let mut text = Vec::new();
    let ended = tokio::time::timeout(Duration::from_secs(60), async {
        let mut piece = [0; 4096];
        while let Ok(count @ 1..) = reader.read(&mut piece).await {
            text.extend_from_slice(&piece[..count]);
        }
    })
    .await;
    pouring.abort();
    ensure!(ended.is_ok(), "the connection is left hanging: {}", String::from_utf8_lossy(&text));
    Ok((String::from_utf8_lossy(&text).into_owned(), begun.elapsed()))
}

#[tokio::test]
async fn two_hundred_megabytes_are_refused_without_being_held() -> Result<()> {
    let world = World::start()?;
    world.until_session("connected").await?;
    let address = world.api.base().trim_start_matches("http://").to_owned();
    let key = std::fs::read_to_string(world.data_dir().join("api-key"))?;
    let head = |rest: &str| {
        let key = key.trim();
        format!("POST /api/send-message HTTP/1.1\r\nhost: x\r\nx-api-key: {key}\r\n{rest}\r\n")
    };
    let json = "{\"number\":\"6281200000002\",\"media\":{\"data\":\"";
    let form = "--b\r\ncontent-disposition: form-data; name=\"file\"; filename=\"a.bin\"\r\n\r\n";
    let (announced, chunked) = (format!("content-length: {TOO_MANY}\r\n"), "transfer-encoding: chunked\r\n");
    let as_json = "content-type: application/json\r\n";
    let as_form = "content-type: multipart/form-data; boundary=b\r\n";
    let first = |text: &str| format!("{:x}\r\n{text}\r\n", text.len());
    let (before, _) = world.memory()?;
    for (what, begins, is_chunked, most) in [
        // What says its length is not read at all.
        ("JSON, announced", head(&format!("{as_json}{announced}")) + json, false, 24 << 20),
        ("a form, announced", head(&format!("{as_form}{announced}")) + form, false, 24 << 20),
        ("a form, in chunks", head(&format!("{as_form}{chunked}")) + &first(form), true, 24 << 20),
        // What does not is held up to http.body_limit (140 MiB), and never twice.
        ("JSON, in chunks", head(&format!("{as_json}{chunked}")) + &first(json), true, 200 << 20),
    ] {
        let (said, took) = pour(&address, begins, TOO_MANY, is_chunked).await?;
        ensure!(said.starts_with("HTTP/1.1 413 ") && said.contains("\"code\":\"too_large\""), "{what}: {said:?}");
        ensure!(took < Duration::from_secs(30), "{what} took {took:?}");
        let (now, peak) = world.memory()?;
        println!("{what}: {took:?}, {} KiB before, {} KiB now, {} KiB at most", before >> 10, now >> 10, peak >> 10);
        ensure!(peak < before + most, "{what}: {peak} bytes at most, {before} before");
    }
    assert_nothing_queued(&world).await?;
    let left = std::fs::read_dir(world.data_dir().join("media"))?.count();
    assert_eq!(left, 0, "half a file is left");
    // A client that does as most do gets to read it too.
    let body = json!({"number": BUDI, "media": {"data": "A".repeat(TOO_MANY)}});
    refused(&send(&world, body).await?, 413, "too_large", None);
    let part = Part::bytes(vec![7; TOO_MANY]).file_name("a.bin");
    let answer = send_form(&world, Form::new().text("number", BUDI).part("file", part)).await?;
    assert!(refused(&answer, 413, "too_large", Some("media[0]")).contains("media.max_document_size"));
    Ok(())
}

#[tokio::test]
async fn a_body_that_stops_half_way_is_refused_and_leaves_nothing() -> Result<()> {
    let world = World::start()?;
    let address = world.api.base().trim_start_matches("http://").to_owned();
    let key = std::fs::read_to_string(world.data_dir().join("api-key"))?;
    let file = "--b\r\ncontent-disposition: form-data; name=\"number\"\r\n\r\n6281200000002\r\n--b\r\ncontent-disposition: \
                form-data; name=\"file\"; filename=\"a.bin\"\r\n\r\nhalf of";
    let json = "{\"number\":\"6281200000002\",\"message\":\"Ha";
    for (kind, begins) in [("application/json", json), ("multipart/form-data; boundary=b", file)] {
        for length in ["content-length: 5000\r\n".to_owned(), "transfer-encoding: chunked\r\n".to_owned()] {
            let body = if length.starts_with('t') { format!("{:x}\r\n{begins}", 5_000) } else { begins.to_owned() };
            let mut stream = TcpStream::connect(&address).await?;
            let key = key.trim();
            let head =
                format!("POST /api/send-message HTTP/1.1\r\nhost: x\r\nx-api-key: {key}\r\ncontent-type: {kind}\r\n");
            stream.write_all(format!("{head}{length}\r\n{body}").as_bytes()).await?;
            stream.shutdown().await?;
            let mut said = String::new();
            tokio::time::timeout(Duration::from_secs(20), stream.read_to_string(&mut said)).await??;
            ensure!(
                said.starts_with("HTTP/1.1 400 ") && said.contains("\"code\":\"invalid_json\""),
                "{kind}: {said:?}"
            );
            ensure!(said.contains("ended early"), "{kind}: {said:?}");
            // One that is gone altogether gets no answer, and does no harm.
            let mut gone = TcpStream::connect(&address).await?;
            gone.write_all(format!("{head}{length}\r\n{body}").as_bytes()).await?;
        }
    }
    assert_nothing_queued(&world).await?;
    until("nothing is left of the files", || async {
        let left = std::fs::read_dir(world.data_dir().join("media"))?.count();
        ensure!(left == 0, "{left} files are left");
        Ok(())
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_equal_requests_at_once_are_one() -> Result<()> {
    let world = World::start()?;
    let body = json!({"recipients": [BUDI, SITI], "message": "Halo", "media": {"data": PNG}});
    let posts = (0..1_000).map(|_| {
        let request = world.api.request(Method::POST, "/api/send-message").header("Idempotency-Key", "order-1");
        tokio::spawn(answer(request.json(&body)))
    });
    let (mut answers, mut different) = (0, HashSet::new());
    for post in posts.collect::<Vec<_>>() {
        let (status, body) = post.await??;
        ensure!(status == StatusCode::ACCEPTED, "{status}: {body}");
        different.insert(body.to_string());
        answers += 1;
    }
    assert_eq!((answers, different.len()), (1_000, 1), "{different:?}");
    for who in [BUDI, SITI] {
        world.until_received(who, 1).await?;
    }
    // Whatever was queued twice would leave before this one.
    let last = world.accept(BUDI, "the end").await?;
    world.until_message(&last, |message| message["ack"] == "read").await?;
    let (_, stats) = world.admin.get("/stats").await?;
    assert_eq!(stats["senders"][OWN_PHONE]["distinct_ids"], 3, "{stats}");
    let (_, queue) = world.api.get("/api/queue").await?;
    assert_eq!(queue["messages"].as_array().map(Vec::len), Some(3), "{queue}");
    Ok(())
}

/// A client that dribbles, and a file's server that does: both are left, and nobody else waits for them. The daemon's own
/// limits are half a minute, hence that long.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_dribbles_is_left_and_holds_up_nobody() -> Result<()> {
    let world = World::with(waya_tests::Options::default().env("WAYA_NETWORK_ALLOW_HOSTS", "127.0.0.1"))?;
    let address = world.api.base().trim_start_matches("http://").to_owned();
    let key = std::fs::read_to_string(world.data_dir().join("api-key"))?;
    let post = format!("POST /api/send-message HTTP/1.1\r\nhost: x\r\nx-api-key: {}\r\n", key.trim());
    let form = "content-type: multipart/form-data; boundary=b\r\ncontent-length: 90000\r\n\r\n\
                --b\r\ncontent-disposition: form-data; name=\"file\"; filename=\"a\"\r\n\r\n";
    let mut clients = tokio::task::JoinSet::new();
    for (begins, status) in [
        ("GET /livez HTTP/1.1\r\nx-a: ".to_owned(), None),
        (format!("{post}content-type: application/json\r\ncontent-length: 90000\r\n\r\n"), Some(" 408 ")),
        (format!("{post}{form}"), Some(" 408 ")),
    ] {
        clients.spawn(dribble(address.clone(), begins, status));
    }
    let (silent, _) = server("127.0.0.1:0", "HTTP/1.1 200 OK\r\ncontent-length: 90000\r\n\r\nGIF".to_owned()).await?;
    let media = json!({"url": format!("http://127.0.0.1:{silent}/x.gif")});
    let fetch = send(&world, json!({"number": SITI, "media": media}));
    let served = async {
        for n in 0..20 {
            let begun = Instant::now();
            let id = world.accept(BUDI, &format!("Halo {n}")).await?;
            world.until_message(&id, |message| message["status"] == "sent").await?;
            ensure!(begun.elapsed() < Duration::from_secs(10), "the others wait: {:?}", begun.elapsed());
        }
        Ok(())
    };
    let (fetch, served) = tokio::join!(fetch, served);
    served?;
    let fetch = fetch?;
    assert!(refused(&fetch, 422, "invalid_media", Some("media")).contains("took longer than"), "{}", fetch.1);
    while let Some(client) = clients.join_next().await {
        client??;
    }
    Ok(())
}

/// Sends this and then a byte now and then, until the other side has had enough.
async fn dribble(address: String, begins: String, status: Option<&str>) -> Result<()> {
    let (mut reader, mut writer) = TcpStream::connect(address).await?.into_split();
    writer.write_all(begins.as_bytes()).await?;
    let writing = tokio::spawn(async move {
        while writer.write_all(b"x").await.is_ok() {
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
    });
    let mut said = Vec::new();
    let ended = tokio::time::timeout(Duration::from_secs(55), async {
        let mut piece = [0; 1024];
        while let Ok(count @ 1..) = reader.read(&mut piece).await {
            said.extend_from_slice(&piece[..count]);
        }
    });
    let ended = ended.await;
    writing.abort();
    let said = String::from_utf8_lossy(&said).into_owned();
    ensure!(ended.is_ok(), "{begins:?} is never left: {said}");
    ensure!(status.is_none_or(|status| said.contains(status)), "{begins:?}: {said}");
    Ok(())
}
