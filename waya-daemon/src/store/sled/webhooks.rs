//! Webhooks. Four trees, whose keys begin with the webhook's id (of one length, so that none is the beginning of
//! another): the rows themselves, their places in the journal, what is not told yet, and the newest deliveries.

use std::collections::BTreeMap;

use async_trait::async_trait;
use sled::IVec;

use super::codec::Bad;
use super::engine::Engine;
use super::group::Group;
use super::rows::Rows;
use super::shared::{ReadError, Shared};
use super::trees::Tree;
use super::webhook_records::{self as records, PlaceRecord, State};
use crate::model::{Notice, Timestamp, Webhook, WebhookId};
use crate::store::StoreError;
use crate::store::webhooks::{
    Delivery, KEPT_DELIVERIES, KEPT_PARKED, MAX_WEBHOOKS, NoticeFilter, Place, Settled, Settlement, StandingWebhook,
    Unsettled, Webhooks,
};

/// Rows of one transaction, where a webhook's are many.
const CHUNK: usize = 1_000;

#[async_trait]
impl Webhooks for Rows {
    async fn all(&self) -> Result<Vec<StandingWebhook>, StoreError> {
        self.0.read_many(all).await
    }

    async fn add(&self, webhook: Webhook) -> Result<bool, StoreError> {
        let work = move |group: &mut Group<'_>| {
            if group.counters.rows[Tree::Webhooks as usize] >= MAX_WEBHOOKS as u64 {
                return Ok(false);
            }
            let key = records::webhook_key(&webhook.id);
            let place = PlaceRecord { cursor: group.counters.newest.0, ..PlaceRecord::default() };
            group.insert(Tree::WebhookPlaces, key.clone(), place.seal(&key))?;
            group.insert(Tree::Webhooks, key.clone(), records::seal_webhook(&key, &webhook))?;
            Ok(true)
        };
        self.0.commit(work).await
    }

    async fn change(&self, webhook: Webhook, from_now: bool) -> Result<bool, StoreError> {
        let work = move |group: &mut Group<'_>| {
            let key = records::webhook_key(&webhook.id);
            if group.get(Tree::Webhooks, &key)?.is_none() {
                return Ok(false);
            }
            if from_now {
                let newest = group.counters.newest;
                update_place(group, &key, |place| place.cursor = newest.0)?;
            }
            group.update(Tree::Webhooks, key.clone(), records::seal_webhook(&key, &webhook))?;
            Ok(true)
        };
        self.0.commit(work).await
    }

    async fn remove(&self, id: &WebhookId) -> Result<bool, StoreError> {
        let key = records::webhook_key(id);
        // The webhook itself goes last, so that a crash leaves nothing that belongs to none.
        for tree in [Tree::Notices, Tree::Deliveries] {
            while self.remove_some(tree, key.clone()).await? > 0 {}
        }
        let work = move |group: &mut Group<'_>| {
            let there = take(group, Tree::Webhooks, &key)?;
            take(group, Tree::WebhookPlaces, &key)?;
            Ok(there)
        };
        self.0.commit(work).await
    }

    async fn settle(&self, id: &WebhookId, settled: Settled) -> Result<bool, StoreError> {
        let key = records::webhook_key(id);
        let parks = settled.notices.iter().any(|settlement| matches!(settlement, Settlement::Parked(_)));
        let there = {
            let key = key.clone();
            self.0.commit(move |group| settle(group, &key, settled)).await?
        };
        if there && parks {
            self.drop_oldest_parked(key).await?;
        }
        Ok(there)
    }

    async fn notices(&self, id: &WebhookId, filter: NoticeFilter) -> Result<Vec<Unsettled>, StoreError> {
        let key = records::webhook_key(id);
        self.0.read_many(move |shared, engine| notices(shared, engine, &key, filter)).await
    }

    async fn unpark(&self, id: &WebhookId, notice: Option<Notice>, now: Timestamp) -> Result<u64, StoreError> {
        let key = records::webhook_key(id);
        if let Some(notice) = notice {
            return self.0.commit(move |group| unpark(group, &key, &[notice], now)).await;
        }
        let mut count = 0;
        loop {
            let filter = NoticeFilter { parked: true, after: None, limit: CHUNK };
            let parked = self.notices(id, filter).await?;
            let found: Vec<Notice> = parked.into_iter().map(|row| row.notice).collect();
            let key = key.clone();
            let moved = self.0.commit(move |group| unpark(group, &key, &found, now)).await?;
            count += moved;
            if moved == 0 {
                return Ok(count);
            }
        }
    }

    async fn deliveries(&self, id: &WebhookId, limit: usize) -> Result<Vec<Delivery>, StoreError> {
        let prefix = records::webhook_key(id);
        let read = move |shared: &Shared, engine: &Engine| {
            let mut found = Vec::new();
            for row in engine.tree(Tree::Deliveries).scan_prefix(&prefix).rev().take(limit) {
                let (key, record) = row?;
                found.extend(readable(shared, Tree::Deliveries, &key, &record, records::read_delivery)?);
            }
            Ok(found)
        };
        self.0.read_many(read).await
    }
}

