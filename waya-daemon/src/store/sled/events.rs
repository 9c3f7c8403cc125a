//! The journal's events as they lie on disk.

use prost::Message as _;
use sled::IVec;

use super::bodies::Pin;
use super::codec::{self, Bad};
use super::group::Group;
use super::incoming::IncomingRecord;
use super::records::{ack, ack_code, chat, status, status_code};
use super::trees::{Tree, event_key, message_id};
use crate::model::{Cursor, Event, EventBody, Incoming, StatusChanged, Timestamp};
use crate::store::StoreError;

/// One event; exactly one of its kinds is there.
#[derive(Clone, PartialEq, prost::Message)]
pub struct EventRecord {
    #[prost(uint64, tag = "1")]
    pub at: u64,
    #[prost(message, optional, tag = "2")]
    pub message: Option<IncomingRecord>,
    #[prost(message, optional, tag = "3")]
    pub status: Option<StatusRecord>,
    /// The link's state as JSON.
    #[prost(bytes = "vec", optional, tag = "4")]
    pub link: Option<Vec<u8>>,
}

/// A change of an outgoing message.
#[derive(Clone, PartialEq, prost::Message)]
pub struct StatusRecord {
    #[prost(bytes = "vec", tag = "1")]
    pub id: Vec<u8>,
    #[prost(string, optional, tag = "2")]
    pub reference_id: Option<String>,
    #[prost(string, tag = "3")]
    pub chat: String,
    #[prost(uint32, tag = "4")]
    pub status: u32,
    #[prost(uint32, tag = "5")]
    pub ack: u32,
    #[prost(string, optional, tag = "6")]
    pub error: Option<String>,
    #[prost(uint32, optional, tag = "7")]
    pub before: Option<u32>,
}

/// An event's payload, ready to be written.
pub enum Payload {
    /// It fits the record.
    Inline(Vec<u8>),
    /// It lies in this body file.
    Body(Pin),
}

/// The bytes of an event.
pub fn encode(body: &EventBody, at: Timestamp) -> Result<Vec<u8>, StoreError> {
    let mut record = EventRecord { at: at.as_millis(), message: None, status: None, link: None };
    match body {
        EventBody::Message(incoming) => record.message = Some(Incoming::clone(incoming).into()),
        EventBody::Status(changed) => record.status = Some(changed.into()),
        EventBody::Link(state) => {
            let json = serde_json::to_vec(state).map_err(|error| StoreError::Damaged(error.to_string()))?;
            record.link = Some(json);
        }
    }
    Ok(record.encode_to_vec())
}

/// Reads an event.
pub fn decode(cursor: Cursor, payload: &[u8]) -> Result<Event, Bad> {
    let record = EventRecord::decode(payload).map_err(|_| Bad::Content)?;
    let body = match record {
        EventRecord { message: Some(incoming), .. } => EventBody::Message(Box::new(incoming.try_into()?)),
        EventRecord { status: Some(changed), .. } => EventBody::Status(changed.try_into()?),
        EventRecord { link: Some(json), .. } => {
            EventBody::Link(serde_json::from_slice(&json).map_err(|_| Bad::Content)?)
        }
        EventRecord { .. } => return Err(Bad::Content),
    };
    Ok(Event { cursor, at: Timestamp::from_millis(record.at), body })
}

/// Adds an event that fits a record to the journal. In the committer.
pub fn append(group: &mut Group<'_>, body: &EventBody, at: Timestamp) -> Result<Cursor, StoreError> {
    append_payload(group, Payload::Inline(encode(body, at)?))
}

/// Adds an event to the journal. In the committer.
pub fn append_payload(group: &mut Group<'_>, payload: Payload) -> Result<Cursor, StoreError> {
    group.counters.newest.0 += 1;
    let cursor = group.counters.newest;
    let key = event_key(cursor);
    let record: IVec = match payload {
        Payload::Inline(payload) => codec::seal(&key, &payload),
        Payload::Body(pin) => {
            let record = codec::seal_body(&key, pin.hash());
            group.name_body(pin, 1)?;
            record
        }
    };
    group.insert(Tree::Events, key, record)?;
    Ok(cursor)
}

impl From<&StatusChanged> for StatusRecord {
    fn from(changed: &StatusChanged) -> Self {
        Self {
            id: changed.id.0.as_bytes().to_vec(),
            reference_id: changed.reference_id.clone(),
            chat: changed.chat.to_string(),
            status: status_code(changed.status),
            ack: ack_code(changed.ack),
            error: changed.error.clone(),
            before: changed.before.map(ack_code),
        }
    }
}

impl TryFrom<StatusRecord> for StatusChanged {
    type Error = Bad;

    fn try_from(record: StatusRecord) -> Result<Self, Bad> {
        Ok(Self {
            id: message_id(&record.id).ok_or(Bad::Content)?,
            reference_id: record.reference_id,
            chat: chat(record.chat)?,
            status: status(record.status)?,
            ack: ack(record.ack)?,
            error: record.error,
            before: record.before.map(ack).transpose()?,
        })
    }
}
