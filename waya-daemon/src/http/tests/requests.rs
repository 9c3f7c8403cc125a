//! The log of requests, from both ends.

use serde_json::{Value, json};

use super::{Door, answer, assert_refused, masked};

const TO: &str = "6281200000002";

/// The newest logged request of this path.
async fn logged(door: &Door, path: &str) -> Value {
    let (status, list) = door.get("/api/requests").await;
    assert_eq!(status, 200, "{list}");
    let rows = list["requests"].as_array().unwrap();
    let row = rows.iter().find(|row| row["url"].as_str().unwrap().starts_with(path)).expect("not logged");
    door.get(&format!("/api/requests/{}", row["id"].as_str().unwrap())).await.1
}

#[tokio::test]
async fn a_request_is_kept_with_its_answer_and_without_its_secrets() {
    let door = Door::open().await;
    let body = json!({ "number": TO, "message": "Halo", "password": "hunter2" }).to_string();
    let request = door.request("POST", "/api/send-message?token=hunter3").header("x-request-id", "order-7");
    let request = request.header("cookie", "hunter4").header("content-type", "application/json");
    let (status, accepted) = answer(request.body(body)).await;
    assert_eq!(status, 202);
    let row = logged(&door, "/api/send-message").await;
    for secret in ["hunter", &door.world.key()] {
        assert!(!row.to_string().contains(secret), "{row}");
    }
    let answered: Value = serde_json::from_str(row["response"]["body"].as_str().unwrap()).unwrap();
    assert_eq!(answered, accepted);
    let mut row = masked(
        &row,
        &["/at", "/response/body", "/response/headers/content-length", "/response/size", "/request/headers/host"],
    );
    row["durationMs"] = json!("[durationMs]");
    insta::assert_json_snapshot!(row);

    let id = accepted["id"].as_str().unwrap();
    let (_, queued) = door.get(&format!("/api/queue/{id}")).await;
    assert_eq!((&queued["id"], &queued["status"]), (&accepted["id"], &json!("pending")));
    assert_eq!((&queued["request"]["id"], &queued["request"]["body"]), (&row["id"], &row["request"]["body"]));
    assert_eq!(queued["request"]["headers"]["x-api-key"], "***");
    for by in ["order-7", id] {
        assert_eq!(door.get(&format!("/api/requests/{by}")).await.1["id"], row["id"], "{by}");
    }
}

#[tokio::test]
async fn refusals_are_kept_and_probes_are_not() {
    let door = Door::open().await;
    door.get("/livez").await;
    door.get("/nothing").await;
    let url = format!("http://{}/api/session?key=x", door.address);
    answer(door.client.get(url)).await;
    door.post(json!({ "number": "x", "message": "Halo" })).await;
    let row = logged(&door, "/api/session").await;
    assert_eq!((&row["status"], &row["key"], &row["url"]), (&json!(401), &Value::Null, &json!("/api/session?key=***")));
    let row = logged(&door, "/api/send-message").await;
    assert_eq!((&row["status"], &row["key"], &row["ip"]), (&json!(422), &json!("default"), &json!("127.0.0.1")));
    let (_, list) = door.get("/api/requests").await;
    assert!(list["requests"].as_array().unwrap().iter().all(|row| row["url"].as_str().unwrap().starts_with("/api/")));
}

#[tokio::test]
async fn files_are_left_out_and_long_bodies_are_cut() {
    let door = Door::open().await;
    let media = json!({ "mimetype": "image/png", "data": "QUJD".repeat(50_000) });
    door.post(json!({ "number": TO, "media": media, "message": "kata ".repeat(10_000) })).await;
    let row = logged(&door, "/api/send-message").await;
    let body = row["request"]["body"].as_str().unwrap();
    assert!(body.contains("(base64, about 150000 bytes)") && body.len() < 17_000, "{body}");
    assert!(row["request"]["size"].as_u64().unwrap() > 250_000);
    assert!(body.ends_with("bytes in all)"), "{body}");
}

#[tokio::test]
async fn the_log_is_paged_and_cleared_by_an_admin() {
    let door = Door::open().await;
    for _ in 0..3 {
        door.get("/api/session").await;
    }
    let (_, first) = door.get("/api/requests?limit=2").await;
    assert_eq!(first["requests"].as_array().unwrap().len(), 2);
    let next = first["next"].as_str().unwrap();
    let (_, second) = door.get(&format!("/api/requests?limit=2&before={next}")).await;
    assert!(second["requests"][0]["id"].as_str().unwrap().parse::<u64>().unwrap() < next.parse().unwrap());
    assert_refused(&door.get("/api/requests?before=x").await, 422, "invalid_field", Some("before"));
    assert_refused(&door.get("/api/requests/nothing").await, 404, "not_found", None);

    let eyes = door.world.api.create_key("eyes", &["read".to_owned()]).await.unwrap().api_key;
    let url = format!("http://{}/api/requests", door.address);
    let refused = answer(door.client.delete(&url).header("x-api-key", &eyes)).await;
    assert_refused(&refused, 403, "forbidden", None);
    let (status, cleared) = answer(door.request("DELETE", "/api/requests")).await;
    assert_eq!((status, &cleared["success"]), (200, &json!(true)), "{cleared}");
    let (_, after) = door.get("/api/requests").await;
    assert!(after["requests"].as_array().unwrap().len() <= 2, "{after}");
}

#[tokio::test]
async fn a_queued_message_without_its_request_is_shown_all_the_same() {
    let door = Door::open().await;
    let id = door.sent("Halo").await;
    door.world.api.clear_requests().await.unwrap();
    let (status, queued) = door.get(&format!("/api/queue/{id}")).await;
    assert_eq!((status, &queued["request"]), (200, &Value::Null));
    assert_refused(&door.get("/api/queue/nothing").await, 404, "not_found", None);
}
