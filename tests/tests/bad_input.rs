//! Bad input as callers of the real daemon send it: each refused in words that help, with nothing queued and nobody else
//! held up. `http.rs` has what is wrong with JSON and keys, `waya-daemon/src/http/tests/inside.rs` files from addresses
//! that lead inside by names.

#![expect(clippy::print_stdout, reason = "the figures are for who reads the output")]

use std::collections::HashSet;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use reqwest::multipart::{Form, Part};
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use waya_tests::{BUDI, OWN_PHONE, SITI, World, answer, until};

const PNG: &str = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAIAAACQd1PeAAAADElEQVR4nGP4z8AAAAMBAQDJ/pLvAAAAAElFTkSuQmCC";
/// A group that nobody is in.
const NO_GROUP: &str = "120363000000000000@g.us";
/// What a body of too many bytes has.
const TOO_MANY: usize = 200 << 20;

type Answer = (StatusCode, Value);

async fn send(world: &World, body: Value) -> Result<Answer> {
    world.api.post("/api/send-message", &body).await
}

async fn send_form(world: &World, form: Form) -> Result<Answer> {
    answer(world.api.request(Method::POST, "/api/send-message").multipart(form)).await
}

/// The refusal's words, when status, code and field are these.
#[track_caller]
fn refused(answer: &Answer, status: u16, code: &str, field: Option<&str>) -> String {
    let (got, body) = answer;
    let seen = (got.as_u16(), body["code"].as_str(), body["field"].as_str(), body["success"].as_bool());
    assert_eq!(seen, (status, Some(code), field, Some(false)), "{body}");
    let words = body["error"].as_str().unwrap_or_default().to_owned();
    assert!(words.len() > 10, "{body}");
    words
}

async fn assert_nothing_queued(world: &World) -> Result<()> {
    let (_, queue) = world.api.get("/api/queue").await?;
    ensure!(queue["messages"] == json!([]), "{queue}");
    Ok(())
}

/// Of `waya`: its exit code and what it says.
fn waya(world: &World, arguments: &[&str]) -> Result<(i32, String)> {
    let output = world.waya(arguments)?;
    Ok((output.status.code().unwrap_or(-1), String::from_utf8_lossy(&output.stderr).into_owned()))
}

#[tokio::test]
async fn recipients_are_given_in_one_way_and_there_are_some_but_not_too_many() -> Result<()> {
    let world = World::start()?;
    let both = send(&world, json!({"number": BUDI, "recipients": [SITI], "message": "Halo"})).await?;
    assert!(refused(&both, 422, "invalid_field", Some("recipients")).contains("exactly one of"));
    let neither = send(&world, json!({"message": "Halo"})).await?;
    assert!(refused(&neither, 422, "invalid_field", Some("number")).contains("is missing"));
    let form = Form::new().text("number", BUDI).text("recipients", SITI).text("message", "Halo");
    refused(&send_form(&world, form).await?, 422, "invalid_field", Some("recipients"));
    refused(&send_form(&world, Form::new().text("message", "Halo")).await?, 422, "invalid_field", Some("number"));
    assert_eq!(waya(&world, &["send"])?.0, 2);

    for field in ["recipients", "messages"] {
        let empty = send(&world, json!({field: [], "message": (field == "recipients").then_some("Halo")})).await?;
        assert!(refused(&empty, 422, "invalid_field", Some(field)).contains("give at least one"));
        let each: Vec<Value> = (0..10_001_u64)
            .map(|n| {
                let number = 6_281_300_000_000 + n;
                if field == "recipients" { json!(number) } else { json!({"number": number, "message": "Halo"}) }
            })
            .collect();
        let many = send(&world, json!({field: each, "message": (field == "recipients").then_some("Halo")})).await?;
        let words = refused(&many, 422, "invalid_field", Some(field));
        assert!(words.contains("has 10001 entries, at most 10000 fit"), "{words}");
    }
    assert_nothing_queued(&world).await
}

