//! Webhooks and their deliveries as they lie on disk.

use std::collections::BTreeSet;

use prost::Message as _;
use sled::IVec;

use super::codec::{self, Bad};
use super::records::cut;
use crate::model::{Cursor, Notice, Secret, Timestamp, Topic, Topics, Webhook, WebhookId};
use crate::store::webhooks::{Delivery, MAX_REASON, Place, Unsettled};

/// A webhook as the user made it.
#[derive(Clone, PartialEq, prost::Message)]
struct WebhookRecord {
    #[prost(string, tag = "1")]
    url: String,
    #[prost(bool, tag = "2")]
    all: bool,
    /// Numbers of topics; one that a newer version wrote is left out.
    #[prost(uint32, repeated, tag = "3")]
    topics: Vec<u32>,
    #[prost(string, tag = "4")]
    secret: String,
    #[prost(bool, tag = "5")]
    enabled: bool,
    #[prost(uint64, tag = "6")]
    created_at: u64,
}

/// Where a webhook stands in the journal.
#[derive(Clone, PartialEq, prost::Message)]
pub struct PlaceRecord {
    #[prost(uint64, tag = "1")]
    pub cursor: u64,
    #[prost(uint64, tag = "2")]
    pub missed: u64,
    /// How many deliveries there were: the number of the newest one.
    #[prost(uint64, tag = "3")]
    pub deliveries: u64,
    #[prost(uint64, optional, tag = "4")]
    pub succeeded_at: Option<u64>,
    #[prost(uint64, optional, tag = "5")]
    pub failed_at: Option<u64>,
}

/// A notice that is not told yet; which one is in its key.
#[derive(Clone, PartialEq, prost::Message)]
struct NoticeRecord {
    #[prost(uint32, tag = "1")]
    attempts: u32,
    #[prost(uint64, tag = "2")]
    since: u64,
    #[prost(uint64, tag = "3")]
    at: u64,
    #[prost(string, tag = "4")]
    reason: String,
}

/// One attempt.
#[derive(Clone, PartialEq, prost::Message)]
struct DeliveryRecord {
    #[prost(uint64, tag = "1")]
    at: u64,
    #[prost(string, tag = "2")]
    event_id: String,
    #[prost(string, tag = "3")]
    event: String,
    #[prost(uint32, tag = "4")]
    attempt: u32,
    #[prost(uint64, tag = "5")]
    millis: u64,
    #[prost(uint32, optional, tag = "6")]
    status: Option<u32>,
    #[prost(string, optional, tag = "7")]
    error: Option<String>,
}

/// What becomes of a notice, as its key has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum State {
    /// It is tried again.
    Waits = b'w',
    /// It was given up.
    Parked = b'x',
}

/// What all keys of a webhook begin with.
pub fn webhook_key(id: &WebhookId) -> IVec {
    IVec::from(id.as_str().as_bytes())
}

/// What the keys of its notices in a state begin with.
pub fn state_prefix(webhook: &[u8], state: State) -> IVec {
    IVec::from([webhook, &[state as u8]].concat())
}

/// A notice's key; they sort as their events happened.
pub fn notice_key(webhook: &[u8], state: State, notice: Notice) -> IVec {
    IVec::from([webhook, &[state as u8], &notice.cursor.0.to_be_bytes()[..], &[notice.topic as u8]].concat())
}

/// A delivery's key.
pub fn delivery_key(webhook: &[u8], number: u64) -> IVec {
    IVec::from([webhook, &number.to_be_bytes()[..]].concat())
}

/// As stored.
pub fn seal_webhook(key: &[u8], webhook: &Webhook) -> IVec {
    let topics = match &webhook.topics {
        Topics::All => Vec::new(),
        Topics::Only(topics) => topics.iter().map(|topic| u32::from(*topic as u8)).collect(),
    };
    let record = WebhookRecord {
        url: webhook.url.clone(),
        all: webhook.topics == Topics::All,
        topics,
        secret: webhook.secret.0.clone(),
        enabled: webhook.enabled,
        created_at: webhook.created_at.as_millis(),
    };
    codec::seal(key, &record.encode_to_vec())
}

/// From the store.
pub fn read_webhook(key: &[u8], record: &[u8]) -> Result<Webhook, Bad> {
    decode_webhook(key, codec::unseal_inline(key, record)?)
}

