//! Every way to be refused: the right status, code and field, and nothing queued.

use serde_json::{Value, json};

use super::{Door, answer, assert_refused};

const TO: &str = "6281200000002";

#[tokio::test]
async fn a_bad_recipient_is_named_with_its_field() {
    let door = Door::open().await;
    for number in
        ["62abc", "628", "", "   ", "62812345678901234567", "x@example.com", "081200000002", "category:x", "main"]
    {
        let refused = door.post(json!({ "number": number, "message": "Halo" })).await;
        assert_refused(&refused, 422, "invalid_recipient", Some("number"));
    }
    let refused = door.post(json!({ "recipients": [TO, "62abc"], "message": "Halo" })).await;
    assert_refused(&refused, 422, "invalid_recipient", Some("recipients[1]"));
    let refused =
        door.post(json!({ "messages": [{"number": TO, "message": "a"}, {"number": "1", "message": "b"}] })).await;
    assert_refused(&refused, 422, "invalid_recipient", Some("messages[1].number"));
    assert_eq!(door.world.memory.count(), 0);
}

#[tokio::test]
async fn the_hint_for_national_numbers_names_the_setting() {
    let door = Door::open().await;
    let (_, body) = door.post(json!({ "number": "081200000002", "message": "Halo" })).await;
    assert!(body["error"].as_str().unwrap().contains("default_country"), "{body}");
}

#[tokio::test]
async fn fields_that_do_not_fit_are_refused() {
    let door = Door::open().await;
    for (body, field) in [
        (json!({ "message": "Halo" }), "number"),
        (json!({ "number": null, "message": "Halo" }), "number"),
        (json!({ "number": TO, "recipients": [TO], "message": "Halo" }), "recipients"),
        (json!({ "number": [TO], "message": "Halo" }), "number"),
        (json!({ "number": 62.5, "message": "Halo" }), "number"),
        (json!({ "number": -6_281_200_000_002_i64, "message": "Halo" }), "number"),
        (json!({ "recipients": TO, "message": "Halo" }), "recipients"),
        (json!({ "recipients": [], "message": "Halo" }), "recipients"),
        (json!({ "recipients": [{}], "message": "Halo" }), "recipients[0]"),
        (json!({ "recipients": vec![TO; 10_001], "message": "Halo" }), "recipients"),
        (json!({ "messages": [], }), "messages"),
        (json!({ "messages": ["x"] }), "messages"),
        (json!({ "messages": [{ "number": TO, "message": "a" }], "message": "Halo" }), "message"),
        (json!({ "messages": [{ "message": "a" }] }), "messages[0].number"),
        (json!({ "number": TO, "message": 5 }), "message"),
        (json!({ "number": TO, "message": "x".repeat(70_000) }), "message"),
        (json!({ "number": TO, "message": "Halo", "reference_id": "r".repeat(129) }), "reference_id"),
        (json!({ "number": TO, "message": "Halo", "reference_id": "a\nb" }), "reference_id"),
        (json!({ "number": TO, "message": "Halo", "reference_id": [] }), "reference_id"),
        (json!({ "number": TO, "message": "Halo", "priority": "urgent" }), "priority"),
        (json!({ "number": TO, "message": "Halo", "scheduled_at": "tomorrow" }), "scheduled_at"),
        (json!({ "number": TO, "message": "Halo", "scheduled_at": 1_800_000_000 }), "scheduled_at"),
        (json!({ "number": TO, "message": "Halo", "idempotency_key": 5 }), "idempotency_key"),
        (json!({ "number": TO, "message": "Halo", "idempotency_key": "" }), "idempotency_key"),
        (json!({ "number": TO, "message": "Halo", "dry_run": "yes" }), "dry_run"),
    ] {
        assert_refused(&door.post(body).await, 422, "invalid_field", Some(field));
    }
    assert_eq!(door.world.memory.count(), 0);
}

#[tokio::test]
async fn nothing_to_send_is_said() {
    let door = Door::open().await;
    for body in
        [json!({ "number": TO }), json!({ "number": TO, "message": "" }), json!({ "number": TO, "message": null })]
    {
        assert_refused(&door.post(body).await, 422, "nothing_to_send", Some("message"));
    }
    let refused = door.post(json!({ "messages": [{ "number": TO }] })).await;
    assert_refused(&refused, 422, "nothing_to_send", Some("messages[0].message"));
}

