//! What happens around every request: ids, browsers, compression, limits.

use serde_json::json;

use super::{Door, answer, assert_refused};

const TO: &str = "6281200000002";

async fn set(door: &Door, key: &str, value: &str) {
    door.world.settings.set(key, Some(value)).await.unwrap();
}

fn header<'a>(response: &'a reqwest::Response, name: &str) -> Option<&'a str> {
    response.headers().get(name).map(|value| value.to_str().unwrap())
}

#[tokio::test]
async fn every_answer_is_named() {
    let door = Door::open().await;
    let mut seen = std::collections::HashSet::new();
    for (method, path) in [("GET", "/livez"), ("GET", "/api/session"), ("POST", "/api/session"), ("GET", "/nothing")] {
        let response = door.request(method, path).send().await.unwrap();
        let id = header(&response, "x-request-id").unwrap().to_owned();
        assert!(id.len() == 36 && seen.insert(id), "{method} {path}");
    }
    for (own, taken) in [("order-7/a", true), ("a b", false), ("", false), (&*"x".repeat(129), false), ("ä", false)] {
        let request = door.request("GET", "/livez").header("x-request-id", own.as_bytes());
        let response = request.send().await.unwrap();
        assert_eq!(header(&response, "x-request-id") == Some(own), taken, "{own}");
    }
}

#[tokio::test]
async fn head_and_options_are_answered_as_get_would_be() {
    let door = Door::open().await;
    let get = door.request("GET", "/api/session").send().await.unwrap();
    let head = door.request("HEAD", "/api/session").send().await.unwrap();
    assert_eq!((head.status(), header(&head, "content-length")), (get.status(), header(&get, "content-length")));
    assert!(head.bytes().await.unwrap().is_empty());
    for (path, allow) in [
        ("/api/session", "GET, HEAD, OPTIONS"),
        ("/api/send-message", "POST, OPTIONS"),
        ("/api/queue/x", "DELETE"),
        ("/livez", "GET, HEAD, OPTIONS"),
    ] {
        let options = door.client.request("OPTIONS".parse().unwrap(), format!("http://{}{path}", door.address));
        let options = options.send().await.unwrap();
        assert_eq!(options.status(), 204, "{path}");
        let allowed = header(&options, "allow").unwrap();
        assert!(allowed.contains(allow) && allowed.ends_with(", OPTIONS"), "{path}: {allowed}");
        assert!(options.bytes().await.unwrap().is_empty());
    }
    let refused = door.request("OPTIONS", "/api/nothing").send().await.unwrap();
    assert_eq!((refused.status().as_u16(), header(&refused, "allow")), (404, None));
}

#[tokio::test]
async fn pages_of_listed_origins_may_call() {
    let door = Door::open().await;
    let ask = |method: &'static str, origin: &'static str| {
        let url = format!("http://{}/api/send-message", door.address);
        let request = door.client.request(method.parse().unwrap(), url).header("origin", origin);
        let request = request.header("access-control-request-method", "POST");
        async move { request.send().await.unwrap() }
    };
    let allowed = |response: &reqwest::Response| header(response, "access-control-allow-origin").map(str::to_owned);
    let off = ask("OPTIONS", "https://shop.example").await;
    assert_eq!((allowed(&off), header(&off, "vary")), (None, None));

    set(&door, "http.cors_origins", "https://shop.example, http://localhost:3000").await;
    let preflight = ask("OPTIONS", "https://shop.example").await;
    assert_eq!((preflight.status().as_u16(), allowed(&preflight).as_deref()), (204, Some("https://shop.example")));
    assert!(header(&preflight, "access-control-allow-headers").unwrap().contains("X-API-Key"));
    assert!(header(&preflight, "access-control-allow-methods").unwrap().contains("DELETE"));
    let strange = ask("OPTIONS", "https://evil.example").await;
    assert_eq!((allowed(&strange), header(&strange, "vary")), (None, Some("Origin")));
    // A page can read why it was refused.
    let refused = ask("POST", "http://localhost:3000").await;
    assert_eq!((refused.status().as_u16(), allowed(&refused).as_deref()), (401, Some("http://localhost:3000")));
    assert!(header(&refused, "access-control-expose-headers").unwrap().contains("X-Request-Id"));

    set(&door, "http.cors_origins", "*").await;
    assert_eq!(allowed(&ask("OPTIONS", "https://evil.example").await).as_deref(), Some("*"));
}

