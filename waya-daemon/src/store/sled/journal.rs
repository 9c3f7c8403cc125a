//! The journal of incoming messages, status changes and link states.

use async_trait::async_trait;
use sled::IVec;
use tokio::sync::watch;

use super::codec::MAX_PAYLOAD;
use super::contacts;
use super::engine::Engine;
use super::events::{self, Payload};
use super::group::Group;
use super::prune;
use super::rows::Rows;
use super::shared::{ReadError, Shared};
use super::trees::{Tree, event_key, incoming_key, incoming_prefix, number, number_key, seen_keys};
use crate::model::{Cursor, EventBody, Incoming, Timestamp};
use crate::store::{Contact, Journal, Keep, Page, StoreError};

#[async_trait]
impl Journal for Rows {
    async fn record_incoming(&self, batch: Vec<Incoming>) -> Result<Vec<bool>, StoreError> {
        let mut seen = Vec::with_capacity(batch.len());
        let mut payloads = Vec::with_capacity(batch.len());
        let writers: Vec<Contact> = batch.iter().filter_map(Contact::of_writer).collect();
        for incoming in batch {
            seen.push((seen_keys(&incoming), incoming.id.clone()));
            let at = incoming.received_at;
            payloads.push(events::encode(&EventBody::Message(Box::new(incoming)), at)?);
        }
        let payloads = self.payloads(payloads).await?;
        let work = move |group: &mut Group<'_>| {
            let mut new = Vec::with_capacity(seen.len());
            for ((seen, id), payload) in seen.into_iter().zip(payloads) {
                let fresh = !is_seen(group, &seen)?;
                if fresh {
                    let cursor = events::append_payload(group, payload)?;
                    for key in seen {
                        group.insert(Tree::Seen, key, number_key(cursor.0))?;
                    }
                    group.insert(Tree::IncomingIds, incoming_key(&id, &event_key(cursor)), IVec::default())?;
                }
                new.push(fresh);
            }
            for writer in writers {
                contacts::learn(group, writer)?;
            }
            Ok(new)
        };
        self.0.commit(work).await
    }

    async fn append(&self, body: EventBody, at: Timestamp) -> Result<Cursor, StoreError> {
        let payload = self.payloads(vec![events::encode(&body, at)?]).await?.pop();
        let payload = payload.ok_or_else(|| self.0.unavailable())?;
        self.0.commit(move |group| events::append_payload(group, payload)).await
    }

    async fn after(&self, cursor: Cursor, limit: usize) -> Result<Page, StoreError> {
        if cursor >= *self.0.newest.borrow() {
            return Ok(Page { events: Vec::new(), next: cursor });
        }
        self.0.read_many(move |shared, engine| page(shared, engine, cursor, limit)).await
    }

    async fn incoming(&self, id: &str) -> Result<Option<Incoming>, StoreError> {
        let id = id.to_owned();
        self.0.read_many(move |shared, engine| incoming(shared, engine, &id)).await
    }

    fn newest(&self) -> watch::Receiver<Cursor> {
        self.0.newest.subscribe()
    }

    async fn prune_events(&self, keep: Keep, now: Timestamp) -> Result<usize, StoreError> {
        prune::events(&self.0, keep, now).await
    }
}

impl Rows {
    /// Puts what is too long for a record into body files.
    async fn payloads(&self, encoded: Vec<Vec<u8>>) -> Result<Vec<Payload>, StoreError> {
        let long: Vec<Vec<u8>> = encoded.iter().filter(|payload| payload.len() > MAX_PAYLOAD).cloned().collect();
        let mut pins = self.0.store_bodies(long).await?.into_iter();
        let payload = |payload: Vec<u8>| {
            if payload.len() > MAX_PAYLOAD { pins.next().map(Payload::Body) } else { Some(Payload::Inline(payload)) }
        };
        let payloads: Option<Vec<Payload>> = encoded.into_iter().map(payload).collect();
        payloads.ok_or_else(|| self.0.unavailable())
    }
}

/// Whether a message of these keys is in the journal.
fn is_seen(group: &mut Group<'_>, keys: &[IVec]) -> Result<bool, StoreError> {
    for key in keys {
        if group.get(Tree::Seen, key)?.is_some() {
            return Ok(true);
        }
    }
    Ok(false)
}

/// The newest one with this id.
fn incoming(shared: &Shared, engine: &Engine, id: &str) -> Result<Option<Incoming>, ReadError> {
    for row in engine.tree(Tree::IncomingIds).scan_prefix(incoming_prefix(id)).keys().rev() {
        let key = IVec::from(&row?[16..]);
        let Some(record) = engine.tree(Tree::Events).get(&key)? else { continue };
        let cursor = number(&key).map(Cursor).unwrap_or_default();
        let read = shared.payload(Tree::Events, &key, &record).and_then(|payload| {
            events::decode(cursor, &payload).map_err(|bad| shared.set_aside(Tree::Events, &key, &record, &bad))
        });
        match read.map(|event| event.body) {
            Ok(EventBody::Message(incoming)) if incoming.id == id => return Ok(Some(*incoming)),
            Ok(_) | Err(StoreError::Damaged(_)) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(None)
}

fn page(shared: &Shared, engine: &Engine, cursor: Cursor, limit: usize) -> Result<Page, ReadError> {
    // What is not fsynced yet may still go, and its cursor with it.
    let newest = *shared.newest.borrow();
    let mut page = Page { events: Vec::new(), next: cursor };
    if cursor >= newest {
        return Ok(page);
    }
    let range = event_key(Cursor(cursor.0 + 1))..=event_key(newest);
    for row in engine.tree(Tree::Events).range(range).take(limit) {
        let (key, record) = row?;
        page.next = number(&key).map_or(page.next, Cursor);
        let read = shared.payload(Tree::Events, &key, &record).and_then(|payload| {
            events::decode(page.next, &payload).map_err(|bad| shared.set_aside(Tree::Events, &key, &record, &bad))
        });
        match read {
            Ok(event) => page.events.push(event),
            Err(StoreError::Damaged(_)) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(page)
}