#[tokio::test]
async fn broken_json_is_told_with_its_place() {
    let door = Door::open().await;
    for body in [
        &b"{\"number\": \"6281200000002\",\n \"message\" \"Halo\"}"[..],
        b"{\"number\": \"6281200000002\", \"message\": \"Halo\"",
        b"{\"number\": \"6281200000002\", \"message\": \"Halo\"} x",
        b"{\"number\": \"6281200000002\", \"message\": \"a\0b\"}",
        b"{\"number\": \"6281200000002\", \"message\": \"\\ud800\"}",
    ] {
        let refused = door.post_raw(body).await;
        assert_refused(&refused, 400, "invalid_json", None);
        assert!(refused.1["error"].as_str().unwrap().contains("line "), "{}", refused.1);
    }
    for body in [&b""[..], b"[]", b"\"x\"", b"number=628&message=x", b"\xef\xbb\xbf"] {
        assert_refused(&door.post_raw(body).await, 400, "invalid_json", None);
    }
    let refused = door.post_raw(&b"{\"number\": \"6281200000002\", \"message\": \"\xff\"}"[..]).await;
    assert_refused(&refused, 400, "invalid_json", None);
    assert!(refused.1["error"].as_str().unwrap().contains("UTF-8 (byte 40)"), "{}", refused.1);
    assert_eq!(door.world.memory.count(), 0);
}

#[tokio::test]
async fn media_that_cannot_be_sent_is_refused_and_nothing_is_queued() {
    let door = Door::open().await;
    let png = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAIAAACQd1PeAAAADElEQVR4nGP4z8AAAAMBAQDJ/pLvAAAAAElFTkSuQmCC";
    let page = "http://127.0.0.1:9/x.png";
    for (media, code, field) in [
        (json!({ "data": "no base64!" }), "invalid_media", "media"),
        (json!({ "data": "data:image/png;base64" }), "invalid_media", "media"),
        (json!({ "data": png, "mimetype": "video/mp4" }), "invalid_media", "media"),
        (json!({ "data": png, "mimetype": "png" }), "invalid_media", "media"),
        (json!({ "data": png, "voice": true }), "invalid_media", "media"),
        (json!({ "data": "", "mimetype": "image/png" }), "invalid_field", "media"),
        (json!({ "mimetype": "image/png" }), "invalid_field", "media"),
        (json!({ "url": page, "data": png }), "invalid_field", "media"),
        (json!({ "url": "file:///etc/passwd" }), "invalid_media", "media"),
        (json!({ "url": page }), "invalid_media", "media"),
        (json!({ "url": "http://[::1]/x.png" }), "invalid_media", "media"),
        (json!({ "url": "http://169.254.169.254/latest" }), "invalid_media", "media"),
        (json!({ "url": page, "fetch": "never" }), "invalid_field", "media.fetch"),
        (json!({ "data": png, "voice": "perhaps" }), "invalid_field", "media.voice"),
        (json!({ "data": 7 }), "invalid_field", "media.data"),
        (json!(7), "invalid_field", "media"),
        (json!([{ "data": png }, { "data": "?" }]), "invalid_media", "media[1]"),
        (json!(vec![json!({ "data": png }); 31]), "invalid_field", "media"),
    ] {
        let answer = door.post(json!({ "number": TO, "message": "Halo", "media": media })).await;
        assert_refused(&answer, 422, code, Some(field));
    }
    let personal = json!({ "messages": [{ "number": TO, "media": { "data": "?" } }] });
    assert_refused(&door.post(personal).await, 422, "invalid_media", Some("messages[0].media"));
    let (_, queue) = door.get("/api/queue").await;
    assert_eq!(queue["messages"], json!([]));
}

#[tokio::test]
async fn a_file_over_its_limit_is_too_large() {
    let door = Door::open().await;
    let zeros = "A".repeat(4 * (1 << 20));
    door.world.media_limits.send_replace(crate::media::Limits { document: 1 << 20, ..Default::default() });
    door.world.media_limits.send_modify(|limits| limits.media = 1 << 10);
    let answer = door.post(json!({ "number": TO, "media": { "data": zeros } })).await;
    assert_refused(&answer, 413, "too_large", Some("media"));
}

#[tokio::test]
async fn what_is_no_place_no_card_and_no_poll_is_refused() {
    let door = Door::open().await;
    let poll = |options: Value| json!({ "poll": { "question": "Jadi?", "options": options } });
    for (body, field) in [
        (json!({ "location": { "latitude": 91, "longitude": 0 } }), "location"),
        (json!({ "location": { "latitude": "here" } }), "location"),
        (json!({ "location": { "latitude": 1, "longitude": 1 }, "message": "x" }), "location"),
        (json!({ "contact": { "name": "", "number": TO } }), "contact.name"),
        (json!({ "contact": { "name": "Budi", "number": "120363@g.us" } }), "contact.number"),
        (poll(json!(["Ya"])), "poll.options"),
        (poll(json!(["Ya", "Ya"])), "poll.options[1]"),
        (poll(json!(["Ya", " "])), "poll.options[1]"),
        (poll(json!(vec!["x"; 13])), "poll.options"),
        (json!({ "poll": { "question": "Jadi?", "options": ["a", "b"], "selectable": 3 } }), "poll.selectable"),
        (json!({ "message": "x", "quoted": "3EB0NONE" }), "quoted"),
        (json!({ "reaction": { "messageId": "3EB0NONE", "emoji": "👍" } }), "reaction.messageId"),
        (json!({ "message": "x", "mentions": "all" }), "mentions"),
        (json!({ "message": "x", "preview": 1 }), "preview"),
    ] {
        let mut body = body;
        body["number"] = json!(TO);
        assert_refused(&door.post(body.clone()).await, 422, "invalid_field", Some(field));
    }
    let answer = door.post(json!({ "number": TO, "message": "x", "mentions": ["628x"] })).await;
    assert_refused(&answer, 422, "invalid_recipient", Some("mentions[0]"));
}

