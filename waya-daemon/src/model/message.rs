//! An outgoing message: one row of the queue, from "accepted" to its verdict.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::{ChatId, Content, Receipts, Timestamp};

/// The longest text WhatsApp takes, in characters.
pub const MAX_TEXT_CHARS: usize = 65_536;
/// The longest `reference_id`, in characters.
pub const MAX_REFERENCE_CHARS: usize = 128;

/// The queue id: a UUID v7. Ids made by one daemon grow, so their order is the order of acceptance.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct MessageId(pub Uuid);

/// The text is no queue id.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a message id")]
pub struct InvalidId(pub String);

impl fmt::Display for MessageId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.hyphenated().fmt(f)
    }
}

impl FromStr for MessageId {
    type Err = InvalidId;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Uuid::try_parse(text).map(Self).map_err(|_| InvalidId(text.to_owned()))
    }
}

/// The id WhatsApp knows a message by; chosen once, before the first attempt, and kept for every resend.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct WhatsAppId(pub String);

impl WhatsAppId {
    /// From 9 random bytes, in the shape WhatsApp Web gives its own: `3EB0` and 18 hex digits.
    #[must_use]
    pub fn from_random(bytes: [u8; 9]) -> Self {
        use fmt::Write as _;
        let mut text = String::with_capacity(22);
        text.push_str("3EB0");
        for byte in bytes {
            let _ = write!(text, "{byte:02X}");
        }
        Self(text)
    }
}

impl fmt::Display for WhatsAppId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Which queue of the queue a message stands in; earlier lanes leave first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Lane {
    /// What nobody holds: answers to what somebody wrote, and what takes something back.
    Reply,
    /// `priority: high`.
    High,
    /// The default.
    Normal,
    /// `priority: low`.
    Low,
}

impl Lane {
    /// All lanes, in the order they leave.
    pub const ALL: [Self; 4] = [Self::Reply, Self::High, Self::Normal, Self::Low];
}

/// Where a message came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Source {
    /// HTTP.
    Api,
    /// The command line.
    Cli,
}

/// Where a message stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Status {
    /// Waits for its turn.
    Pending,
    /// Handed to WhatsApp, or about to be; not acknowledged yet.
    Sending,
    /// The server's ack for its id was seen.
    Sent,
    /// Given up; `error` says why.
    Failed,
    /// Taken back by the user before it left.
    Cancelled,
}

impl Status {
    /// Nothing more will be done for it by the queue.
    #[must_use]
    pub const fn is_finished(self) -> bool {
        matches!(self, Self::Sent | Self::Failed | Self::Cancelled)
    }

    /// The word of the contract.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Sending => "sending",
            Self::Sent => "sent",
            Self::Failed => "failed",
            Self::Cancelled => "cancelled",
        }
    }
}

/// How far a message got on the other side; it only grows. In a group: with all of its members.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Ack {
    /// Nothing heard.
    None,
    /// WhatsApp's server took it.
    Server,
    /// A device of the recipient has it.
    Device,
    /// It was read.
    Read,
    /// Its sound or video was played.
    Played,
}

impl Ack {
    /// The word of the contract.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Server => "server",
            Self::Device => "device",
            Self::Read => "read",
            Self::Played => "played",
        }
    }
}

/// What the caller decides about a message; the store's engine adds nothing of its own.
#[derive(Clone, PartialEq, Eq)]
pub struct NewMessage {
    /// The queue id.
    pub id: MessageId,
    /// The caller's own id.
    pub reference_id: Option<String>,
    /// Where it goes.
    pub chat: ChatId,
    /// The text, byte for byte; the caption, question or emoji of what is more than a text.
    pub text: String,
    /// What it is beside its text.
    pub content: Content,
    /// Which lane it waits in.
    pub lane: Lane,
    /// Which door it came through.
    pub source: Source,
    /// The id WhatsApp will know it by.
    pub whatsapp_id: WhatsAppId,
    /// When it was accepted.
    pub created_at: Timestamp,
    /// Not before this time.
    pub not_before: Option<Timestamp>,
}

/// One outgoing message with all that became of it.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Message {
    /// The queue id.
    pub id: MessageId,
    /// The caller's own id.
    pub reference_id: Option<String>,
    /// Where it goes.
    pub chat: ChatId,
    /// The text, byte for byte; the caption, question or emoji of what is more than a text.
    pub text: String,
    /// What it is beside its text.
    pub content: Content,
    /// Which lane it waits in.
    pub lane: Lane,
    /// Which door it came through.
    pub source: Source,
    /// The id WhatsApp knows it by.
    pub whatsapp_id: WhatsAppId,
    /// When it was accepted.
    pub created_at: Timestamp,
    /// Not before this time.
    pub not_before: Option<Timestamp>,
    /// Where it stands.
    pub status: Status,
    /// How far it got on the other side.
    pub ack: Ack,
    /// Attempts spent; waiting offline spends none.
    pub attempts: u32,
    /// It was taken to be sent before: it may have left, whatever became of it since.
    pub claimed: bool,
    /// While backing off: when the next attempt is due.
    pub retry_at: Option<Timestamp>,
    /// Why it failed, or why the last attempt did not succeed.
    pub error: Option<String>,
    /// When the server's ack was seen.
    pub sent_at: Option<Timestamp>,
    /// When a recipient's device confirmed it.
    pub delivered_at: Option<Timestamp>,
    /// When it was read.
    pub read_at: Option<Timestamp>,
    /// When it became sent, failed or cancelled.
    pub finished_at: Option<Timestamp>,
    /// In a group whose members were known as it left: what they have said of it.
    pub receipts: Option<Receipts>,
}

impl From<NewMessage> for Message {
    fn from(new: NewMessage) -> Self {
        Self {
            id: new.id,
            reference_id: new.reference_id,
            chat: new.chat,
            text: new.text,
            content: new.content,
            lane: new.lane,
            source: new.source,
            whatsapp_id: new.whatsapp_id,
            created_at: new.created_at,
            not_before: new.not_before,
            status: Status::Pending,
            ack: Ack::None,
            attempts: 0,
            claimed: false,
            retry_at: None,
            error: None,
            sent_at: None,
            delivered_at: None,
            read_at: None,
            finished_at: None,
            receipts: None,
        }
    }
}

/// Without the text and with the chat masked, because debug output reaches logs.
impl fmt::Debug for Message {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Message")
            .field("id", &self.id)
            .field("chat", &self.chat)
            .field("status", &self.status)
            .field("ack", &self.ack)
            .field("attempts", &self.attempts)
            .finish_non_exhaustive()
    }
}

/// Without the text and with the chat masked, because debug output reaches logs.
impl fmt::Debug for NewMessage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NewMessage").field("id", &self.id).field("chat", &self.chat).finish_non_exhaustive()
    }
}
