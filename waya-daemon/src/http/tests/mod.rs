//! The door from outside: real connections to a server on a free port.

#![allow(clippy::unwrap_used)]

mod edge;
mod inside;
mod keys;
mod limits;
mod openapi;
mod passkey;
mod reading;
mod refusals;
mod requests;
mod sending;
mod stream;

use std::net::SocketAddr;

use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::{Options, serve};
use crate::api::testing::World;

/// A server, and a client that has the key.
struct Door {
    world: World,
    address: SocketAddr,
    client: reqwest::Client,
    stop: CancellationToken,
    server: JoinHandle<()>,
}

/// An answer's status and body.
type Answer = (u16, Value);

impl Door {
    async fn open() -> Self {
        Self::with(Options::default()).await
    }

    async fn with(options: Options) -> Self {
        let world = World::new().await;
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let stop = world.shutdown.clone();
        let server = tokio::spawn(serve(listener, world.api.clone(), options, stop.clone()));
        let client = reqwest::Client::builder().no_proxy().build().unwrap();
        Self { world, address, client, stop, server }
    }

    fn request(&self, method: &str, path: &str) -> reqwest::RequestBuilder {
        self.client
            .request(method.parse().unwrap(), format!("http://{}{path}", self.address))
            .header("x-api-key", self.world.key())
    }

    async fn get(&self, path: &str) -> Answer {
        answer(self.request("GET", path)).await
    }

    /// Posts bytes as JSON.
    async fn post_raw(&self, body: impl Into<reqwest::Body>) -> Answer {
        let request = self.request("POST", "/api/send-message").header("content-type", "application/json");
        answer(request.body(body)).await
    }

    async fn post(&self, body: Value) -> Answer {
        self.post_raw(body.to_string()).await
    }

    async fn post_with_key(&self, key: &str, body: &str) -> Answer {
        let request = self.request("POST", "/api/send-message").header("content-type", "application/json");
        answer(request.header("idempotency-key", key).body(body.to_owned())).await
    }

    /// Sends one text and gives its queue id.
    async fn sent(&self, text: &str) -> String {
        let (status, body) = self.post(json!({ "number": "6281200000002", "message": text })).await;
        assert_eq!(status, 202, "{body}");
        body["id"].as_str().unwrap().to_owned()
    }
}

async fn answer(request: reqwest::RequestBuilder) -> Answer {
    let response = request.send().await.unwrap();
    let status = response.status().as_u16();
    (status, response.json().await.unwrap())
}

/// Asserts a refusal's status, code and field, and that it says something.
#[track_caller]
fn assert_refused(answer: &Answer, status: u16, code: &str, field: Option<&str>) {
    let (got, body) = answer;
    let seen = (*got, body["code"].as_str(), body["field"].as_str(), body["success"].as_bool());
    assert_eq!(seen, (status, Some(code), field, Some(false)), "{body}");
    assert!(body["error"].as_str().is_some_and(|words| words.len() > 10), "{body}");
}

/// The answer without what differs each time; it must be there, though.
fn masked(body: &Value, pointers: &[&str]) -> Value {
    let mut body = body.clone();
    for pointer in pointers {
        let value = body.pointer_mut(pointer).unwrap();
        assert!(!value.is_null(), "{pointer} is missing");
        *value = json!(format!("[{}]", pointer.rsplit('/').next().unwrap()));
    }
    body
}