#[tokio::test]
async fn other_types_of_body_are_refused() {
    let door = Door::open().await;
    for kind in ["text/plain", "application/x-www-form-urlencoded", "application/xml", "json"] {
        let request = door.request("POST", "/api/send-message").header("content-type", kind);
        assert_refused(&answer(request.body("{}")).await, 415, "unsupported_media_type", None);
    }
    for kind in ["application/json; charset=utf-8", "Application/JSON", "application/vnd.api+json"] {
        let request = door.request("POST", "/api/send-message").header("content-type", kind);
        let (status, body) = answer(request.body(json!({ "number": TO, "message": "Halo" }).to_string())).await;
        assert_eq!(status, 202, "{kind}: {body}");
    }
}

#[tokio::test]
async fn only_the_key_in_use_opens() {
    let door = Door::open().await;
    let open = |header: &'static str, value: String| {
        let url = format!("http://{}/api/session", door.address);
        answer(door.client.get(url).header(header, value))
    };
    let old = door.world.key();
    assert_eq!(open("x-api-key", old.clone()).await.0, 200);
    assert_eq!(open("authorization", format!("bearer {old}")).await.0, 200);
    assert_refused(&open("accept", "*/*".to_owned()).await, 401, "unauthorized", None);
    for wrong in ["", "k", &old[..63], &format!("{old}0"), &old.to_uppercase()] {
        assert_refused(&open("x-api-key", wrong.to_owned()).await, 401, "unauthorized", None);
    }
    assert_refused(&open("authorization", format!("Basic {old}")).await, 401, "unauthorized", None);

    let new = door.world.api.rotate_key().await.unwrap();
    assert_refused(&open("x-api-key", old).await, 401, "unauthorized", None);
    assert_eq!(open("x-api-key", new.clone()).await.0, 200);
    assert_eq!(door.world.key(), new);
}

#[tokio::test]
async fn paths_and_methods_that_are_not_there() {
    let door = Door::open().await;
    assert_refused(&door.get("/api/nothing").await, 404, "not_found", None);
    assert_refused(&door.get("/").await, 404, "not_found", None);
    let response = door.request("PUT", "/api/send-message").send().await.unwrap();
    assert_eq!(response.headers()["allow"], "POST, OPTIONS");
    assert_refused(&(response.status().as_u16(), response.json().await.unwrap()), 405, "method_not_allowed", None);
    assert_refused(&door.get("/api/message-status/%FF").await, 422, "invalid_field", Some("id"));
}

#[tokio::test]
async fn the_allow_list_holds_but_for_main() {
    let door = Door::open().await;
    door.world.settings.set("allowed_numbers", Some("6281200000003, 120363@g.us")).await.unwrap();
    door.world.settings.set("main_number", Some(TO)).await.unwrap();
    let refused = door.post(json!({ "recipients": ["6281200000003", TO], "message": "Halo" })).await;
    assert_refused(&refused, 403, "recipient_not_allowed", Some("recipients[1]"));
    assert_eq!(door.world.memory.count(), 0);
    for number in ["6281200000003", "120363@g.us", "main"] {
        assert_eq!(door.post(json!({ "number": number, "message": "Halo" })).await.0, 202, "{number}");
    }
}

#[tokio::test]
async fn a_store_in_trouble_is_503_without_its_cause() {
    let door = Door::open().await;
    door.world.memory.set_down(true);
    let refused = door.post(json!({ "number": TO, "message": "Halo" })).await;
    assert_refused(&refused, 503, "store_unavailable", None);
    assert_refused(&door.get("/readyz").await, 503, "store_unavailable", None);
    for body in [refused.1, door.get("/readyz").await.1, door.get("/api/queue").await.1] {
        assert!(!body.to_string().contains("fire"), "{body}");
    }
    assert_eq!(door.get("/livez").await.0, 200);
    door.world.memory.set_down(false);
    assert_eq!(door.get("/readyz").await.0, 200);
}
