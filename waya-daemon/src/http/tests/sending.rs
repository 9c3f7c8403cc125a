//! What is accepted, and what comes back.

use std::collections::HashSet;

use serde_json::{Value, json};

use super::{Door, assert_refused, masked};
use crate::model::Message;

const TO: &str = "6281200000002";

async fn row(door: &Door, id: &Value) -> Message {
    let id = id.as_str().unwrap().parse().unwrap();
    door.world.store.outbox.message(id).await.unwrap().unwrap()
}

#[tokio::test]
async fn one_message_is_accepted() {
    let door = Door::open().await;
    let (status, body) = door.post(json!({ "number": TO, "message": "Halo", "reference_id": "order-7" })).await;
    assert_eq!(status, 202);
    insta::assert_json_snapshot!(masked(&body, &["/id", "/messages/0/id"]));
    assert_eq!(body["id"], body["messages"][0]["id"]);
    assert_eq!(row(&door, &body["id"]).await.text, "Halo");
}

#[tokio::test]
async fn every_spelling_of_a_recipient_is_taken() {
    let door = Door::open().await;
    door.world.settings.set("default_country", Some("62")).await.unwrap();
    for number in
        [json!(6_281_200_000_002_u64), json!("+62 812-0000-0002"), json!("081200000002"), json!("6281200000002@c.us")]
    {
        let (_, body) = door.post(json!({ "number": number, "message": "Halo" })).await;
        assert_eq!(body["messages"][0]["chatId"], "6281200000002@c.us", "{number}: {body}");
    }
    let (_, body) = door.post(json!({ "number": "120363@g.us", "message": "Halo" })).await;
    assert_eq!(
        (&body["messages"][0]["chatId"], &body["messages"][0]["number"]),
        (&json!("120363@g.us"), &json!("120363@g.us"))
    );
}

