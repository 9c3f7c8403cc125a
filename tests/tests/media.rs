//! Files of every kind, from a caller to the bytes that the other side's own client decrypts, and back.

use std::io::Write as _;

use anyhow::{Context as _, Result, ensure};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use reqwest::StatusCode;
use reqwest::multipart::{Form, Part};
use serde_json::{Value, json};
use waya_tests::{BUDI, Binary, Options, SITI, World, answer, process, until};

/// A picture of one red pixel.
const PNG: &str = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAIAAACQd1PeAAAADElEQVR4nGP4z8AAAAMBAQDJ/pLvAAAAAElFTkSuQmCC";
/// The beginning of a recording.
const MP3: &[u8] = b"ID3\x03\0\0\0\0\0\0\xff\xfb\x90\x64";
const PDF: &[u8] = b"%PDF-1.4\n1 0 obj<</Type/Pages/Count 3>>endobj\ntrailer<<>>\n%%EOF";

async fn post(world: &World, body: &Value) -> Result<Value> {
    let (status, answer) = world.api.post("/api/send-message", body).await?;
    ensure!(status == StatusCode::ACCEPTED, "{status}: {answer}");
    Ok(answer)
}

fn png() -> Vec<u8> {
    STANDARD.decode(PNG).unwrap_or_default()
}

#[tokio::test]
async fn a_picture_and_a_document_arrive_byte_for_byte() -> Result<()> {
    let world = World::start()?;
    let sent = post(&world, &json!({"number": BUDI, "message": "lihat", "media": {"data": PNG}})).await?;
    let picture = world.until_received(BUDI, 1).await?;
    assert_eq!(
        (&picture["kind"], &picture["caption"], &picture["text"]),
        (&json!("image"), &json!("lihat"), &json!(null))
    );
    assert_eq!(world.received_file(BUDI, &picture).await?, png());
    world.until_message(sent["id"].as_str().context("no id")?, |message| message["ack"] == "read").await?;

    let media = json!({"data": STANDARD.encode(PDF), "mimetype": "application/pdf", "filename": "nota juli.pdf"});
    post(&world, &json!({"number": BUDI, "message": "ini notanya", "media": media})).await?;
    let document = world.until_received(BUDI, 2).await?;
    assert_eq!((&document["kind"], &document["caption"]), (&json!("document"), &json!("ini notanya")));
    assert_eq!(document["media"]["filename"], "nota juli.pdf");
    assert_eq!(world.received_file(BUDI, &document).await?, PDF);
    Ok(())
}

#[tokio::test]
async fn several_files_are_several_messages_and_one_upload_serves_everybody() -> Result<()> {
    let mut world = World::start()?;
    let media = json!([{"data": PNG}, {"data": STANDARD.encode(PDF), "filename": "a.pdf"}]);
    let sent = post(&world, &json!({"recipients": [BUDI, SITI], "message": "dua", "media": media})).await?;
    assert_eq!(sent["messages"].as_array().map(Vec::len), Some(4));
    for who in [BUDI, SITI] {
        world.until_received(who, 2).await?;
        let inbox = world.inbox(who).await?;
        assert_eq!(
            (&inbox[0]["caption"], &inbox[1]["caption"]),
            (&json!("dua"), &json!(null)),
            "the first has the words"
        );
        assert_eq!(world.received_file(who, &inbox[0]).await?, png());
    }
    let uploads = |world: &World| -> Result<usize> {
        let files = std::fs::read_dir(world.data_dir().join("media"))?.collect::<std::io::Result<Vec<_>>>()?;
        Ok(files.iter().filter(|file| file.file_name().to_string_lossy().ends_with(".sent")).count())
    };
    assert_eq!(uploads(&world)?, 2);
    // After a restart the servers refuse uploads: what is known of the file serves on.
    world.restart()?;
    world.until_session("connected").await?;
    let (status, faults) = world.admin.post("/fault", &json!({"kind": "media", "args": [500]})).await?;
    ensure!(status.is_success(), "{faults}");
    post(&world, &json!({"number": SITI, "media": {"data": PNG}})).await?;
    world.until_received(SITI, 3).await?;
    assert_eq!(uploads(&world)?, 2);
    Ok(())
}

