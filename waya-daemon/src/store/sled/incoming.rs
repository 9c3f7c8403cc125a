//! An incoming message as it lies on disk, within its event.

use super::codec::Bad;
use super::records::{chat, cut};
use crate::model::{Incoming, Timestamp};

/// Names that others choose are cut here.
const MAX_NAME: usize = 512;

/// An incoming message.
#[derive(Clone, PartialEq, prost::Message)]
pub struct IncomingRecord {
    #[prost(string, tag = "1")]
    pub id: String,
    #[prost(string, tag = "2")]
    pub chat: String,
    #[prost(string, tag = "3")]
    pub sender: String,
    #[prost(string, optional, tag = "4")]
    pub sender_lid: Option<String>,
    #[prost(bool, tag = "5")]
    pub from_me: bool,
    #[prost(string, optional, tag = "6")]
    pub push_name: Option<String>,
    #[prost(string, tag = "7")]
    pub kind: String,
    #[prost(string, tag = "8")]
    pub text: String,
    #[prost(uint64, tag = "9")]
    pub timestamp: u64,
    #[prost(uint64, tag = "10")]
    pub received_at: u64,
    #[prost(bytes = "vec", tag = "11")]
    pub raw: Vec<u8>,
    #[prost(string, optional, tag = "12")]
    pub chat_lid: Option<String>,
}

impl From<Incoming> for IncomingRecord {
    fn from(incoming: Incoming) -> Self {
        Self {
            id: incoming.id,
            chat: incoming.chat.into(),
            sender: incoming.sender.into(),
            sender_lid: incoming.sender_lid,
            from_me: incoming.from_me,
            push_name: incoming.push_name.map(|name| cut(name, MAX_NAME)),
            kind: incoming.kind,
            text: incoming.text,
            timestamp: incoming.timestamp.as_millis(),
            received_at: incoming.received_at.as_millis(),
            raw: incoming.raw,
            chat_lid: incoming.chat_lid,
        }
    }
}

impl TryFrom<IncomingRecord> for Incoming {
    type Error = Bad;

    fn try_from(record: IncomingRecord) -> Result<Self, Bad> {
        Ok(Self {
            id: record.id,
            chat: chat(record.chat)?,
            sender: chat(record.sender)?,
            sender_lid: record.sender_lid,
            from_me: record.from_me,
            push_name: record.push_name,
            kind: record.kind,
            text: record.text,
            timestamp: Timestamp::from_millis(record.timestamp),
            received_at: Timestamp::from_millis(record.received_at),
            raw: record.raw,
            chat_lid: record.chat_lid,
        })
    }
}
