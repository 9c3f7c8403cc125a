//! What is done to messages over HTTP, as the other side sees it, and what cannot be done or had.

use anyhow::{Context as _, Result, ensure};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use waya_tests::{BUDI, Options, SITI, World, answer, until};

const PDF: &[u8] = b"%PDF-1.4\n1 0 obj<</Type/Pages/Count 1>>endobj\ntrailer<<>>\n%%EOF";

/// Carries one out; the id of the message that does it.
async fn done(world: &World, method: Method, path: &str, body: Value) -> Result<String> {
    let (status, accepted) = answer(world.api.request(method, path).json(&body)).await?;
    ensure!(status == StatusCode::ACCEPTED, "{status}: {accepted}");
    Ok(accepted["id"].as_str().context("no id")?.to_owned())
}

async fn refused(world: &World, method: Method, path: &str, body: Value) -> Result<(u16, Value)> {
    let (status, refused) = answer(world.api.request(method, path).json(&body)).await?;
    Ok((status.as_u16(), refused["code"].clone()))
}

/// Something that Budi says; its id, once it is in the journal.
async fn said(world: &World, what: Value) -> Result<String> {
    let (status, said) = world.admin.post("/say", &what).await?;
    ensure!(status.is_success(), "{said}");
    let id = said["id"].as_str().context("no id")?.to_owned();
    until("it is in the journal", || async {
        let (_, events) = world.api.get("/api/events?limit=1000").await?;
        ensure!(events.to_string().contains(&id), "{events}");
        Ok(())
    })
    .await?;
    Ok(id)
}

#[tokio::test]
async fn editing_reacting_and_passing_on_over_http() -> Result<()> {
    let world = World::start()?;
    let id = world.accept(BUDI, "salah").await?;
    let first = world.until_message(&id, |message| message["ack"] == "read").await?;
    let path = format!("/api/messages/{id}");
    done(&world, Method::PATCH, &path, json!({"message": "benar"})).await?;
    let edit = world.until_received(BUDI, 2).await?;
    assert_eq!(
        (&edit["kind"], &edit["text"], &edit["quoted"]),
        (&json!("edited"), &json!("benar"), &first["whatsappId"])
    );

    let theirs = said(&world, json!({"from": BUDI, "text": "kabar baik"})).await?;
    let reaction = format!("/api/messages/{theirs}/reaction");
    done(&world, Method::PUT, &reaction, json!({"emoji": "👍"})).await?;
    let seen = world.until_received(BUDI, 3).await?;
    assert_eq!((&seen["kind"], &seen["text"], &seen["quoted"]), (&json!("reaction"), &json!("👍"), &json!(theirs)));
    done(&world, Method::DELETE, &reaction, json!({})).await?;
    let gone = world.until_received(BUDI, 4).await?;
    assert_eq!((&gone["kind"], &gone["quoted"]), (&json!("reaction"), &json!(theirs)));
    assert!(gone["text"].as_str().is_none_or(str::is_empty), "{gone}");
    let field = json!({"number": BUDI, "reaction": {"messageId": theirs, "emoji": "❤"}});
    done(&world, Method::POST, "/api/send-message", field).await?;
    let seen = world.until_received(BUDI, 5).await?;
    assert_eq!((&seen["kind"], &seen["text"], &seen["quoted"]), (&json!("reaction"), &json!("❤"), &json!(theirs)));

    done(&world, Method::POST, &format!("/api/messages/{theirs}/forward"), json!({"number": SITI})).await?;
    assert_eq!(world.until_received(SITI, 1).await?["text"], "kabar baik");
    Ok(())
}

#[tokio::test]
async fn files_are_passed_on_whoever_sent_them() -> Result<()> {
    let world = World::start()?;
    let media = json!({"data": STANDARD.encode(PDF), "filename": "nota.pdf"});
    let body = json!({"number": BUDI, "message": "ini notanya", "media": media});
    let ours = done(&world, Method::POST, "/api/send-message", body).await?;
    world.until_message(&ours, |message| message["ack"] == "read").await?;
    let file = json!({"data": STANDARD.encode(PDF), "mimetype": "application/pdf", "filename": "bon.pdf"});
    let theirs = said(&world, json!({"from": BUDI, "text": "bonnya", "media": file})).await?;
    for (count, id, caption, filename) in [(1, ours, "ini notanya", "nota.pdf"), (2, theirs, "bonnya", "bon.pdf")] {
        done(&world, Method::POST, &format!("/api/messages/{id}/forward"), json!({"recipients": [SITI]})).await?;
        let passed_on = world.until_received(SITI, count).await?;
        assert_eq!(
            (&passed_on["kind"], &passed_on["caption"], &passed_on["media"]["filename"]),
            (&json!("document"), &json!(caption), &json!(filename)),
            "{passed_on}"
        );
        assert_eq!(world.received_file(SITI, &passed_on).await?, PDF);
    }
    Ok(())
}

#[tokio::test]
async fn what_cannot_be_done_or_had_says_so() -> Result<()> {
    let world = World::with(Options::default().env("WAYA_NETWORK_ALLOW_HOSTS", "127.0.0.1"))?;
    let later = json!({"number": BUDI, "message": "nanti", "scheduled_at": "2099-01-01T00:00:00Z"});
    let waiting = done(&world, Method::POST, "/api/send-message", later).await?;
    let text = said(&world, json!({"from": BUDI, "text": "teks saja"})).await?;
    let file = json!({"data": STANDARD.encode(PDF), "mimetype": "application/pdf"});
    let with_file = said(&world, json!({"from": BUDI, "text": "ini", "media": file})).await?;
    let is = |status: u16, code: &str| (status, json!(code));
    for (method, path, body) in [
        (Method::PATCH, format!("/api/messages/{waiting}"), json!({"message": "x"})),
        (Method::PUT, format!("/api/messages/{waiting}/reaction"), json!({"emoji": "👍"})),
        (Method::PATCH, format!("/api/messages/{text}"), json!({"message": "x"})),
        (Method::DELETE, format!("/api/messages/{text}"), json!({})),
    ] {
        let answer = refused(&world, method.clone(), &path, body).await?;
        assert_eq!(answer, is(409, "not_possible"), "{method} {path}");
    }
    for id in [&waiting, &text] {
        let answer = refused(&world, Method::GET, &format!("/api/messages/{id}/media"), json!({})).await?;
        assert_eq!(answer, is(404, "no_media"), "{id}");
    }
    // The media servers say no; then there is no connection at all.
    let path = format!("/api/messages/{with_file}/media");
    world.fault("media", &["500"]).await?;
    assert_eq!(refused(&world, Method::GET, &path, json!({})).await?, is(502, "media_unavailable"));
    world.no_faults().await?;
    world.fault("refuse", &[]).await?;
    world.fault("cut", &[]).await?;
    world.until_session("offline").await?;
    assert_eq!(refused(&world, Method::GET, &path, json!({})).await?, is(503, "not_connected"));
    world.no_faults().await?;
    world.until_session("connected").await?;
    let response = world.api.request(Method::GET, &path).send().await?;
    assert_eq!((response.status(), response.bytes().await?.to_vec()), (StatusCode::OK, PDF.to_vec()));
    Ok(())
}
