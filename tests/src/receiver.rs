//! A webhook's receiver on loopback that checks signatures and keeps what it is told.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::Result;
use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::routing::post;
use ring::hmac;
use serde_json::Value;
use tokio::net::TcpListener;

/// What its deliveries are signed with.
pub const SECRET: &str = "the secret of the tests";

#[derive(Debug, Default)]
struct Inner {
    refuses: AtomicBool,
    told: Mutex<Vec<Value>>,
    refused: Mutex<Vec<Value>>,
}

/// A receiver; gone when dropped.
#[derive(Debug)]
pub struct Receiver {
    address: SocketAddr,
    inner: Arc<Inner>,
    server: tokio::task::JoinHandle<()>,
}

impl Receiver {
    /// On a port of its own.
    ///
    /// # Errors
    /// What the system says.
    pub async fn start() -> Result<Self> {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
        let address = listener.local_addr()?;
        let inner = Arc::<Inner>::default();
        let app = Router::new().route("/hook", post(take)).with_state(Arc::clone(&inner));
        let server = tokio::spawn(async move {
            let _ = axum::serve(listener, app).await;
        });
        Ok(Self { address, inner, server })
    }

    /// Where it is.
    #[must_use]
    pub fn url(&self) -> String {
        format!("http://{}/hook", self.address)
    }

    /// From now on it answers 503, or takes everything.
    pub fn refuse(&self, refuses: bool) {
        self.inner.refuses.store(refuses, Ordering::SeqCst);
    }

    /// The bodies it took, in order.
    #[must_use]
    pub fn told(&self) -> Vec<Value> {
        self.inner.told.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The bodies it did not take.
    #[must_use]
    pub fn refused(&self) -> Vec<Value> {
        self.inner.refused.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        self.server.abort();
    }
}

async fn take(State(inner): State<Arc<Inner>>, headers: HeaderMap, body: Bytes) -> StatusCode {
    let Some(body) = verified(&headers, &body) else { return StatusCode::UNAUTHORIZED };
    let refuses = inner.refuses.load(Ordering::SeqCst);
    let kept = if refuses { &inner.refused } else { &inner.told };
    kept.lock().unwrap_or_else(PoisonError::into_inner).push(body);
    if refuses { StatusCode::SERVICE_UNAVAILABLE } else { StatusCode::OK }
}

/// The body, when the signature is right and the headers agree with it.
fn verified(headers: &HeaderMap, body: &[u8]) -> Option<Value> {
    let header = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
    let key = hmac::Key::new(hmac::HMAC_SHA512, SECRET.as_bytes());
    let hex = header("X-Webhook-Hmac")?;
    let digit = |at: usize| u8::from_str_radix(hex.get(at..at + 2)?, 16).ok();
    let signature: Option<Vec<u8>> = (0..hex.len()).step_by(2).map(digit).collect();
    hmac::verify(&key, body, &signature?).ok()?;
    let body: Value = serde_json::from_slice(body).ok()?;
    (header("X-Webhook-Request-Id") == body["id"].as_str() && header("X-Webhook-Hmac-Algorithm") == Some("sha512"))
        .then_some(body)
}
