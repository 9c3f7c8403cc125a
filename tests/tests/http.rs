//! Bad requests over the wire: each refused in words, none of them queued; and what is accepted arrives as it was.

use anyhow::{Result, ensure};
use reqwest::{Method, StatusCode, header};
use serde_json::{Value, json};
use waya_tests::http::answer;
use waya_tests::{Api, BUDI, OWN_PHONE, Options, SITI, World};

/// Posts these very bytes to the send endpoint.
async fn post_bytes(api: &Api, body: &[u8]) -> Result<(StatusCode, Value)> {
    let request = api.request(Method::POST, "/api/send-message").header(header::CONTENT_TYPE, "application/json");
    answer(request.body(body.to_vec())).await
}

async fn waiting(world: &World) -> Result<u64> {
    let (_, queue) = world.api.get("/api/queue").await?;
    ensure!(queue["pending"].is_u64() && queue["sending"].is_u64(), "{queue}");
    Ok(queue["pending"].as_u64().unwrap_or_default() + queue["sending"].as_u64().unwrap_or_default())
}

/// The queue is paused, so that anything that slipped in would still be there.
fn paused() -> Result<World> {
    let world = World::with(Options::default().env("WAYA_HTTP_BODY_LIMIT", "16777216"))?;
    world.waya_json(&["queue", "pause"])?;
    Ok(world)
}

#[tokio::test]
async fn what_is_refused_is_not_queued() -> Result<()> {
    let world = paused()?;
    let too_long = json!({"number": BUDI, "message": "x".repeat(70_000)}).to_string();
    let too_large = json!({"number": BUDI, "message": "x".repeat(40 << 20)}).to_string();
    let wrong: &[(&[u8], u16, &str)] = &[
        (br#"{"number":"call me","message":"Halo"}"#, 422, "invalid_recipient"),
        (br#"{"number":"62812","message":"Halo"}"#, 422, "invalid_recipient"),
        (br#"{"number":"","message":"Halo"}"#, 422, "invalid_recipient"),
        (br#"{"number":"0812 0000 0002","message":"Halo"}"#, 422, "invalid_recipient"),
        (br#"{"recipients":["6281200000002","bad"],"message":"Halo"}"#, 422, "invalid_recipient"),
        (br#"{"number":"6281200000002","recipients":["6281200000002"],"message":"Halo"}"#, 422, "invalid_field"),
        (br#"{"number":"6281200000002","message":""}"#, 422, "nothing_to_send"),
        (br#"{"number":"6281200000002"}"#, 422, "nothing_to_send"),
        (too_long.as_bytes(), 422, "invalid_field"),
        (too_large.as_bytes(), 413, "too_large"),
        (br#"{"number":"6281200000002","media":{"data":"no base64!"}}"#, 422, "invalid_media"),
        (br#"{"number":"6281200000002","message":"Halo"#, 400, "invalid_json"),
        (b"{\"number\":\"6281200000002\",\"message\":\"Halo \xff\"}", 400, "invalid_json"),
        (b"{\"number\":\"6281200000002\",\"message\":\"Halo \0\"}", 400, "invalid_json"),
        (b"", 400, "invalid_json"),
    ];
    for (body, status, code) in wrong {
        let shown = String::from_utf8_lossy(&body[..body.len().min(100)]);
        let (got, refusal) = post_bytes(&world.api, body).await?;
        assert_eq!((got.as_u16(), &refusal["code"]), (*status, &json!(code)), "{shown}: {refusal}");
        assert_eq!(refusal["success"], false, "{shown}");
        assert!(refusal["error"].as_str().is_some_and(|text| !text.is_empty()), "{shown}: {refusal}");
    }
    assert_eq!(waiting(&world).await?, 0);
    Ok(())
}

#[tokio::test]
async fn only_the_key_opens() -> Result<()> {
    let world = paused()?;
    let body = json!({"number": BUDI, "message": "Halo"});
    for key in [None, Some(""), Some("wrong")] {
        let (status, refusal) = world.api.with_key(key).post("/api/send-message", &body).await?;
        assert_eq!((status, &refusal["code"]), (StatusCode::UNAUTHORIZED, &json!("unauthorized")), "{key:?}");
    }
    assert_eq!(waiting(&world).await?, 0);
    for path in ["/livez", "/readyz"] {
        let response = world.api.with_key(None).request(Method::GET, path).send().await?;
        assert_eq!(response.status(), StatusCode::OK, "{path}");
    }
    let (status, refusal) = world.api.get("/api/nothing-here").await?;
    assert_eq!((status, &refusal["code"]), (StatusCode::NOT_FOUND, &json!("not_found")));
    Ok(())
}

#[tokio::test]
async fn odd_texts_arrive_byte_for_byte() -> Result<()> {
    let world = World::start()?;
    let long = "ж".repeat(65_536);
    let texts = [" a b \n", "a\u{0}b", "\u{200d}👩‍👩‍👧\u{202e}", "e\u{301} é", r#"\n "quoted" <b>&amp;"#, &long];
    let mut last = String::new();
    for text in texts {
        last = world.accept(BUDI, text).await?;
    }
    // The order of a chat holds: the others are there when the last one is.
    world.until_message(&last, |message| message["ack"] == "read").await?;
    let inbox = world.inbox(BUDI).await?;
    let arrived: Vec<&str> = inbox.iter().filter_map(|message| message["text"].as_str()).collect();
    assert!(arrived == texts, "{arrived:.200?}");
    Ok(())
}

#[tokio::test]
async fn an_idempotency_key_holds_through_a_restart() -> Result<()> {
    let mut world = World::start()?;
    let body = json!({"recipients": [BUDI, SITI], "message": "Halo"});
    let send = async |api: &Api, body: &Value| {
        answer(api.request(Method::POST, "/api/send-message").header("Idempotency-Key", "order-1").json(body)).await
    };
    let (first, second) = tokio::join!(send(&world.api, &body), send(&world.api, &body));
    let (first, second) = (first?, second?);
    assert_eq!(first.0, StatusCode::ACCEPTED);
    assert_eq!(first, second);
    world.until_message(first.1["id"].as_str().unwrap_or_default(), |message| message["ack"] == "read").await?;

    world.restart()?;
    assert_eq!(send(&world.api, &body).await?, first);
    let other = json!({"recipients": [BUDI], "message": "Halo"});
    let (status, refusal) = send(&world.api, &other).await?;
    assert_eq!((status, &refusal["code"]), (StatusCode::CONFLICT, &json!("idempotency_conflict")));
    // Whatever was queued twice would leave before this one, and be seen by whom it reached.
    let id = world.accept(BUDI, "the end").await?;
    world.until_message(&id, |message| message["ack"] == "read").await?;
    let (_, stats) = world.admin.get("/stats").await?;
    assert_eq!(stats["senders"][OWN_PHONE]["distinct_ids"], 3, "{stats}");
    Ok(())
}
