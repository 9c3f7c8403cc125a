//! What came back: status and headers at once, the body as it comes, within the request's limits.

use std::fmt;
use std::future::Future;
use std::time::Duration;

use bytes::Bytes;
use reqwest::header::{CONTENT_ENCODING, CONTENT_TYPE, HeaderMap};
use reqwest::{StatusCode, Url};
use tokio::time::Instant;

use super::error::FetchError;
use super::request::Limits;

/// No request goes on for longer, whatever it says.
const LONGEST: Duration = Duration::from_hours(24);

/// The limits of a request that has begun.
#[derive(Debug, Clone, Copy)]
pub(super) struct Bounds {
    pub(super) limits: Limits,
    deadline: Instant,
}

impl Bounds {
    pub(super) fn begin(limits: Limits) -> Self {
        Self { limits, deadline: Instant::now() + limits.total.min(LONGEST) }
    }

    /// Waits for so long and not past the end of all.
    pub(super) async fn wait<T>(
        &self,
        host: &str,
        limit: Duration,
        future: impl Future<Output = T>,
    ) -> Result<T, FetchError> {
        let own = Instant::now() + limit.min(LONGEST);
        let (at, limit) = if own < self.deadline { (own, limit) } else { (self.deadline, self.limits.total) };
        tokio::time::timeout_at(at, future).await.map_err(|_| FetchError::Timeout { host: host.to_owned(), limit })
    }
}

/// An answer, whatever its status. `Debug` leaves out whatever may be secret.
pub struct Answer {
    response: reqwest::Response,
    host: String,
    bounds: Bounds,
    received: u64,
}

impl Answer {
    pub(super) const fn new(response: reqwest::Response, host: String, bounds: Bounds) -> Self {
        Self { response, host, bounds, received: 0 }
    }

    /// Whether that went well is for the caller to say.
    #[must_use]
    pub fn status(&self) -> StatusCode {
        self.response.status()
    }

    /// All of them.
    #[must_use]
    pub fn headers(&self) -> &HeaderMap {
        self.response.headers()
    }

    /// Where it came from in the end; without user and password.
    #[must_use]
    pub fn url(&self) -> &Url {
        self.response.url()
    }

    /// `Content-Type` without what follows it, in small letters.
    #[must_use]
    pub fn media_type(&self) -> Option<String> {
        let value = self.headers().get(CONTENT_TYPE)?.to_str().ok()?;
        let kind = value.split(';').next().unwrap_or(value).trim();
        (!kind.is_empty()).then(|| kind.to_ascii_lowercase())
    }

    /// How much of the body is still to come, in bytes, when the answer says so.
    #[must_use]
    pub fn length(&self) -> Option<u64> {
        self.response.content_length()
    }

    /// The next piece of the body; none at its end. After an error there is nothing more.
    ///
    /// # Errors
    /// [`FetchError`]; `TooLarge` before anything of it is read where the answer tells its size.
    pub async fn chunk(&mut self) -> Result<Option<Bytes>, FetchError> {
        let limit = self.bounds.limits.size;
        if self.received == 0 {
            self.check_encoding()?;
        }
        if self.length().is_some_and(|rest| self.received.saturating_add(rest) > limit) {
            return Err(FetchError::TooLarge { limit });
        }
        let piece = self.bounds.wait(&self.host, self.bounds.limits.idle, self.response.chunk()).await?;
        let piece = piece.map_err(|error| self.broken(&error))?;
        self.received = self.received.saturating_add(piece.as_ref().map_or(0, |piece| piece.len() as u64));
        if self.received > limit { Err(FetchError::TooLarge { limit }) } else { Ok(piece) }
    }

    /// The whole body, in memory.
    ///
    /// # Errors
    /// As [`Self::chunk`].
    pub async fn bytes(mut self) -> Result<Vec<u8>, FetchError> {
        let mut body = Vec::new();
        while let Some(piece) = self.chunk().await? {
            body.extend_from_slice(&piece);
        }
        Ok(body)
    }

    fn check_encoding(&self) -> Result<(), FetchError> {
        let plain =
            |value: &[u8]| value.trim_ascii().is_empty() || value.trim_ascii().eq_ignore_ascii_case(b"identity");
        if self.headers().get_all(CONTENT_ENCODING).iter().all(|value| plain(value.as_bytes())) {
            return Ok(());
        }
        Err(FetchError::Encoded { host: self.host.clone() })
    }

    fn broken(&self, error: &reqwest::Error) -> FetchError {
        FetchError::Broken { host: self.host.clone(), cause: super::client::root_cause(error) }
    }
}

impl fmt::Debug for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Answer").field("host", &self.host).field("status", &self.status()).finish_non_exhaustive()
    }
}
