//! An incoming message as the journal keeps it.

use std::borrow::Cow;
use std::fmt;

use serde::{Deserialize, Serialize};

use super::{ChatId, Timestamp};

/// What makes an incoming message the same one: WhatsApp's ids are unique within (chat, sender) only.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct IncomingKey<'a> {
    /// The chat it stands in.
    pub chat: Cow<'a, ChatId>,
    /// Who wrote it.
    pub sender: Cow<'a, ChatId>,
    /// WhatsApp's id.
    pub id: &'a str,
}

/// One incoming message (or one that the owner typed on another device: `from_me`).
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Incoming {
    /// WhatsApp's id, unique within (chat, sender).
    pub id: String,
    /// The chat: by phone whenever that is known.
    pub chat: ChatId,
    /// The LID digits of a private chat's other side, when known.
    #[serde(default)]
    pub chat_lid: Option<String>,
    /// Who wrote it; in a group the person, else the same as `chat` (or the own account).
    pub sender: ChatId,
    /// The sender's LID digits, when known.
    pub sender_lid: Option<String>,
    /// Typed by the owner on another device.
    pub from_me: bool,
    /// The sender's own name for itself.
    pub push_name: Option<String>,
    /// `chat, image, video, audio, ptt, document, sticker, location, vcard, poll_creation, revoked, …`
    pub kind: String,
    /// The text, or the caption of media.
    pub text: String,
    /// WhatsApp's time of sending.
    pub timestamp: Timestamp,
    /// When the daemon wrote it down.
    pub received_at: Timestamp,
    /// The encoded protobuf message, for quotes, media and forwards later.
    #[serde(default)]
    pub raw: Vec<u8>,
}

impl Incoming {
    /// What makes it the same one when it is delivered again: its addresses as they are shown, and by LID where they
    /// differ. A message that came before the phone behind a LID was learnt is shown by phone when it comes again.
    pub fn keys(&self) -> impl Iterator<Item = IncomingKey<'_>> {
        let shown = IncomingKey { chat: Cow::Borrowed(&self.chat), sender: Cow::Borrowed(&self.sender), id: &self.id };
        let by_lid = IncomingKey {
            chat: by_lid(&self.chat, self.chat_lid.as_deref()),
            sender: by_lid(&self.sender, self.sender_lid.as_deref()),
            id: &self.id,
        };
        let differs = by_lid != shown;
        [Some(shown), differs.then_some(by_lid)].into_iter().flatten()
    }

    /// The person who wrote it to this account in private; `None` in groups, and for what the owner wrote.
    #[must_use]
    pub fn private_writer(&self) -> Option<&ChatId> {
        (!self.from_me && self.chat.is_person()).then_some(&self.chat)
    }

    /// Both are one message, delivered twice.
    #[must_use]
    pub fn is_same_as(&self, other: &Self) -> bool {
        self.keys().any(|key| other.keys().any(|known| known == key))
    }
}

fn by_lid<'a>(chat: &'a ChatId, lid: Option<&str>) -> Cow<'a, ChatId> {
    lid.map_or(Cow::Borrowed(chat), |lid| Cow::Owned(ChatId::lid(lid)))
}

/// Without the text and with numbers masked, because debug output reaches logs.
impl fmt::Debug for Incoming {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Incoming")
            .field("id", &self.id)
            .field("chat", &self.chat)
            .field("sender", &self.sender)
            .field("kind", &self.kind)
            .finish_non_exhaustive()
    }
}