#[tokio::test]
async fn an_upload_that_fails_is_tried_again_under_the_same_id() -> Result<()> {
    let world = World::start()?;
    world.fault("media", &["500"]).await?;
    let sent = post(&world, &json!({"number": BUDI, "media": {"data": PNG}})).await?;
    let id = sent["id"].as_str().context("no id")?.to_owned();
    let waiting = world.until_message(&id, |message| message["error"].is_string()).await?;
    assert_eq!(waiting["status"], "pending", "{waiting}");
    world.no_faults().await?;
    let read = world.until_message(&id, |message| message["ack"] == "read").await?;
    let inbox = world.inbox(BUDI).await?;
    assert_eq!((inbox.len(), &inbox[0]["copies"], &inbox[0]["id"]), (1, &json!(1), &read["whatsappId"]));
    Ok(())
}

/// The most that either side may hold of a file, beside what it needs anyway.
const STREAMED: u64 = 40 << 20;

#[tokio::test]
async fn the_largest_document_passes_through_little_memory() -> Result<()> {
    let world = World::start()?;
    // What is looked at is how it comes in: the people live in the same process.
    ensure!(world.waya(&["queue", "pause"])?.status.success());
    let folder = tempfile::tempdir()?;
    let path = folder.path().join("large.pdf");
    let mut file = std::io::BufWriter::new(std::fs::File::create(&path)?);
    file.write_all(PDF)?;
    let block: Vec<u8> = (0..1 << 20).map(|n: u32| (n * 7 % 251) as u8).collect();
    for _ in 0..99 {
        file.write_all(&block)?;
    }
    file.flush()?;
    let (before, _) = world.memory()?;
    let mut command = Binary::waya()?.command();
    command.env_clear().arg("--socket").arg(world.socket()).args(["send", BUDI, "--media"]).arg(&path);
    let mut waya = command.stdout(std::process::Stdio::null()).spawn()?;
    let mut most = 0;
    let status = loop {
        // Gone between the two: its last word counts.
        most = process::memory(waya.id()).map_or(most, |(_, peak)| most.max(peak));
        if let Some(status) = waya.try_wait()? {
            break status;
        }
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    };
    ensure!(status.success(), "{status}");
    let (_, peak) = world.memory()?;
    ensure!(most > 0 && most < STREAMED, "waya used {} MiB", most >> 20);
    ensure!(peak < before + STREAMED, "the daemon had {} MiB, and then {}", before >> 20, peak >> 20);
    Ok(())
}

#[tokio::test]
async fn forms_and_the_command_line_stream_files() -> Result<()> {
    let world = World::start()?;
    let part = Part::bytes(png()).file_name("foto.png").mime_str("image/png")?;
    let form = Form::new().text("number", BUDI).text("message", "dari formulir").part("file", part);
    let request = world.api.request(reqwest::Method::POST, "/api/send-message").multipart(form);
    let (status, body) = answer(request).await?;
    ensure!(status == StatusCode::ACCEPTED, "{status}: {body}");
    let picture = world.until_received(BUDI, 1).await?;
    assert_eq!((&picture["caption"], world.received_file(BUDI, &picture).await?), (&json!("dari formulir"), png()));

    // In a form as in JSON, `document` says what the files are to be.
    let part = Part::bytes(png()).file_name("foto.png").mime_str("image/png")?;
    let form = Form::new().text("number", SITI).text("document", "true").part("file", part);
    let request = world.api.request(reqwest::Method::POST, "/api/send-message").multipart(form);
    let (status, body) = answer(request).await?;
    ensure!(status == StatusCode::ACCEPTED, "{status}: {body}");
    let document = world.until_received(SITI, 1).await?;
    assert_eq!((&document["kind"], &document["media"]["filename"]), (&json!("document"), &json!("foto.png")));

    let folder = tempfile::tempdir()?;
    let path = folder.path().join("besar.bin");
    let mut file = std::fs::File::create(&path)?;
    let content: Vec<u8> = (0..3_000_000u32).map(|n| (n * 7 % 251) as u8).collect();
    file.write_all(&content)?;
    let path = path.to_str().context("no path")?;
    let output = world.waya(&["send", BUDI, "--media", path, "--caption", "besar", "--wait", "delivered"])?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let document = world.until_received(BUDI, 2).await?;
    assert_eq!((&document["kind"], &document["media"]["filename"]), (&json!("document"), &json!("besar.bin")));
    assert_eq!(world.received_file(BUDI, &document).await?, content);
    let missing = world.waya(&["send", BUDI, "--media", "/no/such/file"])?;
    assert_eq!(missing.status.code(), Some(4));
    Ok(())
}

