//! The journal of what happened, for readers that come back with a cursor.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::{Ack, ChatId, Incoming, LinkState, MessageId, Status, Timestamp};

/// A place in the journal: everything up to and including it has been read. Opaque outside; `0` is before the oldest kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Cursor(pub u64);

/// The text is no cursor.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a cursor; use 0 for the oldest kept, or one that an answer gave")]
pub struct InvalidCursor(pub String);

impl fmt::Display for Cursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0 == 0 { f.write_str("0") } else { write!(f, "c{:x}", self.0) }
    }
}

impl FromStr for Cursor {
    type Err = InvalidCursor;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text == "0" {
            return Ok(Self(0));
        }
        text.strip_prefix('c')
            .filter(|hex| !hex.is_empty() && hex.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')))
            .and_then(|hex| u64::from_str_radix(hex, 16).ok())
            .map(Self)
            .ok_or_else(|| InvalidCursor(text.to_owned()))
    }
}

/// One thing that happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// Its place.
    pub cursor: Cursor,
    /// When the daemon wrote it down.
    pub at: Timestamp,
    /// What.
    pub body: EventBody,
}

/// What happened.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum EventBody {
    /// A message came in.
    Message(Box<Incoming>),
    /// An outgoing message's status or ack changed.
    Status(StatusChanged),
    /// The link to WhatsApp changed.
    Link(LinkState),
}

/// An outgoing message's status or ack as it became.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StatusChanged {
    /// The queue id.
    pub id: MessageId,
    /// The caller's own id.
    pub reference_id: Option<String>,
    /// Where it went.
    pub chat: ChatId,
    /// Where it stands.
    pub status: Status,
    /// How far it got.
    pub ack: Ack,
    /// Why it failed.
    pub error: Option<String>,
    /// How far it had got before; not known of what older versions wrote.
    #[serde(default)]
    pub before: Option<Ack>,
}
