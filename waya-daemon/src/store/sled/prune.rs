//! What goes: by retention what is old and not among the newest, a bounded number a call; and what somebody names.

use std::sync::{Arc, PoisonError};

use sled::IVec;

use super::engine::Engine;
use super::events;
use super::group::Group;
use super::records::IdempotencyRecord;
use super::rows::Stored;
use super::shared::{ReadError, Shared};
use super::trees::{Tree, incoming_key, message_id, message_key, number, reference_key, seen_keys};
use crate::model::{Cursor, EventBody, MessageId, Status, Timestamp};
use crate::store::{Keep, StoreError};

/// The most rows one call removes of each kind.
const MAX_REMOVED: usize = 1_000;
/// The most requests one call looks at.
const MAX_LOOKED_AT: usize = 10_000;

/// Removes finished messages and forgotten requests.
pub async fn messages(shared: &Arc<Shared>, keep: Keep, now: Timestamp) -> Result<usize, StoreError> {
    let find = move |shared: &Shared, engine: &Engine| {
        Ok((old_messages(shared, engine, keep, now)?, forgotten_requests(shared, engine, now)?))
    };
    let (messages, requests) = shared.read_many(find).await?;
    if messages.is_empty() && requests.is_empty() {
        return Ok(0);
    }
    let work = move |group: &mut Group<'_>| {
        let mut removed = 0;
        for key in messages {
            removed += usize::from(remove_message(group, key, |_| true)?);
        }
        for (key, record) in requests {
            if group.get(Tree::Idempotency, &key)?.as_ref() == Some(&record) {
                group.unname_payload(&key, &record)?;
                group.remove(Tree::Idempotency, key);
                removed += 1;
            }
        }
        Ok(removed)
    };
    shared.commit(work).await
}

/// Removes those of these messages that are finished with this status.
pub async fn named(shared: &Arc<Shared>, ids: Vec<MessageId>, status: Status) -> Result<usize, StoreError> {
    let work = move |group: &mut Group<'_>| {
        let mut removed = 0;
        for id in ids {
            removed += usize::from(remove_message(group, message_key(id), |found| found == status)?);
        }
        Ok(removed)
    };
    shared.commit(work).await
}

/// Removes old events.
pub async fn events(shared: &Arc<Shared>, keep: Keep, now: Timestamp) -> Result<usize, StoreError> {
    let found = shared.read_many(move |shared, engine| old_events(shared, engine, keep, now)).await?;
    if found.is_empty() {
        return Ok(0);
    }
    let work = move |group: &mut Group<'_>| {
        let mut removed = 0;
        for (key, id, seen) in found {
            let Some(record) = group.get(Tree::Events, &key)? else { continue };
            group.unname_payload(&key, &record)?;
            if let Some(id) = id
                && group.get(Tree::IncomingIds, &id)?.is_some()
            {
                group.remove(Tree::IncomingIds, id);
            }
            // The same message may have come again after its event went; then the index is another event's.
            for seen in seen {
                if group.get(Tree::Seen, &seen)?.as_ref() == Some(&key) {
                    group.remove(Tree::Seen, seen);
                }
            }
            group.remove(Tree::Events, key);
            removed += 1;
        }
        Ok(removed)
    };
    shared.commit(work).await
}

/// How many of the oldest of `count` are not among the newest that are kept.
fn beyond(count: u64, keep: Keep) -> usize {
    usize::try_from(count).unwrap_or(usize::MAX).saturating_sub(keep.newest)
}

/// Looks past any number of old messages that are open still.
fn old_messages(shared: &Shared, engine: &Engine, keep: Keep, now: Timestamp) -> Result<Vec<IVec>, ReadError> {
    let beyond_newest = beyond(shared.counters().finished(), keep);
    let cutoff = now.minus(keep.age);
    let mut found = Vec::new();
    let mut finished = 0;
    for row in engine.tree(Tree::Messages).iter() {
        if finished == beyond_newest || found.len() == MAX_REMOVED {
            break;
        }
        let (key, record) = row?;
        let Some(Ok(Stored { message, .. })) = message_id(&key).map(|id| Stored::read(id, &record)) else { continue };
        if message.created_at >= cutoff {
            // Those after it are younger still.
            break;
        }
        if message.status.is_finished() {
            finished += 1;
            if message.finished_at.is_none_or(|at| at < cutoff) {
                found.push(key);
            }
        }
    }
    Ok(found)
}

