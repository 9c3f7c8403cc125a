//! The trees of the database and the shape of their keys.

use sha2::{Digest as _, Sha256};
use sled::IVec;

use crate::model::{Cursor, Incoming, IncomingKey, MessageId};

/// One tree. The numbers are written to disk (counts, snapshots): never reuse or reorder them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum Tree {
    /// Schema version and counters.
    Meta = 0,
    /// Outgoing messages by id.
    Messages = 1,
    /// Unfinished messages: an index without values.
    Open = 2,
    /// Messages by the caller's reference: an index without values.
    References = 3,
    /// Message ids by WhatsApp id, from the first claim on: an index.
    WhatsApp = 4,
    /// Accepted requests by idempotency key.
    Idempotency = 5,
    /// The journal by sequence number.
    Events = 6,
    /// Journal places of incoming messages by what makes them the same: an index.
    Seen = 7,
    /// People by row number.
    Contacts = 8,
    /// Row numbers by phone: an index.
    ContactPhones = 9,
    /// Row numbers by LID: an index.
    ContactLids = 10,
    /// Named values by namespace and key.
    Values = 11,
    /// How many records name a body file: an index.
    Bodies = 12,
    /// Records that could not be read.
    Quarantine = 13,
    /// The chat list: private chats by the row number of the person, the others by address.
    Chats = 14,
    /// Journal places of incoming messages by WhatsApp's id alone: an index without values.
    IncomingIds = 15,
    /// Webhooks by id.
    Webhooks = 16,
    /// Where each webhook stands in the journal, by its id.
    WebhookPlaces = 17,
    /// What webhooks are still to be told, by webhook, state and place in the journal.
    Notices = 18,
    /// The newest deliveries, by webhook and number.
    Deliveries = 19,
    /// Who was in a group as a message to it left, by the message's id.
    Rosters = 20,
}

/// How many trees there are.
pub const TREES: usize = 21;

impl Tree {
    /// All trees, in the order of their numbers.
    pub const ALL: [Self; TREES] = [
        Self::Meta,
        Self::Messages,
        Self::Open,
        Self::References,
        Self::WhatsApp,
        Self::Idempotency,
        Self::Events,
        Self::Seen,
        Self::Contacts,
        Self::ContactPhones,
        Self::ContactLids,
        Self::Values,
        Self::Bodies,
        Self::Quarantine,
        Self::Chats,
        Self::IncomingIds,
        Self::Webhooks,
        Self::WebhookPlaces,
        Self::Notices,
        Self::Deliveries,
        Self::Rosters,
    ];

    /// What cannot be made again from other trees. Idempotency comes before the messages it names and chats before
    /// their people, so that a copy made while rows are written never knows a request without its messages, a message
    /// to a group without those who get it, or a chat without its person. A webhook's place comes before what it is still
    /// to be told: told twice is better than never.
    pub const RECORDS: [Self; 11] = [
        Self::Idempotency,
        Self::Messages,
        Self::Rosters,
        Self::WebhookPlaces,
        Self::Notices,
        Self::Events,
        Self::Chats,
        Self::Contacts,
        Self::Values,
        Self::Webhooks,
        Self::Deliveries,
    ];

    /// What is made from the records.
    pub const INDEXES: [Self; 8] = [
        Self::Open,
        Self::References,
        Self::WhatsApp,
        Self::Seen,
        Self::ContactPhones,
        Self::ContactLids,
        Self::Bodies,
        Self::IncomingIds,
    ];

    /// The name in the database.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Meta => "meta",
            Self::Messages => "messages",
            Self::Open => "open",
            Self::References => "references",
            Self::WhatsApp => "whatsapp",
            Self::Idempotency => "idempotency",
            Self::Events => "events",
            Self::Seen => "seen",
            Self::Contacts => "contacts",
            Self::ContactPhones => "contact_phones",
            Self::ContactLids => "contact_lids",
            Self::Values => "values",
            Self::Bodies => "bodies",
            Self::Quarantine => "quarantine",
            Self::Chats => "chats",
            Self::IncomingIds => "incoming_ids",
            Self::Webhooks => "webhooks",
            Self::WebhookPlaces => "webhook_places",
            Self::Notices => "notices",
            Self::Deliveries => "deliveries",
            Self::Rosters => "rosters",
        }
    }
}