#[tokio::test]
async fn a_file_that_comes_in_can_be_fetched() -> Result<()> {
    let world = World::start()?;
    let said = json!({"from": BUDI, "text": "ini", "media": {"data": PNG, "mimetype": "image/png"}});
    let (status, said) = world.admin.post("/say", &said).await?;
    ensure!(status.is_success(), "{said}");
    let id = said["id"].as_str().context("no id")?;
    until("it is in the journal", || async {
        let (_, events) = world.api.get("/api/events?limit=1000").await?;
        ensure!(events.to_string().contains(id), "{events}");
        Ok(())
    })
    .await?;
    let response = world.api.request(reqwest::Method::GET, &format!("/api/messages/{id}/media")).send().await?;
    assert_eq!((response.status(), response.headers()["content-type"].to_str()?), (StatusCode::OK, "image/png"));
    assert_eq!(response.bytes().await?.to_vec(), png());
    let folder = tempfile::tempdir()?;
    let path = folder.path().join("foto.png");
    let output = world.waya(&["message", "media", id, path.to_str().context("no path")?])?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(std::fs::read(&path)?, png());
    let (status, refused) = world.api.get("/api/messages/3EB0NONE/media").await?;
    assert_eq!((status, &refused["code"]), (StatusCode::NOT_FOUND, &json!("not_found")));
    Ok(())
}

#[tokio::test]
async fn places_cards_polls_and_what_is_done_to_messages() -> Result<()> {
    let world = World::start()?;
    post(&world, &json!({"number": BUDI, "location": {"latitude": -6.1754, "longitude": 106.8272, "name": "Monas"}}))
        .await?;
    let place = world.until_received(BUDI, 1).await?;
    assert_eq!((&place["kind"], &place["text"]), (&json!("location"), &json!("Monas")));
    post(&world, &json!({"number": BUDI, "contact": {"name": "Siti", "number": SITI}})).await?;
    assert_eq!(world.until_received(BUDI, 2).await?["kind"], "contact");
    let poll = json!({"question": "Jadi?", "options": ["Ya", "Tidak"]});
    post(&world, &json!({"number": BUDI, "poll": poll})).await?;
    let poll = world.until_received(BUDI, 3).await?;
    assert_eq!((&poll["kind"], &poll["text"]), (&json!("poll"), &json!("Jadi?")));

    let id = world.accept(BUDI, "salah").await?;
    let first = world.until_message(&id, |message| message["ack"] == "read").await?;
    let edited = world.waya(&["edit", &id, "benar"])?;
    ensure!(edited.status.success(), "{}", String::from_utf8_lossy(&edited.stderr));
    let edit = world.until_received(BUDI, 5).await?;
    assert_eq!(
        (&edit["kind"], &edit["text"], &edit["quoted"]),
        (&json!("edited"), &json!("benar"), &first["whatsappId"])
    );
    let (status, answer) = world.api.delete(&format!("/api/messages/{id}")).await?;
    ensure!(status == StatusCode::ACCEPTED, "{answer}");
    let revoked = world.until_received(BUDI, 6).await?;
    assert_eq!((&revoked["kind"], &revoked["quoted"]), (&json!("revoked"), &first["whatsappId"]));

    let (_, said) = world.admin.post("/say", &json!({"from": BUDI, "text": "kabar baik"})).await?;
    let theirs = said["id"].as_str().context("no id")?.to_owned();
    until("it is in the journal", || async {
        let (_, events) = world.api.get("/api/events?limit=1000").await?;
        ensure!(events.to_string().contains(&theirs), "{events}");
        Ok(())
    })
    .await?;
    post(&world, &json!({"number": BUDI, "message": "terima kasih", "quoted": theirs})).await?;
    let reply = world.until_received(BUDI, 7).await?;
    assert_eq!((&reply["text"], &reply["quoted"]), (&json!("terima kasih"), &json!(theirs)));
    ensure!(world.waya(&["react", &theirs, "👍"])?.status.success());
    let reaction = world.until_received(BUDI, 8).await?;
    assert_eq!((&reaction["kind"], &reaction["text"]), (&json!("reaction"), &json!("👍")));
    ensure!(world.waya(&["message", "forward", &theirs, SITI])?.status.success());
    assert_eq!(world.until_received(SITI, 1).await?["text"], "kabar baik");
    Ok(())
}