#[tokio::test]
async fn long_answers_are_compressed_for_those_who_ask() {
    let door = Door::open().await;
    door.sent(&"Halo ".repeat(1000)).await;
    let ask = |path: &'static str, accept: &'static str| {
        let request = door.request("GET", path).header("accept-encoding", accept);
        async move { request.send().await.unwrap() }
    };
    let long = ask("/api/queue", "gzip").await;
    assert_eq!(header(&long, "content-encoding"), Some("gzip"));
    let packed = long.bytes().await.unwrap();
    let mut text = String::new();
    std::io::Read::read_to_string(&mut flate2::read::GzDecoder::new(&packed[..]), &mut text).unwrap();
    assert!(packed.len() < text.len() / 5);
    assert_eq!(ask("/api/queue", "identity").await.text().await.unwrap(), text);
    assert_eq!(header(&ask("/api/session", "gzip").await, "content-encoding"), None);
}

#[tokio::test]
async fn a_key_that_asks_too_often_waits() {
    let door = Door::open().await;
    let other = door.world.api.create_key("other", &["read".to_owned()]).await.unwrap().api_key;
    set(&door, "http.rate_limit_per_key", "60:3").await;
    for _ in 0..3 {
        assert_eq!(door.get("/api/session").await.0, 200);
    }
    let response = door.request("GET", "/api/session").send().await.unwrap();
    assert_eq!(header(&response, "retry-after"), Some("1"));
    assert_refused(&(response.status().as_u16(), response.json().await.unwrap()), 429, "rate_limited", None);
    let url = format!("http://{}/api/session", door.address);
    assert_eq!(answer(door.client.get(url).header("x-api-key", other)).await.0, 200);
    set(&door, "http.rate_limit_per_key", "0").await;
    assert_eq!(door.get("/api/session").await.0, 200);
}

#[tokio::test]
async fn an_address_that_asks_too_often_waits() {
    let door = Door::open().await;
    set(&door, "http.rate_limit_per_address", "60:2").await;
    let from = |address: &str| {
        let request = door.request("GET", "/api/session").header("x-forwarded-for", address);
        async move { answer(request).await }
    };
    // Nobody trusts this proxy: it is one address.
    assert_eq!((from("203.0.113.1").await.0, from("203.0.113.2").await.0), (200, 200));
    assert_refused(&from("203.0.113.3").await, 429, "rate_limited", None);
    assert_eq!(door.get("/livez").await.0, 200, "probes are not counted");
    set(&door, "http.trusted_proxies", "127.0.0.0/8").await;
    assert_eq!((from("203.0.113.1").await.0, from("203.0.113.1").await.0), (200, 200));
    assert_refused(&from("203.0.113.1").await, 429, "rate_limited", None);
    assert_eq!(from("203.0.113.2").await.0, 200);
}

#[tokio::test]
async fn guessing_is_braked_and_the_right_key_never_is() {
    let door = Door::open().await;
    let guess = || {
        let url = format!("http://{}/api/session", door.address);
        answer(door.client.get(url).header("x-api-key", "0".repeat(64)))
    };
    for _ in 0..30 {
        assert_refused(&guess().await, 401, "unauthorized", None);
    }
    assert_refused(&guess().await, 429, "rate_limited", None);
    assert_eq!(door.get("/api/session").await.0, 200);
    let sent = door.post(json!({ "number": TO, "message": "Halo" })).await;
    assert_eq!(sent.0, 202);
}
