//! Who is told of events, and what they were told.

use serde::Serialize;

use crate::model::Timestamp;

/// A webhook, without its secret.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct WebhookView {
    /// Its id.
    pub id: String,
    /// Where it is told.
    pub url: String,
    /// What it is told of; `*` is all.
    pub events: Vec<&'static str>,
    /// Whether it is told; else it keeps its place.
    pub enabled: bool,
    /// When it was made.
    pub created_at: Timestamp,
    /// How many events wait to be tried again.
    pub waiting: u64,
    /// How many were given up.
    pub parked: u64,
    /// How many retention took before they were told.
    pub missed: u64,
    /// When a delivery was last taken.
    pub succeeded_at: Option<Timestamp>,
    /// When one last was not.
    pub failed_at: Option<Timestamp>,
}

/// One attempt at a delivery.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct DeliveryView {
    /// When it ended.
    pub at: Timestamp,
    /// The event's id, as the receiver sees it.
    pub event_id: String,
    /// The event's word.
    pub event: String,
    /// The how-manieth attempt.
    pub attempt: u32,
    /// How long it took, in milliseconds.
    pub ms: u64,
    /// What the receiver answered.
    pub status: Option<u16>,
    /// Why it counts as failed.
    pub error: Option<String>,
}

/// An event that was given up.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ParkedView {
    /// The event's id.
    pub event_id: String,
    /// The event's word.
    pub event: &'static str,
    /// Attempts made.
    pub attempts: u32,
    /// From when on it was to be told.
    pub since: Timestamp,
    /// When it was given up.
    pub parked_at: Timestamp,
    /// Why the last attempt failed.
    pub reason: String,
}