/// Only what is finished, and with a status that is meant.
fn remove_message(group: &mut Group<'_>, key: IVec, meant: impl Fn(Status) -> bool) -> Result<bool, StoreError> {
    let Some(record) = group.get(Tree::Messages, &key)? else { return Ok(false) };
    let Some(Ok(Stored { message, body })) = message_id(&key).map(|id| Stored::read(id, &record)) else {
        return Ok(false);
    };
    if !message.status.is_finished() || !meant(message.status) {
        return Ok(false);
    }
    if let Some(reference) = &message.reference_id {
        group.remove(Tree::References, reference_key(reference, message.id));
    }
    let whatsapp = super::outbox::whatsapp_key(&message.whatsapp_id);
    if group.get(Tree::WhatsApp, whatsapp)?.as_ref() == Some(&key) {
        group.remove(Tree::WhatsApp, IVec::from(whatsapp));
    }
    if let Some(hash) = body {
        group.unname_body(hash)?;
    }
    if group.get(Tree::Rosters, &key)?.is_some() {
        group.remove(Tree::Rosters, key.clone());
    }
    let count = group.counters.status_of(message.status);
    *count = count.saturating_sub(1);
    group.remove(Tree::Messages, key);
    Ok(true)
}

/// Goes round: each call goes on where the one before stopped.
fn forgotten_requests(shared: &Shared, engine: &Engine, now: Timestamp) -> Result<Vec<(IVec, IVec)>, ReadError> {
    let from = shared.forgotten_from.lock().unwrap_or_else(PoisonError::into_inner).clone();
    let mut found = Vec::new();
    let mut stopped = Vec::new();
    for (looked_at, row) in engine.tree(Tree::Idempotency).range(from..).enumerate() {
        let (key, record) = row?;
        if looked_at == MAX_LOOKED_AT || found.len() == MAX_REMOVED {
            stopped = key.to_vec();
            break;
        }
        match shared.payload(Tree::Idempotency, &key, &record) {
            Ok(payload) => {
                let known = IdempotencyRecord::read(&payload);
                if known.is_ok_and(|known| known.until <= now.as_millis()) {
                    found.push((key, record));
                }
            }
            Err(StoreError::Damaged(_)) => {}
            Err(error) => return Err(error.into()),
        }
    }
    *shared.forgotten_from.lock().unwrap_or_else(PoisonError::into_inner) = stopped;
    Ok(found)
}

/// An event's key, and the index rows that go with it.
type OldEvent = (IVec, Option<IVec>, Vec<IVec>);

fn old_events(shared: &Shared, engine: &Engine, keep: Keep, now: Timestamp) -> Result<Vec<OldEvent>, ReadError> {
    let beyond_newest = beyond(*shared.counters().rows_of(Tree::Events), keep);
    let cutoff = now.minus(keep.age);
    let mut found = Vec::new();
    for row in engine.tree(Tree::Events).iter().take(beyond_newest.min(MAX_REMOVED)) {
        let (key, record) = row?;
        let event = shared.payload(Tree::Events, &key, &record).and_then(|payload| {
            let cursor = Cursor(number(&key).unwrap_or_default());
            events::decode(cursor, &payload).map_err(|bad| shared.set_aside(Tree::Events, &key, &record, &bad))
        });
        match event {
            Ok(event) if event.at >= cutoff => break,
            Ok(event) => {
                let (id, seen) = match &event.body {
                    EventBody::Message(incoming) => (Some(incoming_key(&incoming.id, &key)), seen_keys(incoming)),
                    EventBody::Status(_) | EventBody::Link(_) => (None, Vec::new()),
                };
                found.push((key, id, seen));
            }
            Err(StoreError::Damaged(_)) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(found)
}
