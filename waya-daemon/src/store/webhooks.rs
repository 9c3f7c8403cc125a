//! What must outlive the process of webhooks: the rows themselves, how far in the journal each has come, what of that is
//! still to be told, and how the newest deliveries went.

use std::fmt::Debug;

use async_trait::async_trait;

use super::StoreError;
use crate::model::{Cursor, Notice, Timestamp, Webhook, WebhookId};

/// The most webhooks there may be.
pub const MAX_WEBHOOKS: usize = 100;
/// So many deliveries of each webhook are remembered.
pub const KEPT_DELIVERIES: u64 = 200;
/// So many parked notices of each webhook are kept; the oldest go first, and are counted as missed.
pub const KEPT_PARKED: u64 = 10_000;
/// The longest reason kept, in bytes.
pub const MAX_REASON: usize = 512;

/// A webhook and where it stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StandingWebhook {
    /// As the user made it.
    pub webhook: Webhook,
    /// Where it stands.
    pub place: Place,
}

/// Where a webhook stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Place {
    /// All that the journal has up to here is told, or waits as a row of its own.
    pub cursor: Cursor,
    /// How many rows wait to be tried again.
    pub waiting: u64,
    /// How many rows were given up and wait for the user's word.
    pub parked: u64,
    /// How many events the journal had removed, by its retention, before they were told.
    pub missed: u64,
    /// When a delivery was last taken.
    pub succeeded_at: Option<Timestamp>,
    /// When one last was not.
    pub failed_at: Option<Timestamp>,
}

/// A notice that was tried and is not told yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unsettled {
    /// Which.
    pub notice: Notice,
    /// Attempts so far.
    pub attempts: u32,
    /// From when on the time counts after which it is given up.
    pub since: Timestamp,
    /// When it is tried again; when it was given up, of a parked one.
    pub at: Timestamp,
    /// Why the last attempt failed.
    pub reason: String,
}

/// What becomes of a notice.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Settlement {
    /// It was told, or there is nothing any more to tell.
    Done(Notice),
    /// It waits for its next attempt.
    Waits(Unsettled),
    /// It is given up until the user says otherwise.
    Parked(Unsettled),
}

impl Settlement {
    /// Which notice.
    #[must_use]
    pub const fn notice(&self) -> Notice {
        match self {
            Self::Done(notice) => *notice,
            Self::Waits(row) | Self::Parked(row) => row.notice,
        }
    }
}

/// One attempt to tell something.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Delivery {
    /// When it ended.
    pub at: Timestamp,
    /// The event's id, as the receiver sees it.
    pub event_id: String,
    /// Its topic's word.
    pub event: String,
    /// The how-manieth attempt.
    pub attempt: u32,
    /// How long it took, in milliseconds.
    pub millis: u64,
    /// What the receiver answered, if it did.
    pub status: Option<u16>,
    /// Why it counts as failed.
    pub error: Option<String>,
}

/// What a webhook's deliveries came to, written together.
#[derive(Debug, Clone, Default)]
pub struct Settled {
    /// Its new place in the journal.
    pub cursor: Option<Cursor>,
    /// What became of notices.
    pub notices: Vec<Settlement>,
    /// The attempts, oldest first.
    pub deliveries: Vec<Delivery>,
    /// So many events more were gone before they could be told.
    pub missed: u64,
}

/// Which notices to list, oldest first.
#[derive(Debug, Clone, Copy)]
pub struct NoticeFilter {
    /// Those given up; else those that wait.
    pub parked: bool,
    /// Only behind this one.
    pub after: Option<Notice>,
    /// At most so many.
    pub limit: usize,
}

/// Webhooks and their deliveries.
#[async_trait]
pub trait Webhooks: Debug + Send + Sync {
    /// All of them with where they stand, oldest first.
    async fn all(&self) -> Result<Vec<StandingWebhook>, StoreError>;
    /// Adds one, which begins behind the newest event; `false` when there are [`MAX_WEBHOOKS`] already.
    async fn add(&self, webhook: Webhook) -> Result<bool, StoreError>;
    /// Writes one anew, and with `from_now` moves its place to the newest event; `false` when there is none.
    async fn change(&self, webhook: Webhook, from_now: bool) -> Result<bool, StoreError>;
    /// Removes one with all that belongs to it; `false` when there is none.
    async fn remove(&self, id: &WebhookId) -> Result<bool, StoreError>;
    /// Writes what deliveries came to, in one transaction; `false` when the webhook is gone.
    async fn settle(&self, id: &WebhookId, settled: Settled) -> Result<bool, StoreError>;
    /// The notices that are not told yet.
    async fn notices(&self, id: &WebhookId, filter: NoticeFilter) -> Result<Vec<Unsettled>, StoreError>;
    /// Has one parked notice, or all of them, wait again from `now` on, with fresh attempts; how many.
    async fn unpark(&self, id: &WebhookId, notice: Option<Notice>, now: Timestamp) -> Result<u64, StoreError>;
    /// The newest deliveries, newest first.
    async fn deliveries(&self, id: &WebhookId, limit: usize) -> Result<Vec<Delivery>, StoreError>;
}
