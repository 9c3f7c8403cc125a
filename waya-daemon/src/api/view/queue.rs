//! Messages on their way out: what accepting them answers, and what became of them.

use serde::Serialize;

use crate::model::{Ack, ChatId, MessageId, Source, Status, Timestamp};

/// `POST /api/send-message`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct SendAnswer {
    /// Always true: refusals are errors.
    pub success: bool,
    /// The first message's id; none in a dry run.
    pub id: Option<MessageId>,
    /// The first message's reference.
    pub reference_id: Option<String>,
    /// The first message's status.
    pub status: Status,
    /// Nothing was queued: it was only checked.
    #[serde(rename = "dryRun", skip_serializing_if = "std::ops::Not::not")]
    pub dry_run: bool,
    /// One row for each recipient.
    pub messages: Vec<AcceptedView>,
    /// Recipients that were named more than once, as written.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub duplicates: Vec<String>,
    /// In a dry run: when they would leave.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fits: Option<FitsView>,
}

/// When the messages of a dry run would leave, as if the link were up and the queue ran.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct FitsView {
    /// So many today.
    pub today: u64,
    /// So many on later days.
    pub later: u64,
    /// When the last one does, as far as anybody can tell.
    pub last_leaves_at: Option<Timestamp>,
    /// How many wait for something else, by its word.
    pub held: HeldView,
}

/// How many wait for something of which nobody knows the end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct HeldView {
    /// To people who never wrote to this account, while WhatsApp lets it write to none of them.
    pub cold_contact: u64,
}

/// The do-not-send list.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct OptOutsView {
    /// Everybody on it, the newest first.
    pub opt_outs: Vec<OptOutView>,
}

/// Somebody who wants no more messages.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct OptOutView {
    /// The phone's digits, else the chat's address.
    pub number: String,
    /// The chat's address.
    pub chat_id: ChatId,
    /// Since when.
    pub since: Timestamp,
    /// Whose word that was: `person` or `hand`.
    pub by: &'static str,
}

/// How many messages were taken back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct ClearView {
    /// So many.
    pub cleared: u64,
}

/// One accepted message.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct AcceptedView {
    /// The queue id; none in a dry run.
    pub id: Option<MessageId>,
    /// The caller's own id.
    pub reference_id: Option<String>,
    /// The phone's digits, else the chat's address.
    pub number: String,
    /// The chat's address.
    #[serde(rename = "chatId")]
    pub chat_id: ChatId,
    /// Where it stands.
    pub status: Status,
    /// Its place among the waiting ones: 1 leaves next, 0 does not wait any more.
    pub position: u64,
}

/// `GET /api/message-status/:id`; times are milliseconds since the Unix epoch.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct MessageView {
    /// The queue id.
    pub id: MessageId,
    /// The caller's own id.
    #[serde(rename = "reference_id")]
    pub reference_id: Option<String>,
    /// The phone's digits, else the chat's address.
    pub number: String,
    /// The chat's address.
    pub chat_id: ChatId,
    /// The text, byte for byte.
    pub message: String,
    /// Where it stands.
    pub status: Status,
    /// Why it failed, or why the last attempt did not succeed.
    pub error: Option<String>,
    /// When it was accepted.
    pub created_at: Timestamp,
    /// When the server's ack was seen.
    pub sent_at: Option<Timestamp>,
    /// When a recipient's device confirmed it.
    pub delivered_at: Option<Timestamp>,
    /// When it was read.
    pub read_at: Option<Timestamp>,
    /// How far it got on the other side; in a group with all of its members.
    pub ack: Ack,
    /// In a group: how many of how many have it; none in private chats, and where nobody counted.
    pub receipts: Option<ReceiptsView>,
    /// The id WhatsApp knows it by.
    pub whatsapp_id: String,
    /// Which door it came through.
    pub source: Source,
    /// Attempts spent.
    pub attempts: u32,
    /// Why it waits, while it does.
    pub hold: Option<HoldView>,
    /// How many stand before it in line, and itself; 0 when it stands in none.
    pub position: u64,
    /// When it will leave, while it waits and as far as anybody can tell.
    pub estimated_at: Option<Timestamp>,
    /// All messages that share the reference, newest first, up to 10,000; empty when there is only one.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub messages: Vec<MessageView>,
    /// How many share the reference, when several do.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub total: Option<u64>,
}

/// How many of a group's members have a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct ReceiptsView {
    /// How many were in the group as it left, the own account left out.
    pub members: u32,
    /// How many of them have it.
    pub delivered: u32,
    /// How many of them have read it.
    pub read: u32,
}

/// Why a pending message waits.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct HoldView {
    /// `pace`, `offline`, `paused`, `scheduled`, `backoff`, `cap`, `quiet_hours`, `cold_contact`.
    pub reason: &'static str,
    /// Until when, if that is known.
    pub until: Option<Timestamp>,
}

/// How many messages stand where.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct QueueSummary {
    /// Nothing leaves until it is resumed.
    pub paused: bool,
    /// Waiting.
    pub pending: u64,
    /// On their way.
    pub sending: u64,
    /// Acknowledged by the server.
    pub sent: u64,
    /// Given up.
    pub failed: u64,
    /// Taken back.
    pub cancelled: u64,
    /// When the oldest one waiting was accepted.
    pub oldest_pending_at: Option<Timestamp>,
}

/// `GET /api/queue`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct QueueView {
    /// How many stand where.
    #[serde(flatten)]
    pub summary: QueueSummary,
    /// Messages, newest first.
    pub messages: Vec<MessageView>,
    /// `before` of the next page, when there may be one.
    pub next: Option<MessageId>,
}

/// `GET /api/queue/:id`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct QueuedView {
    /// The message; its fields stand beside the other.
    #[serde(flatten)]
    pub message: MessageView,
    /// The request that put it into the queue, as long as that is logged.
    pub request: Option<QueuedByView>,
}

/// The request that put a message into the queue.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct QueuedByView {
    /// Its id in the log.
    pub id: String,
    /// Its headers, by name, secrets masked.
    pub headers: serde_json::Map<String, serde_json::Value>,
    /// Its body, secrets masked, files left out, cut.
    pub body: Option<String>,
}