/// From a record's payload.
pub fn decode_webhook(key: &[u8], payload: &[u8]) -> Result<Webhook, Bad> {
    let record = WebhookRecord::decode(payload).map_err(|_| Bad::Content)?;
    let id = std::str::from_utf8(key).ok().and_then(|id| id.parse().ok()).ok_or(Bad::Content)?;
    let known = |code: &u32| u8::try_from(*code).ok().and_then(Topic::from_code);
    let topics: BTreeSet<Topic> = record.topics.iter().filter_map(known).collect();
    Ok(Webhook {
        id,
        url: record.url,
        topics: if record.all { Topics::All } else { Topics::Only(topics) },
        secret: Secret(record.secret),
        enabled: record.enabled,
        created_at: Timestamp::from_millis(record.created_at),
    })
}

impl PlaceRecord {
    /// As stored.
    pub fn seal(&self, key: &[u8]) -> IVec {
        codec::seal(key, &self.encode_to_vec())
    }

    /// From the store.
    pub fn read(key: &[u8], record: &[u8]) -> Result<Self, Bad> {
        decode_place(codec::unseal_inline(key, record)?)
    }
}

/// From a record's payload.
pub fn decode_place(payload: &[u8]) -> Result<PlaceRecord, Bad> {
    PlaceRecord::decode(payload).map_err(|_| Bad::Content)
}

impl From<PlaceRecord> for Place {
    fn from(record: PlaceRecord) -> Self {
        Self {
            cursor: Cursor(record.cursor),
            missed: record.missed,
            succeeded_at: record.succeeded_at.map(Timestamp::from_millis),
            failed_at: record.failed_at.map(Timestamp::from_millis),
            ..Self::default()
        }
    }
}

/// As stored.
pub fn seal_notice(key: &[u8], row: Unsettled) -> IVec {
    let record = NoticeRecord {
        attempts: row.attempts,
        since: row.since.as_millis(),
        at: row.at.as_millis(),
        reason: cut(row.reason, MAX_REASON),
    };
    codec::seal(key, &record.encode_to_vec())
}

/// From the store.
pub fn read_notice(key: &[u8], record: &[u8]) -> Result<Unsettled, Bad> {
    decode_notice(key, codec::unseal_inline(key, record)?)
}

/// From a record's payload.
pub fn decode_notice(key: &[u8], payload: &[u8]) -> Result<Unsettled, Bad> {
    let record = NoticeRecord::decode(payload).map_err(|_| Bad::Content)?;
    let place = key.get(WebhookId::LENGTH + 1..).and_then(|place| place.split_at_checked(8)).ok_or(Bad::Content)?;
    let cursor = super::trees::number(place.0).map(Cursor).ok_or(Bad::Content)?;
    let topic = place.1.first().and_then(|code| Topic::from_code(*code)).ok_or(Bad::Content)?;
    Ok(Unsettled {
        notice: Notice { cursor, topic },
        attempts: record.attempts,
        since: Timestamp::from_millis(record.since),
        at: Timestamp::from_millis(record.at),
        reason: record.reason,
    })
}

/// As stored.
pub fn seal_delivery(key: &[u8], delivery: Delivery) -> IVec {
    let record = DeliveryRecord {
        at: delivery.at.as_millis(),
        event_id: delivery.event_id,
        event: delivery.event,
        attempt: delivery.attempt,
        millis: delivery.millis,
        status: delivery.status.map(u32::from),
        error: delivery.error.map(|error| cut(error, MAX_REASON)),
    };
    codec::seal(key, &record.encode_to_vec())
}

/// From the store.
pub fn read_delivery(key: &[u8], record: &[u8]) -> Result<Delivery, Bad> {
    decode_delivery(codec::unseal_inline(key, record)?)
}

/// From a record's payload.
pub fn decode_delivery(payload: &[u8]) -> Result<Delivery, Bad> {
    let record = DeliveryRecord::decode(payload).map_err(|_| Bad::Content)?;
    Ok(Delivery {
        at: Timestamp::from_millis(record.at),
        event_id: record.event_id,
        event: record.event,
        attempt: record.attempt,
        millis: record.millis,
        status: record.status.and_then(|status| u16::try_from(status).ok()),
        error: record.error,
    })
}