/// Schema version, in [`Tree::Meta`].
pub const SCHEMA_KEY: &[u8] = b"schema";
/// Counters, in [`Tree::Meta`].
pub const COUNTERS_KEY: &[u8] = b"counters";

/// A message's key.
pub fn message_key(id: MessageId) -> IVec {
    IVec::from(&id.0.into_bytes())
}

/// The id of a message's key; `None` when it is none.
pub fn message_id(key: &[u8]) -> Option<MessageId> {
    uuid::Uuid::from_slice(key).ok().map(MessageId)
}

/// The part all references of one text begin with. References are hashed so that every key has the same length.
pub fn reference_prefix(reference: &str) -> [u8; 16] {
    short_hash(&[reference.as_bytes()])
}

/// A reference's row.
pub fn reference_key(reference: &str, id: MessageId) -> IVec {
    let mut key = [0; 32];
    key[..16].copy_from_slice(&reference_prefix(reference));
    key[16..].copy_from_slice(id.0.as_bytes());
    IVec::from(&key)
}

/// An event's key.
pub fn event_key(cursor: Cursor) -> IVec {
    number_key(cursor.0)
}

/// What makes an incoming message the same one: one key, or two.
pub fn seen_keys(incoming: &Incoming) -> Vec<IVec> {
    incoming.keys().map(|key| seen_key(&key)).collect()
}

fn seen_key(key: &IncomingKey<'_>) -> IVec {
    IVec::from(&short_hash(&[key.chat.as_str().as_bytes(), key.sender.as_str().as_bytes(), key.id.as_bytes()]))
}

/// The part all journal places of one incoming id begin with.
pub fn incoming_prefix(id: &str) -> [u8; 16] {
    short_hash(&[id.as_bytes()])
}

/// An incoming id's row.
pub fn incoming_key(id: &str, place: &[u8]) -> IVec {
    IVec::from([&incoming_prefix(id), place].concat())
}

/// A number as a key that sorts.
pub fn number_key(number: u64) -> IVec {
    IVec::from(&number.to_be_bytes())
}

/// The number of a key or index value; `None` when it is none.
pub fn number(bytes: &[u8]) -> Option<u64> {
    bytes.try_into().ok().map(u64::from_be_bytes)
}

/// A named value's key.
pub fn value_key(namespace: &str, key: &str) -> IVec {
    let mut bytes = value_prefix(namespace);
    bytes.extend_from_slice(key.as_bytes());
    IVec::from(bytes)
}

/// What all keys of a namespace begin with. Its length comes first, so that no namespace is the beginning of another.
pub fn value_prefix(namespace: &str) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(namespace.len() + 32);
    bytes.extend_from_slice(&(namespace.len() as u32).to_be_bytes());
    bytes.extend_from_slice(namespace.as_bytes());
    bytes
}

fn short_hash(parts: &[&[u8]]) -> [u8; 16] {
    let mut hash = Sha256::new();
    for part in parts {
        hash.update((part.len() as u64).to_be_bytes());
        hash.update(part);
    }
    let mut short = [0; 16];
    short.copy_from_slice(&hash.finalize()[..16]);
    short
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_and_names_agree() {
        for (number, tree) in Tree::ALL.into_iter().enumerate() {
            assert_eq!(tree as usize, number);
            assert!(Tree::ALL.iter().filter(|other| other.name() == tree.name()).count() == 1);
        }
        assert_eq!(Tree::RECORDS.len() + Tree::INDEXES.len() + 2, TREES, "all but meta and quarantine");
    }

    #[test]
    fn a_namespace_is_never_the_beginning_of_another() {
        assert!(!value_key("ab", "c").starts_with(&value_prefix("a")));
        assert_ne!(value_key("ab", "c"), value_key("a", "bc"));
    }
}
