//! Files that are none, and those behind addresses that lead inside.

use anyhow::{Context as _, Result, ensure};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use reqwest::StatusCode;
use reqwest::multipart::{Form, Part};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;
use waya_tests::{BUDI, SITI, World};

use crate::{PNG, assert_nothing_queued, refused, send, send_form, waya};

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

/// A server on this machine that counts who comes, and answers everybody with this.
pub async fn server(address: &str, says: String) -> Result<(u16, std::sync::Arc<std::sync::atomic::AtomicUsize>)> {
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