#[tokio::test]
async fn texts_go_out_byte_for_byte() {
    let door = Door::open().await;
    let long = "ж".repeat(65_536);
    for text in [" a b \n", "a\u{0}b", "\u{200d}👩‍👩‍👧\u{202e}", "e\u{301} é", "\\n \"quoted\" <b>", "\u{feff}x", &long]
    {
        let (status, body) = door.post(json!({ "number": TO, "message": text })).await;
        assert_eq!(status, 202, "{body}");
        assert_eq!(row(&door, &body["id"]).await.text, text);
    }
    // Some programs put a byte order mark before the JSON.
    let (_, body) = door.post_raw("\u{feff}{\"number\":\"6281200000002\",\"message\":\"x\"}").await;
    assert_eq!(row(&door, &body["id"]).await.text, "x");
    // Escapes mean the same as the characters.
    let (_, body) = door.post_raw(r#"{"number":"6281200000002","message":"\ud83d\ude00\u0000\t"}"#).await;
    assert_eq!(row(&door, &body["id"]).await.text, "😀\0\t");
}

#[tokio::test]
async fn repeats_are_sent_once_and_told() {
    let door = Door::open().await;
    let (_, body) = door
        .post(json!({ "recipients": [TO, 6_281_200_000_003_u64, "+62 812 0000 0002", TO], "message": "Halo" }))
        .await;
    let chats: Vec<_> =
        body["messages"].as_array().unwrap().iter().map(|one| one["chatId"].as_str().unwrap()).collect();
    assert_eq!(chats, ["6281200000002@c.us", "6281200000003@c.us"]);
    assert_eq!(body["duplicates"], json!(["+62 812 0000 0002", TO]));
    assert_eq!(door.world.memory.count(), 2);
}

#[tokio::test]
async fn ten_thousand_recipients_fit_into_one_request() {
    let door = Door::open().await;
    let recipients: Vec<u64> = (0..10_000).map(|n| 6_281_200_000_000 + n).collect();
    let (status, body) = door.post(json!({ "recipients": recipients, "message": "Halo" })).await;
    assert_eq!(status, 202);
    let ids: HashSet<_> = body["messages"].as_array().unwrap().iter().map(|one| one["id"].as_str().unwrap()).collect();
    assert_eq!((ids.len(), door.world.memory.count()), (10_000, 10_000));

    let refused = door.post(json!({ "recipients": recipients, "message": "x".repeat(10_000) })).await;
    assert_refused(&refused, 413, "too_large", None);
}

#[tokio::test]
async fn personal_texts_go_in_one_request() {
    let door = Door::open().await;
    let (status, body) = door
        .post(json!({ "reference_id": "all", "messages": [
            { "number": TO, "message": "a", "reference_id": "one" },
            { "number": TO, "message": "b" },
        ]}))
        .await;
    assert_eq!(status, 202);
    let rows = [row(&door, &body["messages"][0]["id"]).await, row(&door, &body["messages"][1]["id"]).await];
    let seen: Vec<_> = rows.iter().map(|row| (row.text.as_str(), row.reference_id.as_deref())).collect();
    assert_eq!(seen, [("a", Some("one")), ("b", Some("all"))]);
}

#[tokio::test]
async fn options_reach_the_row() {
    let door = Door::open().await;
    let (_, body) = door
        .post(json!({
            "number": TO, "message": "Halo", "priority": "low", "scheduled_at": "2027-01-15T15:00:00+07:00",
            "reference_id": 7, "unknown": { "deep": [1] },
        }))
        .await;
    let row = row(&door, &body["id"]).await;
    assert_eq!(row.not_before.unwrap().as_millis(), 1_800_000_000_000);
    assert_eq!((format!("{:?}", row.lane), row.reference_id.as_deref()), ("Low".to_owned(), Some("7")));
}

#[tokio::test]
async fn a_dry_run_queues_nothing() {
    let door = Door::open().await;
    let (status, body) = door.post(json!({ "recipients": [TO, TO], "message": "Halo", "dry_run": true })).await;
    assert_eq!((status, &body["dryRun"], &body["id"]), (200, &json!(true), &Value::Null));
    assert_eq!(body["duplicates"], json!([TO]));
    assert_eq!(door.world.memory.count(), 0);
    let refused = door.post(json!({ "number": "62abc", "message": "Halo", "dry_run": true })).await;
    assert_refused(&refused, 422, "invalid_recipient", Some("number"));
}

#[tokio::test]
async fn the_same_key_and_body_are_one_request() {
    let door = Door::open().await;
    let (status, first) = door.post_with_key("k", r#"{"number":"6281200000002","message":"Halo"}"#).await;
    assert_eq!(status, 202);
    let (status, again) = door.post_with_key("k", r#"{ "message": "Hal\u006f", "number": "6281200000002" }"#).await;
    assert_eq!((status, &again), (202, &first));
    let in_body = json!({ "number": TO, "message": "Halo", "idempotency_key": "k" });
    assert_eq!(door.post(in_body.clone()).await.1, first);
    assert_eq!(door.post_with_key("k", &in_body.to_string()).await.1, first);
    let refused = door.post_with_key("other", &in_body.to_string()).await;
    assert_refused(&refused, 422, "invalid_field", Some("idempotency_key"));
    let refused = door.post_with_key("k", r#"{"number":"6281200000002","message":"Halo!"}"#).await;
    assert_refused(&refused, 409, "idempotency_conflict", None);
    assert_eq!(door.world.memory.count(), 1);
}

#[tokio::test]
async fn equal_requests_at_once_are_one() {
    let door = Door::open().await;
    let body = json!({ "number": TO, "message": "Halo" }).to_string();
    let answers = futures_util::future::join_all((0..20).map(|_| door.post_with_key("k", &body))).await;
    let ids: HashSet<_> = answers.iter().map(|(status, body)| (*status, body["id"].to_string())).collect();
    assert_eq!((ids.len(), door.world.memory.count()), (1, 1), "{ids:?}");
}
