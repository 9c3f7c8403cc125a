//! The records as they lie on disk, apart from the model, so that either can change alone.
//!
//! Fields have numbers, in the manner of protobuf: a new field gets a new number, readers skip what they do not know.

use prost::Message as _;

use super::bodies::BodyHash;
use super::codec::Bad;
use crate::model::{
    Ack, ChatId, Content, Lane, Marks, Message, MessageId, NewMessage, Receipts, Roster, Source, Status, Timestamp,
    WhatsAppId,
};
use crate::store::Placed;

/// A reason is cut here: records must fit a page, and nobody reads more.
pub const MAX_ERROR: usize = 1024;

/// An outgoing message.
#[derive(Clone, PartialEq, prost::Message)]
pub struct MessageRecord {
    #[prost(string, optional, tag = "1")]
    pub reference_id: Option<String>,
    #[prost(string, tag = "2")]
    pub chat: String,
    /// The text, unless it lies in a body file.
    #[prost(string, tag = "3")]
    pub text: String,
    /// The body file of a long text.
    #[prost(bytes = "vec", optional, tag = "4")]
    pub text_body: Option<Vec<u8>>,
    #[prost(uint32, tag = "5")]
    pub lane: u32,
    #[prost(uint32, tag = "6")]
    pub source: u32,
    #[prost(string, tag = "7")]
    pub whatsapp_id: String,
    #[prost(uint64, tag = "8")]
    pub created_at: u64,
    #[prost(uint64, optional, tag = "9")]
    pub not_before: Option<u64>,
    #[prost(uint32, tag = "10")]
    pub status: u32,
    #[prost(uint32, tag = "11")]
    pub ack: u32,
    #[prost(uint32, tag = "12")]
    pub attempts: u32,
    #[prost(uint64, optional, tag = "13")]
    pub retry_at: Option<u64>,
    #[prost(string, optional, tag = "14")]
    pub error: Option<String>,
    #[prost(uint64, optional, tag = "15")]
    pub sent_at: Option<u64>,
    #[prost(uint64, optional, tag = "16")]
    pub delivered_at: Option<u64>,
    #[prost(uint64, optional, tag = "17")]
    pub read_at: Option<u64>,
    #[prost(uint64, optional, tag = "18")]
    pub finished_at: Option<u64>,
    #[prost(bool, tag = "19")]
    pub claimed: bool,
    /// What it is beside its text, as JSON; absent for a plain text.
    #[prost(bytes = "vec", optional, tag = "20")]
    pub content: Option<Vec<u8>>,
    /// How many were in the group as it left; absent in private chats, and where nobody counted.
    #[prost(uint32, optional, tag = "21")]
    pub members: Option<u32>,
    /// Which of them have it, a bit for each.
    #[prost(bytes = "vec", tag = "22")]
    pub delivered: Vec<u8>,
    /// Which of them have read it.
    #[prost(bytes = "vec", tag = "23")]
    pub read: Vec<u8>,
    /// Which of them have played it.
    #[prost(bytes = "vec", tag = "24")]
    pub played: Vec<u8>,
}

impl MessageRecord {
    /// From the model; the text is taken as it is.
    pub fn from_model(message: Message) -> Self {
        let millis = |time: Option<Timestamp>| time.map(Timestamp::as_millis);
        let members = message.receipts.as_ref().map(|receipts| receipts.members);
        let Receipts { delivered, read, played, .. } = message.receipts.unwrap_or_default();
        Self {
            reference_id: message.reference_id,
            chat: message.chat.into(),
            text: message.text,
            text_body: None,
            content: content_json(&message.content),
            lane: lane_code(message.lane),
            source: source_code(message.source),
            whatsapp_id: message.whatsapp_id.0,
            created_at: message.created_at.as_millis(),
            not_before: millis(message.not_before),
            status: status_code(message.status),
            ack: ack_code(message.ack),
            attempts: message.attempts,
            claimed: message.claimed,
            retry_at: millis(message.retry_at),
            error: message.error.map(|error| cut(error, MAX_ERROR)),
            sent_at: millis(message.sent_at),
            delivered_at: millis(message.delivered_at),
            read_at: millis(message.read_at),
            finished_at: millis(message.finished_at),
            members,
            delivered: delivered.as_bytes().to_vec(),
            read: read.as_bytes().to_vec(),
            played: played.as_bytes().to_vec(),
        }
    }

    /// To the model; a text that lies in a body file is empty.
    pub fn into_model(self, id: MessageId) -> Result<Message, Bad> {
        let time = |millis: Option<u64>| millis.map(Timestamp::from_millis);
        Ok(Message {
            id,
            reference_id: self.reference_id,
            chat: chat(self.chat)?,
            text: self.text,
            content: content(self.content.as_deref())?,
            lane: lane(self.lane)?,
            source: source(self.source)?,
            whatsapp_id: WhatsAppId(self.whatsapp_id),
            created_at: Timestamp::from_millis(self.created_at),
            not_before: time(self.not_before),
            status: status(self.status)?,
            ack: ack(self.ack)?,
            attempts: self.attempts,
            claimed: self.claimed,
            retry_at: time(self.retry_at),
            error: self.error,
            sent_at: time(self.sent_at),
            delivered_at: time(self.delivered_at),
            read_at: time(self.read_at),
            finished_at: time(self.finished_at),
            receipts: self.members.map(|members| Receipts {
                members,
                delivered: Marks::from_bytes(self.delivered),
                read: Marks::from_bytes(self.read),
                played: Marks::from_bytes(self.played),
            }),
        })
    }

    /// From the payload of a record.
    pub fn read(payload: &[u8]) -> Result<Self, Bad> {
        Self::decode(payload).map_err(|_| Bad::Content)
    }

