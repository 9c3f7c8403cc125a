//! The log of HTTP requests.

use super::view::{ClearedView, QueuedView, RequestView, RequestsView};
use super::{Api, ApiError};
use crate::model::Timestamp;
use crate::requests::RequestLog;

/// Requests of one answer when the caller does not say.
pub const DEFAULT_REQUESTS: usize = 100;
/// The most requests of one answer: all that are kept.
pub const MAX_REQUESTS: usize = 1_000;

impl Api {
    /// Where requests are handed over.
    #[must_use]
    pub fn request_log(&self) -> &RequestLog {
        &self.0.requests
    }

    /// The time, as the daemon has it.
    #[must_use]
    pub fn now(&self) -> Timestamp {
        self.0.clock.now()
    }

    /// Logged requests, newest first; `limit` 0 means [`DEFAULT_REQUESTS`].
    ///
    /// # Errors
    /// `before` is no id.
    pub async fn requests(&self, before: Option<&str>, limit: usize) -> Result<RequestsView, ApiError> {
        let number = |id: &str| id.parse().map_err(|_| ApiError::field_error("before", "is no id of a logged request"));
        let before = before.map(number).transpose()?;
        let limit = if limit == 0 { DEFAULT_REQUESTS } else { limit.min(MAX_REQUESTS) };
        let page = self.0.requests.list(before, limit).await;
        let next = page.rows.last().filter(|_| page.more).map(|row| row.id.clone());
        Ok(RequestsView { requests: page.rows, next, dropped: self.0.requests.dropped() })
    }

    /// A logged request by its id, its `X-Request-Id`, or a message that it put into the queue.
    ///
    /// # Errors
    /// There is none (any more), or it cannot be read.
    pub async fn request(&self, id: &str) -> Result<RequestView, ApiError> {
        let found = self.0.requests.find(id).await.map_err(ApiError::RequestLog)?;
        found.ok_or_else(|| ApiError::NoSuchRequest(id.to_owned()))
    }

    /// Forgets all logged requests.
    ///
    /// # Errors
    /// The files cannot be removed.
    pub async fn clear_requests(&self) -> Result<ClearedView, ApiError> {
        let cleared = self.0.requests.clear().await.map_err(ApiError::RequestLog)?;
        Ok(ClearedView { success: true, cleared: cleared as u64 })
    }

    /// A message of the queue by its queue id, with the request that put it there as long as that is logged.
    ///
    /// # Errors
    /// There is no such message, or the store.
    pub async fn queued(&self, id: &str) -> Result<QueuedView, ApiError> {
        let id = super::queue::queue_id(id)?;
        let Some(message) = self.0.store.outbox.message(id).await? else {
            return Err(ApiError::NoSuchMessage(id.to_string()));
        };
        let request = self.0.requests.of_message(id).await.unwrap_or_else(|error| {
            tracing::warn!(%error, "the request log cannot be read");
            None
        });
        Ok(QueuedView { message: self.view(message).await, request: request.map(Into::into) })
    }
}
