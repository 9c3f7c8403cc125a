//! Every use case once; `http/` and `grpc/` only translate.
//!
//! Owns no state of its own but handles; it checks what callers want, and answers with the shapes of [`view`].
//! Nothing wakes it but its callers. It never talks to WhatsApp about a message: that is the queue's.

mod care;
mod compose;
mod convert;
mod deeds;
mod error;
mod events;
mod found;
mod idempotency;
mod incoming_media;
mod keys;
mod message;
mod passkey;
mod qr;
mod queue;
mod recipients;
mod render;
mod requests;
mod send;
mod session;
mod settings;
#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;
pub mod view;
mod webhooks;
mod when;

use std::sync::Arc;

use tokio_util::sync::CancellationToken;

pub use compose::{MAX_FILES, MediaInput, MediaSource, Special, What};
pub use error::{ApiError, RecipientProblem};
pub use events::{DEFAULT_EVENTS, MAX_EVENTS};
pub use idempotency::{MAX_KEY_CHARS, body_hash};
pub use incoming_media::MediaFile;
pub use keys::{ApiKey, ApiKeys, DEFAULT_KEY, Scope, Scopes, ensure_key};
pub use message::{MessageChanges, WaitFor};
pub use queue::{DEFAULT_LIST, ListRequest, MAX_LIST};
pub use render::Payloads;
pub use requests::{DEFAULT_REQUESTS, MAX_REQUESTS};
pub use send::{Content, IdempotencyKey, MAX_RECIPIENTS, PersonalMessage, Priority, SendRequest};
pub use session::{DaemonInfo, Login};
pub use webhooks::WebhookRequest;
pub use when::{from_millis as time_from_millis, from_text as time_from_text};

use crate::bus::Bus;
use crate::clock::Clock;
use crate::deliver::Deliver;
use crate::media::Media;
use crate::queue::Queue;
pub use crate::requests::{Passed, RequestLog, Seen};
use crate::session::WhatsApp;
use crate::settings::Settings;
pub use crate::settings::{CorsOrigins, HttpSettings, RateLimit, Snapshot};
use crate::store::Store;

/// The longest anybody may wait in one request.
pub const MAX_WAIT: std::time::Duration = std::time::Duration::from_mins(2);

/// What the use cases stand on.
#[derive(Debug, Clone)]
pub struct Parts {
    /// The outgoing queue.
    pub queue: Queue,
    /// The account's store.
    pub store: Store,
    /// The files that go out and come in.
    pub media: Media,
    /// The link to WhatsApp.
    pub whatsapp: Arc<dyn WhatsApp>,
    /// Webhooks.
    pub deliver: Deliver,
    /// What the user may change.
    pub settings: Settings,
    /// The API keys.
    pub keys: ApiKeys,
    /// The time.
    pub clock: Arc<dyn Clock>,
    /// What just happened.
    pub bus: Bus,
    /// What came over HTTP.
    pub requests: RequestLog,
    /// What the daemon tells of itself.
    pub info: DaemonInfo,
    /// Ends all waiting when the daemon stops.
    pub shutdown: CancellationToken,
}

/// A cheap handle to every use case.
#[derive(Debug, Clone)]
pub struct Api(Arc<Parts>);

impl Api {
    /// Puts the use cases on their parts.
    #[must_use]
    pub fn new(parts: Parts) -> Self {
        Self(Arc::new(parts))
    }
}