#[tokio::test]
async fn a_group_that_we_are_not_in_is_refused_and_a_table_sends_to_each() -> Result<()> {
    let world = World::start()?;
    let body = json!({"recipients": [BUDI, "120363000000000000@g.us"], "message": "Halo"});
    let (status, refused) = world.api.post("/api/send-message", &body).await?;
    assert_eq!((status, &refused["code"]), (StatusCode::UNPROCESSABLE_ENTITY, &json!("invalid_recipient")));
    assert_eq!(refused["field"], "recipients[1]");
    let folder = tempfile::tempdir()?;
    let table = folder.path().join("daftar.csv");
    std::fs::write(&table, format!("nama;nomor\nBudi;{BUDI}\nSiti;{SITI}\n"))?;
    let output =
        world.waya(&["send", "--csv", table.to_str().context("no path")?, "Halo {{nama}}", "--wait", "delivered"])?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    for (who, text) in [(BUDI, "Halo Budi"), (SITI, "Halo Siti")] {
        let inbox = world.inbox(who).await?;
        assert_eq!((inbox.len(), &inbox[0]["text"]), (1, &json!(text)));
    }
    Ok(())
}

/// A server on this machine that has one picture, one recording and one page.
async fn web() -> Result<(String, tokio::task::JoinHandle<()>)> {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
    let base = format!("http://{}", listener.local_addr()?);
    let server = tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
                let mut head = vec![0; 4096];
                let count = stream.read(&mut head).await.unwrap_or(0);
                let head = String::from_utf8_lossy(&head[..count]).into_owned();
                let page = b"<head><title>Toko Budi</title><meta name=description content='Buka tiap hari'></head>";
                let (status, kind, body) = match head.split(' ').nth(1) {
                    Some("/foto.png") => ("200 OK", "image/png", png()),
                    Some("/lagu.mp3" | "/unduh?id=7") => ("200 OK", "audio/mpeg", MP3.to_vec()),
                    Some("/toko") => ("200 OK", "text/html", page.to_vec()),
                    _ => ("404 Not Found", "text/plain", b"no".to_vec()),
                };
                let length = body.len();
                let head = format!("HTTP/1.1 {status}\r\ncontent-type: {kind}\r\ncontent-length: {length}\r\n\r\n");
                let _ = stream.write_all(&[head.as_bytes(), &body].concat()).await;
            });
        }
    });
    Ok((base, server))
}

