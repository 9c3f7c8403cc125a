//! What is asked, on whose word, and within which bounds.

use std::fmt;
use std::time::Duration;

use bytes::Bytes;
use reqwest::Method;
use reqwest::header::HeaderMap;

use super::guard::Trust;

/// How long and how large an answer may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Until there is a connection, TLS and proxy included; for every hop.
    pub connect: Duration,
    /// Silence on that connection; until the answer begins, the time to connect counts as well.
    pub idle: Duration,
    /// From the first look-up to the last byte, over all redirects.
    pub total: Duration,
    /// Of the body that is read, in bytes.
    pub size: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(10),
            idle: Duration::from_secs(15),
            total: Duration::from_secs(120),
            size: 16 << 20,
        }
    }
}

/// One request. `Debug` leaves out whatever may be secret.
#[derive(Clone)]
pub struct Request {
    /// Any.
    pub method: Method,
    /// `http://` or `https://`; user and password in it become Basic authentication.
    pub url: String,
    /// Without those that belong to the connection (`Host`, `Content-Length` …): these are dropped. A value that is
    /// marked as sensitive does not follow a redirect to another host, nor do cookies and `Authorization`.
    pub headers: HeaderMap,
    /// Sent again when a redirect says so (307, 308).
    pub body: Option<Bytes>,
    /// On whose word. It covers the host of `url`; to where else a redirect leads is that host's word.
    pub trust: Trust,
    /// How long, how large.
    pub limits: Limits,
    /// So many redirects are followed; with 0 the first one is the answer.
    pub redirects: usize,
}

impl Request {
    /// So many redirects are followed unless the request says otherwise.
    pub const REDIRECTS: usize = 5;

    /// Without headers and body, within the usual limits.
    #[must_use]
    pub fn new(method: Method, url: impl Into<String>, trust: Trust) -> Self {
        Self {
            method,
            url: url.into(),
            headers: HeaderMap::new(),
            body: None,
            trust,
            limits: Limits::default(),
            redirects: Self::REDIRECTS,
        }
    }

    /// Asks for what is there.
    #[must_use]
    pub fn get(url: impl Into<String>, trust: Trust) -> Self {
        Self::new(Method::GET, url, trust)
    }

    /// Hands something in.
    #[must_use]
    pub fn post(url: impl Into<String>, trust: Trust, body: impl Into<Bytes>) -> Self {
        Self { body: Some(body.into()), ..Self::new(Method::POST, url, trust) }
    }
}

impl fmt::Debug for Request {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Request")
            .field("method", &self.method)
            .field("trust", &self.trust)
            .field("limits", &self.limits)
            .finish_non_exhaustive()
    }
}
