//! Builds the indexes again from the records, and counts anew.

use std::collections::HashMap;

use sled::IVec;

use super::bodies::BodyHash;
use super::codec::{self, Payload};
use super::contacts;
use super::counters::Counters;
use super::engine::{Broken, Engine, Write};
use super::events;
use super::outbox::whatsapp_key;
use super::rows::Stored;
use super::trees::{COUNTERS_KEY, Tree, incoming_key, message_id, number, number_key, reference_key, seen_keys};
use crate::model::{Cursor, EventBody};

/// Rows of one transaction.
const CHUNK: usize = 5_000;

/// Writes in transactions of a bearable size.
struct Chunks<'e> {
    engine: &'e Engine,
    writes: Vec<Write>,
}

impl Chunks<'_> {
    fn push(&mut self, tree: Tree, key: IVec, value: Option<IVec>) -> Result<(), Broken> {
        self.writes.push((tree, key, value));
        if self.writes.len() >= CHUNK { self.flush() } else { Ok(()) }
    }

    fn flush(&mut self) -> Result<(), Broken> {
        if self.writes.is_empty() {
            return Ok(());
        }
        self.engine.commit(&self.writes)?;
        self.writes.clear();
        Ok(())
    }
}

/// Empties the indexes and fills them from the records; `counters` become those of what is there. Run again after a
/// crash in the middle: until the counters are written, last of all, they disagree.
pub fn indexes(engine: &Engine, counters: &mut Counters) -> Result<(), Broken> {
    let mut chunks = Chunks { engine, writes: Vec::new() };
    for tree in Tree::INDEXES {
        for key in engine.tree(tree).iter().keys() {
            chunks.push(tree, key?, None)?;
        }
    }
    chunks.flush()?;
    let mut named = HashMap::new();
    counters.statuses = crate::store::Counts::default();
    messages(engine, counters, &mut chunks, &mut named)?;
    journal(engine, counters, &mut chunks, &mut named)?;
    people(engine, counters, &mut chunks)?;
    for tree in [Tree::Idempotency, Tree::Values] {
        for row in engine.tree(tree) {
            let (key, record) = row?;
            name_payload(&key, &record, &mut named);
        }
    }
    for (hash, times) in named {
        chunks.push(Tree::Bodies, IVec::from(&hash.0), Some(number_key(times)))?;
    }
    chunks.flush()?;
    for tree in Tree::RECORDS.into_iter().chain(Tree::INDEXES) {
        *counters.rows_of(tree) = engine.tree(tree).len() as u64;
    }
    counters.commits += 1;
    chunks.push(Tree::Meta, IVec::from(COUNTERS_KEY), Some(counters.encode()))?;
    chunks.flush()
}

type Named = HashMap<BodyHash, u64>;

fn name_payload(key: &[u8], record: &[u8], named: &mut Named) {
    if let Ok(Payload::Body(hash)) = codec::unseal(key, record) {
        *named.entry(hash).or_default() += 1;
    }
}

fn messages(
    engine: &Engine,
    counters: &mut Counters,
    chunks: &mut Chunks<'_>,
    named: &mut Named,
) -> Result<(), Broken> {
    for row in engine.tree(Tree::Messages) {
        let (key, record) = row?;
        // One that cannot be read is found by the scrub, which sets it aside.
        let Some(Ok(Stored { message, body })) = message_id(&key).map(|id| Stored::read(id, &record)) else { continue };
        *counters.status_of(message.status) += 1;
        counters.last_id = counters.last_id.max(Some(message.id));
        if !message.status.is_finished() {
            chunks.push(Tree::Open, key.clone(), Some(IVec::default()))?;
        }
        if let Some(reference) = &message.reference_id {
            chunks.push(Tree::References, reference_key(reference, message.id), Some(IVec::default()))?;
        }
        // Whether it was claimed before it was put back cannot be known; one too many does no harm.
        let index = IVec::from(whatsapp_key(&message.whatsapp_id));
        chunks.push(Tree::WhatsApp, index, Some(key))?;
        if let Some(hash) = body {
            *named.entry(hash).or_default() += 1;
        }
    }
    Ok(())
}

fn journal(engine: &Engine, counters: &mut Counters, chunks: &mut Chunks<'_>, named: &mut Named) -> Result<(), Broken> {
    for row in engine.tree(Tree::Events) {
        let (key, record) = row?;
        name_payload(&key, &record, named);
        let Some(cursor) = number(&key).map(Cursor) else { continue };
        counters.newest = counters.newest.max(cursor);
        let Ok(Payload::Inline(payload)) = codec::unseal(&key, &record) else { continue };
        if let Ok(EventBody::Message(incoming)) = events::decode(cursor, payload).map(|event| event.body) {
            for seen in seen_keys(&incoming) {
                chunks.push(Tree::Seen, seen, Some(key.clone()))?;
            }
            chunks.push(Tree::IncomingIds, incoming_key(&incoming.id, &key), Some(IVec::default()))?;
        }
    }
    Ok(())
}

fn people(engine: &Engine, counters: &mut Counters, chunks: &mut Chunks<'_>) -> Result<(), Broken> {
    for row in engine.tree(Tree::Contacts) {
        let (key, record) = row?;
        counters.last_contact = counters.last_contact.max(number(&key).unwrap_or_default());
        let Ok(contact) = contacts::read(&key, &record) else { continue };
        for (index, digits) in [(Tree::ContactPhones, contact.phone), (Tree::ContactLids, contact.lid)] {
            if let Some(digits) = digits {
                chunks.push(index, IVec::from(digits.as_bytes()), Some(key.clone()))?;
            }
        }
    }
    Ok(())
}
