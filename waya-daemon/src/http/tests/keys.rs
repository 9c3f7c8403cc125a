//! What each key may do, and what it shares with none.

use serde_json::json;

use super::{Answer, Door, answer, assert_refused};

const TO: &str = "6281200000002";

async fn with_key(door: &Door, key: &str, method: &str, path: &str, body: &str) -> Answer {
    let url = format!("http://{}{path}", door.address);
    let request = door.client.request(method.parse().unwrap(), url).header("x-api-key", key);
    answer(request.header("idempotency-key", "k").body(body.to_owned())).await
}

async fn key(door: &Door, name: &str, scopes: &[&str]) -> String {
    let scopes: Vec<String> = scopes.iter().map(|&scope| scope.to_owned()).collect();
    door.world.api.create_key(name, &scopes).await.unwrap().api_key
}

#[tokio::test]
async fn a_key_does_what_its_scopes_say() {
    let door = Door::open().await;
    let (send, read) = (key(&door, "shop", &["send"]).await, key(&door, "eyes", &["read"]).await);
    let (both, admin) = (key(&door, "both", &["send", "read"]).await, key(&door, "boss", &["admin"]).await);
    let id = door.sent("Halo").await;
    let (status, queued) = (format!("/api/message-status/{id}"), format!("/api/queue/{id}"));
    for (method, path, needed, allowed) in [
        ("POST", "/api/send-message", "send", [true, false, true, true]),
        ("DELETE", &*queued, "send", [true, false, true, true]),
        ("GET", &*status, "send or read", [true, true, true, true]),
        ("GET", "/api/queue", "read", [false, true, true, true]),
        ("GET", "/api/events", "read", [false, true, true, true]),
        ("GET", "/api/session", "read", [false, true, true, true]),
        ("GET", "/api/status", "read", [false, true, true, true]),
        ("POST", "/api/session/passkey", "admin", [false, false, false, true]),
        ("POST", "/api/session/passkey/confirm", "admin", [false, false, false, true]),
    ] {
        for (key, allowed) in [&send, &read, &both, &admin].into_iter().zip(allowed) {
            let answer = with_key(&door, key, method, path, "{}").await;
            if allowed {
                assert!(!matches!(answer.0, 401 | 403), "{method} {path}: {}", answer.1);
            } else {
                assert_refused(&answer, 403, "forbidden", None);
                let words = answer.1["error"].as_str().unwrap();
                assert!(words.contains(&format!("the scope {needed};")), "{method} {path}: {words}");
            }
        }
    }
}

#[tokio::test]
async fn a_revoked_key_is_wrong_at_once() {
    let door = Door::open().await;
    let shop = key(&door, "shop", &["admin"]).await;
    assert_eq!(with_key(&door, &shop, "GET", "/api/session", "").await.0, 200);
    door.world.api.revoke_key("shop").await.unwrap();
    assert_refused(&with_key(&door, &shop, "GET", "/api/session", "").await, 401, "unauthorized", None);
}

#[tokio::test]
async fn idempotency_keys_count_within_their_api_key() {
    let door = Door::open().await;
    let (one, other) = (key(&door, "one", &["send"]).await, key(&door, "other", &["send"]).await);
    let post = |key: String, text: &str| {
        let body = json!({ "number": TO, "message": text }).to_string();
        let door = &door;
        async move { with_key(door, &key, "POST", "/api/send-message", &body).await }
    };
    let first = post(one.clone(), "Halo").await;
    assert_eq!((first.0, &post(one.clone(), "Halo").await.1), (202, &first.1));
    assert_refused(&post(one.clone(), "Hai").await, 409, "idempotency_conflict", None);
    let foreign = post(other, "Hai").await;
    assert_eq!(foreign.0, 202, "{}", foreign.1);
    // The default key stays the same caller when it is rotated.
    let default = post(door.world.key(), "Hei").await;
    door.world.api.rotate_key().await.unwrap();
    assert_eq!(post(door.world.key(), "Hei").await.1, default.1);
    assert_eq!(door.world.memory.count(), 3);
}
