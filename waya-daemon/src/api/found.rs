//! Other messages that a request speaks of: ours by queue id, reference or WhatsApp's id, theirs by WhatsApp's id.

use super::{Api, ApiError};
use crate::model::{
    Body, ChatId, ChatKind, Content, Incoming, MAX_QUOTE_CHARS, Message, MessageKey, Quoted, Timestamp, WhatsAppId,
};

/// A message that was named.
#[derive(Debug, Clone)]
pub(super) enum Found {
    /// One that went out, or will.
    Ours(Box<Message>),
    /// One that came in, or that the owner typed on another device.
    Theirs(Box<Incoming>),
}

impl Found {
    /// The chat it stands in.
    pub(super) const fn chat(&self) -> &ChatId {
        match self {
            Self::Ours(message) => &message.chat,
            Self::Theirs(incoming) => &incoming.chat,
        }
    }

    /// How WhatsApp names it within its chat.
    pub(super) fn key(&self) -> MessageKey {
        match self {
            Self::Ours(message) => MessageKey { id: message.whatsapp_id.0.clone(), from_me: true, author: None },
            Self::Theirs(incoming) => {
                MessageKey { id: incoming.id.clone(), from_me: incoming.from_me, author: author(incoming) }
            }
        }
    }

    /// When the other side wrote it; `None` for what we wrote.
    pub(super) const fn written_to_us(&self) -> Option<Timestamp> {
        match self {
            Self::Theirs(incoming) if !incoming.from_me => Some(incoming.timestamp),
            Self::Theirs(_) | Self::Ours(_) => None,
        }
    }

    /// What an emoji under it is.
    pub(super) fn reaction(&self) -> Content {
        Content { answers: self.written_to_us(), ..Body::Reaction(self.key()).into() }
    }

    /// How an answer speaks of it.
    pub(super) fn quoted(&self) -> Quoted {
        let cut = |text: &str| text.chars().take(MAX_QUOTE_CHARS).collect();
        match self {
            Self::Ours(message) => Quoted { id: message.whatsapp_id.0.clone(), author: None, text: cut(&message.text) },
            Self::Theirs(incoming) => Quoted {
                id: incoming.id.clone(),
                author: (!incoming.from_me).then(|| incoming.sender.clone()),
                text: cut(&incoming.text),
            },
        }
    }
}

/// In a group, who wrote it.
fn author(incoming: &Incoming) -> Option<ChatId> {
    (incoming.chat.kind() == ChatKind::Group && !incoming.from_me).then(|| incoming.sender.clone())
}

impl Api {
    /// The message of this name; `None` when there is none.
    pub(super) async fn named(&self, id: &str) -> Result<Option<Found>, ApiError> {
        let store = &self.0.store;
        if let Ok(id) = id.parse()
            && let Some(message) = store.outbox.message(id).await?
        {
            return Ok(Some(Found::Ours(Box::new(message))));
        }
        if let Some(message) = store.outbox.by_reference(id, 1).await?.pop() {
            return Ok(Some(Found::Ours(Box::new(message))));
        }
        if let Some(queue_id) = store.outbox.by_whatsapp_id(&WhatsAppId(id.to_owned())).await?
            && let Some(message) = store.outbox.message(queue_id).await?
        {
            return Ok(Some(Found::Ours(Box::new(message))));
        }
        Ok(store.journal.incoming(id).await?.map(|incoming| Found::Theirs(Box::new(incoming))))
    }

    /// A message that all of these chats have.
    pub(super) async fn found_in(&self, field: &str, id: &str, chats: &[&ChatId]) -> Result<Found, ApiError> {
        let Some(found) = self.named(id).await? else {
            let problem = "names no message that is known; give a queue id, a reference_id, or WhatsApp's id";
            return Err(ApiError::field_error(field.to_owned(), problem));
        };
        if let Found::Ours(message) = &found
            && !message.claimed
        {
            return Err(ApiError::field_error(field.to_owned(), "names a message that has not left yet"));
        }
        let mut chat = found.chat().clone();
        crate::store::ByPhone::new(&self.0.store).name(&mut chat).await;
        if chats.iter().any(|other| **other != chat) {
            return Err(ApiError::field_error(field.to_owned(), "names a message of another chat"));
        }
        Ok(found)
    }
}