#[tokio::test]
async fn addresses_are_fetched_now_or_later_and_links_show_what_is_behind_them() -> Result<()> {
    let world = World::with(Options::default().env("WAYA_NETWORK_ALLOW_HOSTS", "127.0.0.1"))?;
    let (base, server) = web().await?;
    post(&world, &json!({"number": BUDI, "message": "foto", "media": {"url": format!("{base}/foto.png")}})).await?;
    let picture = world.until_received(BUDI, 1).await?;
    assert_eq!((&picture["kind"], world.received_file(BUDI, &picture).await?), (&json!("image"), png()));

    let dead = json!({"url": format!("{base}/gone.png")});
    let (status, refused) = world.api.post("/api/send-message", &json!({"number": BUDI, "media": dead})).await?;
    assert_eq!((status, &refused["code"]), (StatusCode::UNPROCESSABLE_ENTITY, &json!("invalid_media")));
    let page = json!({"url": format!("{base}/toko")});
    let (status, refused) = world.api.post("/api/send-message", &json!({"number": BUDI, "media": page})).await?;
    assert_eq!((status, &refused["code"]), (StatusCode::UNPROCESSABLE_ENTITY, &json!("invalid_media")));
    assert!(refused["error"].as_str().is_some_and(|words| words.contains("web page")), "{refused}");
    let later = json!({"url": format!("{base}/foto.png"), "fetch": "at_send"});
    post(&world, &json!({"number": BUDI, "media": later})).await?;
    let picture = world.until_received(BUDI, 2).await?;
    assert_eq!(world.received_file(BUDI, &picture).await?, png());
    let later = json!({"url": format!("{base}/gone.png"), "fetch": "at_send"});
    let sent = post(&world, &json!({"number": BUDI, "media": later})).await?;
    let id = sent["id"].as_str().context("no id")?.to_owned();
    let failed = world.until_message(&id, |message| message["status"] == "failed").await?;
    assert!(failed["error"].as_str().is_some_and(|error| error.contains("404")), "{failed}");

    let text = format!("lihat {base}/toko ya");
    post(&world, &json!({"number": BUDI, "message": text})).await?;
    let shown = world.until_received(BUDI, 3).await?;
    assert_eq!((&shown["text"], &shown["preview"]["title"]), (&json!(text), &json!("Toko Budi")));
    post(&world, &json!({"number": BUDI, "message": text, "preview": false})).await?;
    assert_eq!(world.until_received(BUDI, 4).await?["preview"], json!(null));
    server.abort();
    Ok(())
}

/// Sound carries no words. Fetched now or later, they arrive all the same, and once.
#[tokio::test]
async fn words_that_a_file_cannot_carry_are_not_lost() -> Result<()> {
    let world = World::with(Options::default().env("WAYA_NETWORK_ALLOW_HOSTS", "127.0.0.1"))?;
    let (base, server) = web().await?;
    // As its address says what it is, the words go behind it, whenever it is fetched.
    for (fetch, count) in [("now", 2), ("at_send", 4)] {
        let media = json!({"url": format!("{base}/lagu.mp3"), "fetch": fetch});
        let sent = post(&world, &json!({"number": BUDI, "message": "dengar", "media": media})).await?;
        assert_eq!(sent["messages"].as_array().map(Vec::len), Some(2), "{sent}");
        world.until_received(BUDI, count).await?;
        let inbox = world.inbox(BUDI).await?;
        let [.., sound, words] = inbox.as_slice() else { anyhow::bail!("{inbox:?}") };
        assert_eq!(
            (&sound["kind"], &sound["caption"], &words["text"]),
            (&json!("audio"), &json!(null), &json!("dengar"))
        );
    }
    // Where it shows only as the message leaves, the file goes as a document: that has a place for words.
    let media = json!({"url": format!("{base}/unduh?id=7"), "fetch": "at_send"});
    let sent = post(&world, &json!({"number": BUDI, "message": "dengar", "media": media})).await?;
    assert_eq!(sent["messages"].as_array().map(Vec::len), Some(1), "{sent}");
    let arrived = world.until_received(BUDI, 5).await?;
    assert_eq!((&arrived["kind"], &arrived["caption"]), (&json!("document"), &json!("dengar")), "{arrived}");
    assert_eq!(world.received_file(BUDI, &arrived).await?, MP3);
    // Without words it is what it is.
    let media = json!({"url": format!("{base}/unduh?id=7"), "fetch": "at_send"});
    post(&world, &json!({"number": BUDI, "media": media})).await?;
    assert_eq!(world.until_received(BUDI, 6).await?["kind"], "audio");
    server.abort();
    Ok(())
}