#[tokio::test]
async fn repeats_are_sent_once_and_said() -> Result<()> {
    let world = World::start()?;
    let repeats = ["+62 812-0000-0002".to_owned(), format!("{BUDI}@c.us"), BUDI.to_owned()];
    let recipients = json!([BUDI, repeats[0], SITI, repeats[1], repeats[2]]);
    let (status, body) = send(&world, json!({"recipients": recipients, "message": "Halo"})).await?;
    ensure!(status == StatusCode::ACCEPTED, "{status}: {body}");
    assert_eq!((body["messages"].as_array().map(Vec::len), &body["duplicates"]), (Some(2), &json!(repeats)));
    let again = world.waya_json(&["send", &format!("{BUDI},{SITI},{BUDI}"), "Halo lagi", "--wait", "read"])?;
    assert_eq!((again["messages"].as_array().map(Vec::len), &again["duplicates"]), (Some(2), &json!([BUDI])));
    for who in [BUDI, SITI] {
        world.until_received(who, 2).await?;
        let texts: Vec<_> = world.inbox(who).await?.iter().map(|message| message["text"].clone()).collect();
        assert_eq!(texts, ["Halo", "Halo lagi"], "{who}");
    }
    Ok(())
}

#[tokio::test]
async fn a_group_that_we_are_not_in_and_a_number_that_nobody_has() -> Result<()> {
    let world = World::start()?;
    world.until_session("connected").await?;
    let group = send(&world, json!({"number": NO_GROUP, "message": "Halo"})).await?;
    assert!(refused(&group, 422, "invalid_recipient", Some("number")).contains("is not in the group"));
    let among = send(&world, json!({"recipients": [BUDI, NO_GROUP], "message": "Halo"})).await?;
    refused(&among, 422, "invalid_recipient", Some("recipients[1]"));
    let personal = json!({"messages": [{"number": NO_GROUP, "message": "Halo"}, {"number": BUDI, "message": "Halo"}]});
    refused(&send(&world, personal).await?, 422, "invalid_recipient", Some("messages[0].number"));
    let (code, words) = waya(&world, &["send", NO_GROUP, "Halo"])?;
    assert!(code == 4 && words.contains("is not in the group"), "{code}: {words}");
    assert_nothing_queued(&world).await?;

    let nobody = world.accept("6289999999999", "Halo").await?;
    let failed = world.until_message(&nobody, |message| message["status"] == "failed").await?;
    assert_eq!(failed["error"], "6289999999999 is not on WhatsApp");
    let (code, words) = waya(&world, &["send", "6289999999999", "Halo", "--wait", "sent"])?;
    assert!(code == 6 && words.contains("is not on WhatsApp"), "{code}: {words}");
    Ok(())
}

#[tokio::test]
async fn files_that_are_none() -> Result<()> {
    let world = World::start()?;
    let part = |bytes: Vec<u8>| Part::bytes(bytes).file_name("foto.png");
    let form = |file: Part| Form::new().text("number", BUDI).text("message", "Halo").part("file", file);
    for (media, code, words) in [
        (json!({"data": "bukan base64!"}), "invalid_media", "is not base64"),
        (json!({"data": format!("{PNG}*")}), "invalid_media", "is not base64"),
        (json!({"data": "data:image/png;base64,%%%"}), "invalid_media", "is not base64"),
        (json!({"data": "data:image/png;base64,"}), "invalid_media", "is empty"),
        (json!({"data": PNG, "mimetype": "video/mp4"}), "invalid_media", "its content is"),
        (json!({"data": PNG, "mimetype": "gambar"}), "invalid_media", "is not a MIME type"),
        (json!({"mimetype": "image/png", "filename": "foto.png"}), "invalid_field", "url"),
        (json!({"data": "", "mimetype": "image/png"}), "invalid_field", "url"),
        (json!({"data": null}), "invalid_field", "url"),
        (json!({"url": ""}), "invalid_field", "url"),
    ] {
        let answer = send(&world, json!({"number": BUDI, "message": "Halo", "media": media})).await?;
        let said = refused(&answer, 422, code, Some("media"));
        assert!(said.contains(words), "{media}: {said}");
        // One bad file among good ones takes all of the request with it.
        let among = json!({"recipients": [BUDI, SITI], "media": [{"data": PNG}, media]});
        refused(&send(&world, among).await?, 422, code, Some("media[1]"));
    }
    refused(&send(&world, json!({"number": BUDI, "media": {}})).await?, 422, "nothing_to_send", Some("message"));
    let empty = send_form(&world, form(part(Vec::new()))).await?;
    assert!(refused(&empty, 422, "invalid_media", Some("media[0]")).contains("is empty"));
    let wrong = part(STANDARD.decode(PNG)?).mime_str("video/mp4")?;
    refused(&send_form(&world, form(wrong)).await?, 422, "invalid_media", Some("media"));
    refused(&send_form(&world, Form::new().text("number", BUDI)).await?, 422, "nothing_to_send", Some("message"));

    let folder = tempfile::tempdir()?;
    let file = folder.path().join("kosong.png");
    std::fs::write(&file, "")?;
    let (code, words) = waya(&world, &["send", BUDI, "--media", file.to_str().context("no path")?])?;
    assert!(code == 4 && words.contains("empty"), "{code}: {words}");
    assert_nothing_queued(&world).await?;
    let files = std::fs::read_dir(world.data_dir().join("media"))?.collect::<std::io::Result<Vec<_>>>()?;
    // The good one beside them was taken in whole, and waits to be forgotten; nothing is half there.
    assert!(files.iter().all(|file| !file.file_name().to_string_lossy().ends_with(".new")), "{files:?}");
    Ok(())
}