    /// The body file of its text.
    pub fn body(&self) -> Result<Option<BodyHash>, Bad> {
        match &self.text_body {
            None => Ok(None),
            Some(hash) => hash.as_slice().try_into().map(|hash| Some(BodyHash(hash))).map_err(|_| Bad::Content),
        }
    }
}

/// Who was in a group.
#[derive(Clone, PartialEq, prost::Message)]
pub struct RosterRecord {
    /// As [`Roster::to_steps`] gives them.
    #[prost(uint64, repeated, tag = "1")]
    pub steps: Vec<u64>,
}

impl RosterRecord {
    /// From the payload of a record.
    pub fn read(payload: &[u8]) -> Result<Roster, Bad> {
        let record = Self::decode(payload).map_err(|_| Bad::Content)?;
        Roster::from_steps(&record.steps).ok_or(Bad::Content)
    }

    /// To the payload of a record.
    pub fn write(roster: &Roster) -> Vec<u8> {
        Self { steps: roster.to_steps() }.encode_to_vec()
    }
}

/// An accepted request.
#[derive(Clone, PartialEq, prost::Message)]
pub struct IdempotencyRecord {
    /// Hash of the request's body.
    #[prost(bytes = "vec", tag = "1")]
    pub body: Vec<u8>,
    /// When it is forgotten, in milliseconds since the epoch.
    #[prost(uint64, tag = "2")]
    pub until: u64,
    /// 16 bytes each.
    #[prost(bytes = "vec", tag = "3")]
    pub ids: Vec<u8>,
    /// Where each of them stood.
    #[prost(uint64, repeated, tag = "4")]
    pub positions: Vec<u64>,
    /// To whom each of them goes; absent in records of versions that did not keep it.
    #[prost(message, repeated, tag = "5")]
    pub named: Vec<NamedRecord>,
}

/// How an answer names a message beside its id.
#[derive(Clone, PartialEq, prost::Message)]
pub struct NamedRecord {
    /// Where it goes.
    #[prost(string, tag = "1")]
    pub chat: String,
    /// The caller's own id.
    #[prost(string, optional, tag = "2")]
    pub reference_id: Option<String>,
}

impl NamedRecord {
    /// From the model.
    pub fn of(message: &NewMessage) -> Self {
        Self { chat: message.chat.as_str().to_owned(), reference_id: message.reference_id.clone() }
    }

    /// To the model.
    pub fn read(&self) -> Result<(ChatId, Option<String>), Bad> {
        Ok((chat(self.chat.clone())?, self.reference_id.clone()))
    }
}

impl IdempotencyRecord {
    /// From the payload of a record.
    pub fn read(payload: &[u8]) -> Result<Self, Bad> {
        Self::decode(payload).map_err(|_| Bad::Content)
    }

    /// The messages of the request, as they were accepted.
    pub fn placed(&self) -> Vec<Placed> {
        let ids = self.ids.chunks_exact(16).filter_map(super::trees::message_id);
        let positions = self.positions.iter().copied().chain(std::iter::repeat(0));
        ids.zip(positions).map(|(id, position)| Placed { id, position }).collect()
    }
}

/// A plain text, which most messages are, takes no room.
fn content_json(content: &Content) -> Option<Vec<u8>> {
    // Its keys are texts, so that it can always be written.
    (*content != Content::default()).then(|| serde_json::to_vec(content).unwrap_or_default())
}

fn content(stored: Option<&[u8]>) -> Result<Content, Bad> {
    stored.map_or_else(|| Ok(Content::default()), |json| serde_json::from_slice(json).map_err(|_| Bad::Content))
}

/// A chat as stored.
pub fn chat(text: String) -> Result<ChatId, Bad> {
    ChatId::try_from(text).map_err(|_| Bad::Content)
}

/// Cut at a character's end.
pub fn cut(mut text: String, max: usize) -> String {
    if text.len() > max {
        let end = (0..=max).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0);
        text.truncate(end);
    }
    text
}

/// Writes both directions of a mapping between an enum and its numbers on disk.
macro_rules! codes {
    ($to:ident, $from:ident, $type:ident { $($variant:ident = $code:literal),+ $(,)? }) => {
        /// The number on disk.
        pub const fn $to(value: $type) -> u32 {
            match value { $($type::$variant => $code),+ }
        }

        /// From the number on disk.
        pub const fn $from(code: u32) -> Result<$type, Bad> {
            match code { $($code => Ok($type::$variant),)+ _ => Err(Bad::Content) }
        }
    };
}

codes!(lane_code, lane, Lane { Reply = 1, High = 2, Normal = 3, Low = 4 });
codes!(source_code, source, Source { Api = 1, Cli = 2 });
codes!(status_code, status, Status { Pending = 1, Sending = 2, Sent = 3, Failed = 4, Cancelled = 5 });
codes!(ack_code, ack, Ack { None = 0, Server = 1, Device = 2, Read = 3, Played = 4 });

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_largest_group_fits_a_record() {
        let lid = |n: u64| ChatId::lid(&(100_000_000_000_000 + n * 877_000_000_000).to_string());
        let people: Vec<ChatId> = (0..crate::model::MAX_MEMBERS as u64).map(lid).collect();
        let roster = Roster::new(&people).unwrap();
        let payload = RosterRecord::write(&roster);
        assert!(payload.len() <= super::super::codec::MAX_PAYLOAD, "{} bytes", payload.len());
        assert_eq!(RosterRecord::read(&payload), Ok(roster));
    }

    #[test]
    fn a_text_is_cut_between_characters() {
        assert_eq!(cut("aé".to_owned(), 2), "a");
        assert_eq!(cut("aé".to_owned(), 3), "aé");
        assert_eq!(cut("😀".to_owned(), 3), "");
    }
}