impl Rows {
    /// Removes some of the rows that begin with the key; how many.
    async fn remove_some(&self, tree: Tree, prefix: IVec) -> Result<usize, StoreError> {
        let find = move |_: &Shared, engine: &Engine| {
            let keys = engine.tree(tree).scan_prefix(&prefix).keys().take(CHUNK).collect::<Result<Vec<_>, _>>();
            Ok(keys?)
        };
        let keys = self.0.read_many(find).await?;
        if keys.is_empty() {
            return Ok(0);
        }
        let work = move |group: &mut Group<'_>| {
            let mut removed = 0;
            for key in keys {
                removed += usize::from(take(group, tree, &key)?);
            }
            Ok(removed)
        };
        self.0.commit(work).await
    }

    /// Keeps the newest of what is parked.
    async fn drop_oldest_parked(&self, key: IVec) -> Result<(), StoreError> {
        let find = {
            let prefix = records::state_prefix(&key, State::Parked);
            move |_: &Shared, engine: &Engine| {
                let parked = || engine.tree(Tree::Notices).scan_prefix(&prefix).keys();
                let beyond = parked().count().saturating_sub(KEPT_PARKED as usize);
                Ok(parked().take(beyond).collect::<Result<Vec<_>, _>>()?)
            }
        };
        let keys = self.0.read_many(find).await?;
        if keys.is_empty() {
            return Ok(());
        }
        let work = move |group: &mut Group<'_>| {
            let mut missed = 0;
            for parked in keys {
                missed += u64::from(take(group, Tree::Notices, &parked)?);
            }
            update_place(group, &key, |place| place.missed += missed)
        };
        self.0.commit(work).await
    }
}

/// What a row says; one that cannot be read is set aside, reported and counted, and the list goes on.
fn readable<T>(
    shared: &Shared,
    tree: Tree,
    key: &[u8],
    record: &[u8],
    read: impl FnOnce(&[u8], &[u8]) -> Result<T, Bad>,
) -> Result<Option<T>, ReadError> {
    match read(key, record) {
        Ok(read) => Ok(Some(read)),
        Err(bad) => match shared.set_aside(tree, key, record, &bad) {
            StoreError::Damaged(_) => Ok(None),
            error => Err(error.into()),
        },
    }
}

fn all(shared: &Shared, engine: &Engine) -> Result<Vec<StandingWebhook>, ReadError> {
    let mut found = BTreeMap::new();
    for row in engine.tree(Tree::Webhooks).iter() {
        let (key, record) = row?;
        let Some(webhook) = readable(shared, Tree::Webhooks, &key, &record, records::read_webhook)? else { continue };
        let place = place(shared, engine, &key)?;
        found.insert((webhook.created_at, webhook.id.clone()), StandingWebhook { webhook, place });
    }
    Ok(found.into_values().collect())
}

fn place(shared: &Shared, engine: &Engine, key: &IVec) -> Result<Place, ReadError> {
    let record = match engine.tree(Tree::WebhookPlaces).get(key)? {
        Some(record) => readable(shared, Tree::WebhookPlaces, key, &record, PlaceRecord::read)?,
        None => None,
    };
    let count = |state: State| -> Result<u64, sled::Error> {
        let rows = engine.tree(Tree::Notices).scan_prefix(records::state_prefix(key, state));
        rows.keys().try_fold(0, |count, key| key.map(|_| count + 1))
    };
    // Of a place that cannot be read only the present is known: what is newest now.
    let newest = *shared.newest.borrow();
    let place = record.unwrap_or_else(|| PlaceRecord { cursor: newest.0, ..PlaceRecord::default() });
    Ok(Place { waiting: count(State::Waits)?, parked: count(State::Parked)?, ..place.into() })
}