/// Memory of the daemon in use, and the most it ever used, in bytes.
fn memory(world: &World) -> Result<(u64, u64)> {
    let pid = world.running.as_ref().context("it does not run")?.pid();
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let field = |name: &str| -> Result<u64> {
        let line = status.lines().find_map(|line| line.strip_prefix(name)).context("no such field")?;
        Ok(line.trim().trim_end_matches(" kB").parse::<u64>()? << 10)
    };
    Ok((field("VmRSS:")?, field("VmHWM:")?))
}

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
    let (before, _) = memory(&world)?;
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
        let (now, peak) = memory(&world)?;
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

#[tokio::test]
async fn ids_that_do_not_exist_are_not_found() -> Result<()> {
    let world = World::start()?;
    for id in
        ["01980000-0000-7000-8000-000000000000", "3EB0C431C26A1916E07A", "order-7", "%E2%9C%93", "..%2F..%2Fapi-key"]
    {
        for (method, path, body) in [
            (Method::GET, "/api/message-status/{}", None),
            (Method::GET, "/api/message-status/{}?wait=read&timeout=1", None),
            (Method::GET, "/api/queue/{}", None),
            (Method::DELETE, "/api/queue/{}", None),
            (Method::GET, "/api/messages/{}/media", None),
            (Method::DELETE, "/api/messages/{}", None),
            (Method::PATCH, "/api/messages/{}", Some(json!({"message": "lain"}))),
            (Method::PUT, "/api/messages/{}/reaction", Some(json!({"emoji": "👍"}))),
            (Method::DELETE, "/api/messages/{}/reaction", None),
            (Method::POST, "/api/messages/{}/forward", Some(json!({"number": BUDI}))),
            (Method::GET, "/api/requests/{}", None),
        ] {
            let path = path.replace("{}", id);
            let request = world.api.request(method.clone(), &path);
            let request = if let Some(body) = body { request.json(&body) } else { request };
            let answer = answer(request).await?;
            assert_eq!(answer.0, StatusCode::NOT_FOUND, "{method} {path}: {}", answer.1);
            refused(&answer, 404, "not_found", None);
        }
    }
    let quotes = send(&world, json!({"number": BUDI, "message": "Halo", "quoted": "3EB0NONE"})).await?;
    refused(&quotes, 422, "invalid_field", Some("quoted"));
    let reacts = json!({"number": BUDI, "reaction": {"messageId": "3EB0NONE", "emoji": "👍"}});
    refused(&send(&world, reacts).await?, 422, "invalid_field", Some("reaction.messageId"));
    assert_nothing_queued(&world).await?;
    for arguments in [
        &["message", "3EB0NONE"][..],
        &["message", "media", "3EB0NONE"],
        &["message", "forward", "3EB0NONE", BUDI],
        &["queue", "cancel", "3EB0NONE"],
        &["queue", "retry", "3EB0NONE"],
        &["queue", "show", "3EB0NONE"],
        &["react", "3EB0NONE", "👍"],
        &["edit", "3EB0NONE", "lain"],
        &["revoke", "3EB0NONE"],
    ] {
        let (code, words) = waya(&world, arguments)?;
        assert!(
            code == 4 && words.starts_with("error: ") && words.contains("3EB0NONE"),
            "{arguments:?}: {code} {words}"
        );
    }
    Ok(())
}

