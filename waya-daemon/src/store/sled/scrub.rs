//! Looks at every record and every long text once, behind the running store, and sets aside what cannot be read.

use super::bodies::BodyHash;
use super::chats;
use super::codec::{self, Bad, Payload};
use super::contacts;
use super::events;
use super::records::{IdempotencyRecord, MessageRecord, RosterRecord};
use super::shared::Shared;
use super::snapshot::chunk;
use super::trees::{Tree, message_id, number};
use super::webhook_records;
use crate::model::Cursor;
use crate::store::StoreError;

/// What a scrub found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Scrubbed {
    /// Records looked at.
    pub records: u64,
    /// Of these, set aside.
    pub damaged: u64,
    /// Files of texts that nothing named, removed.
    pub unnamed: u64,
}

/// Looks at everything. `pause` is called now and then; `false` stops.
pub fn run(shared: &Shared, pause: &mut dyn FnMut() -> bool) -> Result<Scrubbed, StoreError> {
    let mut scrubbed = Scrubbed::default();
    for tree in Tree::RECORDS {
        let mut from = Vec::new();
        while let Some(rows) = chunk(shared, tree, &mut from)? {
            for (key, record) in rows {
                scrubbed.records += 1;
                match whole(shared, tree, &key, &record) {
                    Ok(()) => {}
                    Err(StoreError::Damaged(_)) => scrubbed.damaged += 1,
                    Err(error) => return Err(error),
                }
            }
            if !pause() {
                return Ok(scrubbed);
            }
        }
    }
    scrubbed.unnamed = unnamed_bodies(shared)?;
    Ok(scrubbed)
}

/// Whether a record can be read, with the text it names.
fn whole(shared: &Shared, tree: Tree, key: &[u8], record: &[u8]) -> Result<(), StoreError> {
    let payload = shared.payload(tree, key, record)?;
    let body = readable(tree, key, &payload).map_err(|bad| shared.set_aside(tree, key, record, &bad))?;
    match body {
        Some(hash) => shared.body(hash, tree, key, record).map(drop),
        None => Ok(()),
    }
}

/// Whether a payload makes sense, and the body file it names.
fn readable(tree: Tree, key: &[u8], payload: &[u8]) -> Result<Option<BodyHash>, Bad> {
    match tree {
        Tree::Messages => {
            let record = MessageRecord::read(payload)?;
            let body = record.body()?;
            record.into_model(message_id(key).ok_or(Bad::Content)?)?;
            return Ok(body);
        }
        Tree::Events => drop(events::decode(Cursor(number(key).ok_or(Bad::Content)?), payload)?),
        Tree::Idempotency => drop(IdempotencyRecord::read(payload)?),
        Tree::Rosters => drop(RosterRecord::read(payload)?),
        Tree::Contacts => drop(contacts::decode(payload)?),
        Tree::Chats => drop(chats::decode(payload)?),
        Tree::Webhooks => drop(webhook_records::decode_webhook(key, payload)?),
        Tree::WebhookPlaces => {
            webhook_records::decode_place(payload)?;
        }
        Tree::Notices => drop(webhook_records::decode_notice(key, payload)?),
        Tree::Deliveries => drop(webhook_records::decode_delivery(payload)?),
        _ => {}
    }
    Ok(None)
}

/// Whether a record can be trusted as far as it goes, whatever became of a text it names.
pub fn sound(tree: Tree, key: &[u8], record: &[u8]) -> bool {
    match codec::unseal(key, record) {
        Ok(Payload::Inline(payload)) => readable(tree, key, payload).is_ok(),
        Ok(Payload::Body(_)) => true,
        Err(_) => false,
    }
}

/// What a crash left between writing a text's file and the record that was to name it.
fn unnamed_bodies(shared: &Shared) -> Result<u64, StoreError> {
    let listed = shared.bodies.list().map_err(|error| StoreError::Unavailable(error.to_string()))?;
    let mut removed = 0;
    for hash in listed {
        let named = || shared.read(|engine| Ok(engine.tree(Tree::Bodies).contains_key(hash.0)?));
        if !named()? && shared.bodies.forget_unless(hash, || named().unwrap_or(true)) {
            removed += 1;
        }
    }
    Ok(removed)
}
