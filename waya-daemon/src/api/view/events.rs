//! The journal.

use serde::Serialize;

use crate::model::{Ack, ChatId, MessageId, Status, Timestamp};

/// `GET /api/events`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct EventsView {
    /// The events, oldest first.
    pub events: Vec<EventView>,
    /// `after` of the next request.
    pub next: String,
}

/// One event.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct EventView {
    /// Its place in the journal; opaque.
    pub cursor: String,
    /// When the daemon wrote it down.
    pub at: Timestamp,
    /// What happened.
    #[serde(flatten)]
    pub body: EventBodyView,
}

/// What happened, under a field of the type's name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum EventBodyView {
    /// A message came in, or the owner typed one on another device.
    Message {
        /// The message.
        message: IncomingView,
    },
    /// An outgoing message's status or ack changed.
    Status {
        /// What it became.
        status: StatusChangedView,
    },
    /// The link to WhatsApp changed.
    Link {
        /// What it became.
        link: LinkView,
    },
}

impl EventBodyView {
    /// The type's name.
    #[must_use]
    pub const fn kind(&self) -> &'static str {
        match self {
            Self::Message { .. } => "message",
            Self::Status { .. } => "status",
            Self::Link { .. } => "link",
        }
    }
}

/// An incoming message, in the words that scripts use too.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct IncomingView {
    /// WhatsApp's id.
    pub id: String,
    /// The text, or the caption.
    pub body: String,
    /// The chat it came from: in a group the group, else the person.
    pub from: ChatId,
    /// The chat it stands in.
    pub chat_id: ChatId,
    /// In a group: who wrote it.
    pub author: Option<ChatId>,
    /// The LID digits of who wrote it, when known.
    pub sender_lid: Option<String>,
    /// Their own name for themselves.
    pub sender_name: Option<String>,
    /// Typed by the owner on another device.
    pub from_me: bool,
    /// `chat`, `image`, `video`, …
    #[serde(rename = "type")]
    pub kind: String,
    /// WhatsApp's time of sending.
    pub timestamp: Timestamp,
    /// It stands in a group.
    pub is_group: bool,
    /// Who wrote it, wherever it stands.
    #[serde(skip)]
    pub sender: ChatId,
}

/// What an outgoing message became.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct StatusChangedView {
    /// The queue id.
    pub id: MessageId,
    /// The caller's own id.
    #[serde(rename = "reference_id")]
    pub reference_id: Option<String>,
    /// The phone's digits, else the chat's address.
    pub number: String,
    /// The chat's address.
    pub chat_id: ChatId,
    /// Where it stands.
    pub status: Status,
    /// How far it got.
    pub ack: Ack,
    /// Why it failed.
    pub error: Option<String>,
}

/// What the link became.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct LinkView {
    /// The state's word.
    pub state: &'static str,
    /// Why, in words.
    pub reason: Option<String>,
}