#[tokio::test]
async fn a_cursor_from_the_future_is_refused() -> Result<()> {
    let world = World::start()?;
    let (_, page) = world.api.get("/api/events?limit=1000").await?;
    let newest = page["next"].as_str().context("no cursor")?;
    let future = format!("c{:x}", u64::from_str_radix(newest.trim_start_matches('c'), 16)? + 1_000);
    for (path, words) in [
        (format!("/api/events?after={future}"), "is ahead of this journal"),
        (format!("/api/events?after={future}&wait=20"), "is ahead of this journal"),
        (format!("/api/events?after={future}&stream=1"), "is ahead of this journal"),
        ("/api/events?after=cffffffffffffffff".to_owned(), "is ahead of this journal"),
        ("/api/events?after=c10000000000000000".to_owned(), "is not a cursor"),
        ("/api/events?after=yesterday".to_owned(), "is not a cursor"),
        ("/api/events?after=-1".to_owned(), "is not a cursor"),
    ] {
        let begun = Instant::now();
        let words_said = refused(&world.api.get(&path).await?, 422, "invalid_field", Some("after"));
        assert!(words_said.contains(words), "{path}: {words_said}");
        assert!(begun.elapsed() < Duration::from_secs(15), "{path} was waited for");
    }
    let resumes = world.api.request(Method::GET, "/api/events?stream=1").header("Last-Event-ID", &future);
    refused(&answer(resumes).await?, 422, "invalid_field", Some("after"));
    for follow in [&["events", "--after", &future][..], &["events", "--after", &future, "--follow"]] {
        let (code, words) = waya(&world, follow)?;
        assert!(code == 4 && words.contains("is ahead of this journal"), "{code}: {words}");
    }
    Ok(())
}

/// A server on this machine that counts who comes, and answers everybody with this.
async fn server(address: &str, says: String) -> Result<(u16, std::sync::Arc<std::sync::atomic::AtomicUsize>)> {
    let listener = TcpListener::bind(address).await?;
    let port = listener.local_addr()?.port();
    let count = std::sync::Arc::<std::sync::atomic::AtomicUsize>::default();
    let seen = std::sync::Arc::clone(&count);
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            seen.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
            let says = says.clone();
            tokio::spawn(async move {
                let mut head = [0; 4096];
                let _ = stream.read(&mut head).await;
                let _ = stream.write_all(says.as_bytes()).await;
                // What is not whole stays open, and nothing more is said.
                if !says.ends_with("\r\n\r\n") {
                    std::future::pending::<()>().await;
                }
            });
        }
    });
    Ok((port, count))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_address_that_leads_inside_is_not_asked_now_or_later() -> Result<()> {
    let options = waya_tests::Options::default().env("WAYA_NETWORK_ALLOW_HOSTS", "127.0.0.2");
    let world = World::with(options)?;
    let (victim, count) = server("127.0.0.1:0", "HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n".to_owned()).await?;
    let mut urls = Vec::new();
    for inside in [
        format!("http://127.0.0.1:{victim}/x.png"),
        format!("http://[::1]:{victim}/x.png"),
        format!("http://[::ffff:127.0.0.1]:{victim}/x.png"),
        format!("http://localhost:{victim}/x.png"),
        "http://169.254.169.254/latest/meta-data/".to_owned(),
    ] {
        let says = format!("HTTP/1.1 302 Found\r\nlocation: {inside}\r\ncontent-length: 0\r\n\r\n");
        let (front, _) = server("127.0.0.2:0", says).await?;
        urls.extend([format!("http://127.0.0.2:{front}/x.png"), inside]);
    }
    for url in &urls {
        let answer = send(&world, json!({"number": BUDI, "media": {"url": url}})).await?;
        let words = refused(&answer, 422, "invalid_media", Some("media"));
        assert!(words.contains("refused: ") && words.contains("network.allow_private"), "{url}: {words}");
        let (code, words) = waya(&world, &["send", BUDI, "--media", url])?;
        assert!(code == 4 && words.contains("network.allow_private"), "{url}: {code} {words}");
    }
    assert_nothing_queued(&world).await?;
    let mut later = Vec::new();
    for url in &urls {
        let media = json!({"url": url, "fetch": "at_send"});
        let (status, body) = send(&world, json!({"number": BUDI, "media": media})).await?;
        ensure!(status == StatusCode::ACCEPTED, "{body}");
        later.push(body["id"].as_str().context("no id")?.to_owned());
    }
    for id in &later {
        let failed = world.until_message(id, |message| message["status"] == "failed").await?;
        assert!(failed["error"].as_str().is_some_and(|error| error.contains("network.allow_private")), "{failed}");
    }
    // A link in a text is looked at likewise, and the text leaves without a preview.
    let text = format!("lihat {}", urls[0]);
    let id = world.accept(BUDI, &text).await?;
    world.until_message(&id, |message| message["ack"] == "read").await?;
    let shown = world.until_received(BUDI, 1).await?;
    assert_eq!((&shown["text"], &shown["preview"]), (&json!(text), &Value::Null));
    assert_eq!(count.load(std::sync::atomic::Ordering::SeqCst), 0, "somebody came inside");
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
