//! The words of the domain, pure: no tokio, no I/O, no clock.

mod chat;
mod content;
mod event;
mod inbound;
mod kind;
mod link;
mod listed;
mod message;
mod nack;
mod name;
mod receipts;
mod recipient;
mod timestamp;
mod transition;
#[cfg(test)]
mod transition_tests;
mod typing;
mod webhook;

pub use chat::{ChatId, ChatKind, InvalidChatId};
pub use content::{
    Attachment, Body, Contact, Content, Forward, InvalidHash, Location, MAX_MENTIONS, MAX_POLL_OPTION_CHARS,
    MAX_POLL_OPTIONS, MAX_POLL_QUESTION_CHARS, MAX_QUOTE_CHARS, MediaHash, MediaHints, MediaKind, MessageKey, Poll,
    Quoted, Remote,
};
pub use event::{Cursor, Event, EventBody, InvalidCursor, StatusChanged};
pub use inbound::{Incoming, IncomingKey};
pub use kind::Kind;
pub use link::{LinkState, OfflineReason, PairingMethod, PasskeyStep};
pub use listed::ListedChat;
pub use message::{
    Ack, InvalidId, Lane, MAX_REFERENCE_CHARS, MAX_TEXT_CHARS, Message, MessageId, NewMessage, Source, Status,
    WhatsAppId,
};
pub use nack::{NackReason, Verdict};
pub use name::{MAX_NAME_CHARS, PushName, clean_name};
pub use receipts::{MAX_MEMBERS, Marks, Member, Receipts, Roster};
pub use recipient::{InvalidRecipient, Recipient};
pub use timestamp::Timestamp;
pub use transition::{Change, ReceiptKind, Refusal};
pub use typing::Typing;
pub use webhook::{EventNames, InvalidEventId, InvalidWebhookId, Notice, Secret, Topic, Topics, Webhook, WebhookId};
