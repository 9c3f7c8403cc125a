//! A webhook's receiver on loopback that checks signatures and keeps what it is told.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

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

/// How it behaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Manner {
    /// Takes everything.
    Takes,
    /// Takes nothing.
    Refuses,
    /// Does its work and fails afterwards: what it was told is told to it again.
    Forgets,
}

/// Something that came, and how the receiver behaved then.
#[derive(Debug, Clone)]
pub struct Arrival {
    /// The body.
    pub body: Value,
    /// What was made of it.
    pub manner: Manner,
}

#[derive(Debug)]
struct Inner {
    manner: Mutex<Manner>,
    /// Before an answer.
    pause: Duration,
    arrivals: Mutex<Vec<Arrival>>,
    unverified: AtomicUsize,
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
        Self::slow(Duration::ZERO).await
    }

    /// One that takes so long for each answer.
    ///
    /// # Errors
    /// What the system says.
    pub async fn slow(pause: Duration) -> Result<Self> {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
        let address = listener.local_addr()?;
        let (manner, arrivals) = (Mutex::new(Manner::Takes), Mutex::default());
        let inner = Arc::new(Inner { manner, pause, arrivals, unverified: AtomicUsize::new(0) });
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

    /// How it behaves from now on.
    pub fn behave(&self, manner: Manner) {
        *self.inner.manner.lock().unwrap_or_else(PoisonError::into_inner) = manner;
    }

    /// All that came, in order.
    #[must_use]
    pub fn arrivals(&self) -> Vec<Arrival> {
        self.inner.arrivals.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The bodies it took, in order.
    #[must_use]
    pub fn told(&self) -> Vec<Value> {
        self.with(|manner| manner == Manner::Takes)
    }

    /// The bodies it did not take.
    #[must_use]
    pub fn refused(&self) -> Vec<Value> {
        self.with(|manner| manner != Manner::Takes)
    }

    /// How many came with a wrong signature, or with headers that do not agree with the body.
    #[must_use]
    pub fn unverified(&self) -> usize {
        self.inner.unverified.load(Ordering::SeqCst)
    }

    fn with(&self, wanted: impl Fn(Manner) -> bool) -> Vec<Value> {
        self.arrivals().into_iter().filter(|came| wanted(came.manner)).map(|came| came.body).collect()
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        self.server.abort();
    }
}

async fn take(State(inner): State<Arc<Inner>>, headers: HeaderMap, body: Bytes) -> StatusCode {
    let Some(body) = verified(&headers, &body) else {
        inner.unverified.fetch_add(1, Ordering::SeqCst);
        return StatusCode::UNAUTHORIZED;
    };
    let manner = *inner.manner.lock().unwrap_or_else(PoisonError::into_inner);
    inner.arrivals.lock().unwrap_or_else(PoisonError::into_inner).push(Arrival { body, manner });
    // The work is done; whoever dies now never learns of it.
    tokio::time::sleep(inner.pause).await;
    match manner {
        Manner::Takes => StatusCode::OK,
        Manner::Refuses => StatusCode::SERVICE_UNAVAILABLE,
        Manner::Forgets => StatusCode::INTERNAL_SERVER_ERROR,
    }
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