fn notices(shared: &Shared, engine: &Engine, key: &IVec, filter: NoticeFilter) -> Result<Vec<Unsettled>, ReadError> {
    let state = if filter.parked { State::Parked } else { State::Waits };
    let prefix = records::state_prefix(key, state);
    let mut from =
        filter.after.map_or_else(|| prefix.to_vec(), |notice| records::notice_key(key, state, notice).to_vec());
    if filter.after.is_some() {
        // The least key behind it.
        from.push(0);
    }
    let mut found = Vec::new();
    for row in engine.tree(Tree::Notices).range(from..) {
        let (key, record) = row?;
        if found.len() >= filter.limit || !key.starts_with(&prefix) {
            break;
        }
        found.extend(readable(shared, Tree::Notices, &key, &record, records::read_notice)?);
    }
    Ok(found)
}

/// In the committer: removes a row, if it is there.
fn take(group: &mut Group<'_>, tree: Tree, key: &IVec) -> Result<bool, StoreError> {
    let there = group.get(tree, key)?.is_some();
    if there {
        group.remove(tree, key.clone());
    }
    Ok(there)
}

/// In the committer.
fn put(group: &mut Group<'_>, tree: Tree, key: IVec, record: IVec) -> Result<(), StoreError> {
    match group.get(tree, &key)? {
        Some(_) => group.update(tree, key, record),
        None => group.insert(tree, key, record),
    }
}

/// In the committer. A place that cannot be read begins anew at the newest event.
fn update_place(group: &mut Group<'_>, key: &IVec, change: impl FnOnce(&mut PlaceRecord)) -> Result<(), StoreError> {
    let newest = group.counters.newest;
    let record = group.get(Tree::WebhookPlaces, key)?;
    let read = record.and_then(|record| PlaceRecord::read(key, &record).ok());
    let mut place = read.unwrap_or_else(|| PlaceRecord { cursor: newest.0, ..PlaceRecord::default() });
    change(&mut place);
    put(group, Tree::WebhookPlaces, key.clone(), place.seal(key))
}

/// In the committer.
fn settle(group: &mut Group<'_>, key: &IVec, settled: Settled) -> Result<bool, StoreError> {
    if group.get(Tree::Webhooks, key)?.is_none() {
        return Ok(false);
    }
    for settlement in settled.notices {
        let places = [State::Waits, State::Parked].map(|state| records::notice_key(key, state, settlement.notice()));
        let [waits, parked] = places;
        match settlement {
            Settlement::Done(_) => drop((take(group, Tree::Notices, &waits)?, take(group, Tree::Notices, &parked)?)),
            Settlement::Waits(row) => {
                take(group, Tree::Notices, &parked)?;
                let record = records::seal_notice(&waits, row);
                put(group, Tree::Notices, waits, record)?;
            }
            Settlement::Parked(row) => {
                take(group, Tree::Notices, &waits)?;
                let record = records::seal_notice(&parked, row);
                put(group, Tree::Notices, parked, record)?;
            }
        }
    }
    let mut first = 0;
    let attempts = settled.deliveries.len() as u64;
    update_place(group, key, |place| {
        place.cursor = settled.cursor.map_or(place.cursor, |cursor| place.cursor.max(cursor.0));
        place.missed += settled.missed;
        for delivery in &settled.deliveries {
            let at = if delivery.error.is_none() { &mut place.succeeded_at } else { &mut place.failed_at };
            *at = Some(delivery.at.as_millis());
        }
        first = place.deliveries + 1;
        place.deliveries += attempts;
    })?;
    for (number, delivery) in (first..).zip(settled.deliveries) {
        let row = records::delivery_key(key, number);
        let record = records::seal_delivery(&row, delivery);
        put(group, Tree::Deliveries, row, record)?;
        if let Some(old) = number.checked_sub(KEPT_DELIVERIES) {
            take(group, Tree::Deliveries, &records::delivery_key(key, old))?;
        }
    }
    Ok(true)
}

/// In the committer.
fn unpark(group: &mut Group<'_>, key: &IVec, notices: &[Notice], now: Timestamp) -> Result<u64, StoreError> {
    let mut moved = 0;
    for notice in notices {
        let parked = records::notice_key(key, State::Parked, *notice);
        let Some(record) = group.get(Tree::Notices, &parked)? else { continue };
        group.remove(Tree::Notices, parked.clone());
        let Ok(row) = records::read_notice(&parked, &record) else { continue };
        let waits = records::notice_key(key, State::Waits, *notice);
        let record = records::seal_notice(&waits, Unsettled { attempts: 0, since: now, at: now, ..row });
        put(group, Tree::Notices, waits, record)?;
        moved += 1;
    }
    Ok(moved)
}
