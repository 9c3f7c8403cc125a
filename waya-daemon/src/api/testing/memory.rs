//! The store of a test, in memory.

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

use async_trait::async_trait;
use tokio::sync::watch;

use crate::model::{
    Change, ChatId, Cursor, Event, EventBody, Incoming, ListedChat, Message, MessageId, Notice, Roster, Status,
    Timestamp, Webhook, WebhookId, WhatsAppId,
};
use crate::store::webhooks::{Delivery, NoticeFilter, Place, Settled, Settlement, StandingWebhook, Unsettled};
use crate::store::{
    AddressBook, Batch, Changed, ChatList, Contact, Counts, Enqueued, Idempotency, Journal, Keep, KeyValues, Known,
    ListFilter, OpenMessage, Outbox, Page, Store, StoreError, StoreHealth, Webhooks,
};

/// Rows in memory; refuses everything while `down`.
#[derive(Debug)]
pub struct Memory {
    rows: Mutex<Rows>,
    down: AtomicBool,
    newest: watch::Sender<Cursor>,
    health: watch::Sender<StoreHealth>,
}

#[derive(Debug, Default)]
struct Rows {
    messages: Vec<Message>,
    rosters: HashMap<MessageId, Roster>,
    idempotency: Vec<(Idempotency, Vec<Known>)>,
    events: Vec<Event>,
    contacts: Vec<Contact>,
    chats: Vec<ListedChat>,
    values: HashMap<(String, String), Vec<u8>>,
    webhooks: Vec<Hook>,
}

/// A webhook and all that belongs to it.
#[derive(Debug)]
struct Hook {
    webhook: Webhook,
    place: Place,
    waits: BTreeMap<Notice, Unsettled>,
    parked: BTreeMap<Notice, Unsettled>,
    deliveries: Vec<Delivery>,
}

impl Rows {
    fn known(&self, asked: &Idempotency) -> Option<Enqueued> {
        let (old, known) = self.idempotency.iter().find(|(old, _)| old.key == asked.key)?;
        Some(if old.body == asked.body { Enqueued::Repeat(known.clone()) } else { Enqueued::Conflict })
    }
}

impl Memory {
    fn rows(&self) -> Result<MutexGuard<'_, Rows>, StoreError> {
        if self.down.load(Ordering::Relaxed) {
            return Err(StoreError::Unavailable("disk on fire at /secret/path".to_owned()));
        }
        Ok(self.rows.lock().unwrap())
    }

    /// From now on nothing works, or all does again.
    pub fn set_down(&self, down: bool) {
        self.down.store(down, Ordering::Relaxed);
        let health = if down { StoreHealth::Down("disk on fire".to_owned()) } else { StoreHealth::Ready };
        self.health.send_replace(health);
    }

    /// Returns once somebody waits for events.
    pub async fn wait_for_reader(&self) {
        while self.newest.receiver_count() == 0 {
            tokio::task::yield_now().await;
        }
    }

    /// How many messages there are.
    pub fn count(&self) -> usize {
        self.rows.lock().unwrap().messages.len()
    }
}

#[async_trait]
impl Outbox for Memory {
    fn accepts(&self) -> Result<(), StoreError> {
        self.rows().map(drop)
    }

    async fn enqueue(&self, batch: Batch) -> Result<Enqueued, StoreError> {
        // As with the real one, others get their turn before the answer.
        tokio::task::yield_now().await;
        let mut rows = self.rows()?;
        if let Some(new) = batch.idempotency {
            if let Some(known) = rows.known(&new) {
                return Ok(known);
            }
            let placed = batch.messages.iter().zip(&new.positions);
            let known = placed.map(|(message, position)| Known::new(message, *position)).collect();
            rows.idempotency.push((new, known));
        }
        rows.messages.extend(batch.messages.into_iter().map(Message::from));
        Ok(Enqueued::Fresh)
    }

    async fn known(&self, asked: &Idempotency) -> Result<Option<Enqueued>, StoreError> {
        Ok(self.rows()?.known(asked))
    }

    async fn change(&self, id: MessageId, change: Change, now: Timestamp) -> Result<Changed, StoreError> {
        let mut rows = self.rows()?;
        let Some(message) = rows.messages.iter_mut().find(|message| message.id == id) else {
            return Ok(Changed::Unknown);
        };
        let changed = match message.apply(&change, now) {
            Ok(true) => Changed::Yes(Box::new(message.clone())),
            Ok(false) => Changed::Already(Box::new(message.clone())),
            Err(refusal) => Changed::Refused(refusal),
        };
        if let (Changed::Yes(_), Change::Addressed { members }) = (&changed, change) {
            rows.rosters.insert(id, members);
        }
        Ok(changed)
    }

    async fn roster(&self, id: MessageId) -> Result<Option<Roster>, StoreError> {
        Ok(self.rows()?.rosters.get(&id).cloned())
    }

    async fn open(&self) -> Result<Vec<OpenMessage>, StoreError> {
        let rows = self.rows()?;
        let unfinished = rows.messages.iter().filter(|message| !message.status.is_finished());
        Ok(unfinished.map(OpenMessage::from).collect())
    }

    async fn files_in_use(&self) -> Result<std::collections::HashSet<crate::model::MediaHash>, StoreError> {
        let rows = self.rows()?;
        let open = rows.messages.iter().filter(|message| !message.status.is_finished());
        Ok(open.filter_map(|message| message.content.body.file()).collect())
    }

    async fn message(&self, id: MessageId) -> Result<Option<Message>, StoreError> {
        Ok(self.rows()?.messages.iter().find(|message| message.id == id).cloned())
    }

    async fn by_reference(&self, reference: &str, limit: usize) -> Result<Vec<Message>, StoreError> {
        let rows = self.rows()?;
        let matches = |message: &&Message| message.reference_id.as_deref() == Some(reference);
        Ok(rows.messages.iter().rev().filter(matches).take(limit).cloned().collect())
    }

    async fn count_by_reference(&self, reference: &str) -> Result<u64, StoreError> {
        let rows = self.rows()?;
        let matches = |message: &&Message| message.reference_id.as_deref() == Some(reference);
        Ok(rows.messages.iter().filter(matches).count() as u64)
    }

    async fn by_whatsapp_id(&self, id: &WhatsAppId) -> Result<Option<MessageId>, StoreError> {
        Ok(self.rows()?.messages.iter().find(|message| message.whatsapp_id == *id).map(|message| message.id))
    }

    async fn list(&self, filter: ListFilter) -> Result<Vec<Message>, StoreError> {
        let rows = self.rows()?;
        let matches = |message: &&Message| {
            (filter.statuses.is_empty() || filter.statuses.contains(&message.status))
                && filter.before.is_none_or(|before| message.id < before)
        };
        Ok(rows.messages.iter().rev().filter(matches).take(filter.limit).cloned().collect())
    }

    async fn counts(&self) -> Result<Counts, StoreError> {
        let rows = self.rows()?;
        let count = |status| rows.messages.iter().filter(|message| message.status == status).count() as u64;
        Ok(Counts {
            pending: count(Status::Pending),
            sending: count(Status::Sending),
            sent: count(Status::Sent),
            failed: count(Status::Failed),
            cancelled: count(Status::Cancelled),
        })
    }

    async fn remove(&self, ids: Vec<MessageId>, status: Status) -> Result<usize, StoreError> {
        let mut rows = self.rows()?;
        let before = rows.messages.len();
        rows.messages.retain(|message| message.status != status || !ids.contains(&message.id));
        Ok(before - rows.messages.len())
    }

    async fn prune(&self, _keep: Keep, _now: Timestamp) -> Result<usize, StoreError> {
        Ok(0)
    }
}

#[async_trait]
impl Journal for Memory {
    async fn record_incoming(&self, batch: Vec<Incoming>) -> Result<Vec<bool>, StoreError> {
        for incoming in &batch {
            self.append(EventBody::Message(Box::new(incoming.clone())), incoming.received_at).await?;
        }
        AddressBook::learn(self, batch.iter().filter_map(Contact::of_writer).collect()).await?;
        Ok(vec![true; batch.len()])
    }

    async fn append(&self, body: EventBody, at: Timestamp) -> Result<Cursor, StoreError> {
        let mut rows = self.rows()?;
        let cursor = Cursor(rows.events.len() as u64 + 1);
        rows.events.push(Event { cursor, at, body });
        self.newest.send_replace(cursor);
        Ok(cursor)
    }

    async fn after(&self, cursor: Cursor, limit: usize) -> Result<Page, StoreError> {
        let rows = self.rows()?;
        let events: Vec<Event> =
            rows.events.iter().filter(|event| event.cursor > cursor).take(limit).cloned().collect();
        let next = events.last().map_or(cursor, |event| event.cursor);
        Ok(Page { events, next })
    }

    async fn incoming(&self, id: &str) -> Result<Option<Incoming>, StoreError> {
        let rows = self.rows()?;
        Ok(rows.events.iter().rev().find_map(|event| match &event.body {
            EventBody::Message(incoming) if incoming.id == id => Some(Incoming::clone(incoming)),
            _ => None,
        }))
    }

    fn newest(&self) -> watch::Receiver<Cursor> {
        self.newest.subscribe()
    }

    async fn prune_events(&self, _keep: Keep, _now: Timestamp) -> Result<usize, StoreError> {
        Ok(0)
    }
}

#[async_trait]
impl AddressBook for Memory {
    async fn learn(&self, contacts: Vec<Contact>) -> Result<(), StoreError> {
        let rows = &mut self.rows()?.contacts;
        for learnt in contacts {
            let same = |a: &Option<String>, b: &Option<String>| a.is_some() && a == b;
            let known = rows.iter_mut().find(|row| same(&row.phone, &learnt.phone) || same(&row.lid, &learnt.lid));
            let Some(known) = known else {
                rows.push(learnt);
                continue;
            };
            known.phone = learnt.phone.or(known.phone.take());
            known.lid = learnt.lid.or(known.lid.take());
            known.push_name = learnt.push_name.or(known.push_name.take());
            known.registered = learnt.registered.or(known.registered);
            known.wrote_at = known.wrote_at.or(learnt.wrote_at);
        }
        Ok(())
    }

    async fn by_phone(&self, phone: &str) -> Result<Option<Contact>, StoreError> {
        Ok(self.rows()?.contacts.iter().find(|contact| contact.phone.as_deref() == Some(phone)).cloned())
    }

    async fn by_lid(&self, lid: &str) -> Result<Option<Contact>, StoreError> {
        Ok(self.rows()?.contacts.iter().find(|contact| contact.lid.as_deref() == Some(lid)).cloned())
    }

    async fn count(&self) -> Result<u64, StoreError> {
        Ok(self.rows()?.contacts.len() as u64)
    }

    async fn forget_all(&self) -> Result<(), StoreError> {
        let mut rows = self.rows()?;
        rows.contacts.clear();
        rows.chats.clear();
        Ok(())
    }
}

#[async_trait]
impl ChatList for Memory {
    async fn learn(&self, chats: Vec<ListedChat>) -> Result<(), StoreError> {
        self.rows()?.chats.extend(chats);
        Ok(())
    }

    async fn chat(&self, id: &ChatId) -> Result<Option<ListedChat>, StoreError> {
        Ok(self.rows()?.chats.iter().find(|chat| chat.id == *id).cloned())
    }

    async fn count(&self) -> Result<u64, StoreError> {
        Ok(self.rows()?.chats.len() as u64)
    }
}

#[async_trait]
impl KeyValues for Memory {
    async fn all(&self, namespace: &str) -> Result<Vec<(String, Vec<u8>)>, StoreError> {
        let rows = self.rows()?;
        let of_it = rows.values.iter().filter(|((name, _), _)| name == namespace);
        Ok(of_it.map(|((_, key), value)| (key.clone(), value.clone())).collect())
    }

    async fn get(&self, namespace: &str, key: &str) -> Result<Option<Vec<u8>>, StoreError> {
        Ok(self.rows()?.values.get(&(namespace.to_owned(), key.to_owned())).cloned())
    }

    async fn put(&self, namespace: &str, key: &str, value: Option<Vec<u8>>) -> Result<(), StoreError> {
        let mut rows = self.rows()?;
        let place = (namespace.to_owned(), key.to_owned());
        match value {
            Some(value) => rows.values.insert(place, value),
            None => rows.values.remove(&place),
        };
        Ok(())
    }
}

#[async_trait]
impl Webhooks for Memory {
    async fn all(&self) -> Result<Vec<StandingWebhook>, StoreError> {
        let standing = |hook: &Hook| {
            let place = Place { waiting: hook.waits.len() as u64, parked: hook.parked.len() as u64, ..hook.place };
            StandingWebhook { webhook: hook.webhook.clone(), place }
        };
        Ok(self.rows()?.webhooks.iter().map(standing).collect())
    }

    async fn add(&self, webhook: Webhook) -> Result<bool, StoreError> {
        let mut rows = self.rows()?;
        let place = Place { cursor: Cursor(rows.events.len() as u64), ..Place::default() };
        let (waits, parked, deliveries) = Default::default();
        rows.webhooks.push(Hook { webhook, place, waits, parked, deliveries });
        Ok(true)
    }

    async fn change(&self, webhook: Webhook, from_now: bool) -> Result<bool, StoreError> {
        let mut rows = self.rows()?;
        let newest = Cursor(rows.events.len() as u64);
        let Some(hook) = rows.webhooks.iter_mut().find(|hook| hook.webhook.id == webhook.id) else { return Ok(false) };
        hook.webhook = webhook;
        hook.place.cursor = if from_now { newest } else { hook.place.cursor };
        Ok(true)
    }

    async fn remove(&self, id: &WebhookId) -> Result<bool, StoreError> {
        let mut rows = self.rows()?;
        let before = rows.webhooks.len();
        rows.webhooks.retain(|hook| hook.webhook.id != *id);
        Ok(rows.webhooks.len() < before)
    }

    async fn settle(&self, id: &WebhookId, settled: Settled) -> Result<bool, StoreError> {
        let mut rows = self.rows()?;
        let Some(hook) = rows.webhooks.iter_mut().find(|hook| hook.webhook.id == *id) else { return Ok(false) };
        for settlement in settled.notices {
            hook.waits.remove(&settlement.notice());
            hook.parked.remove(&settlement.notice());
            match settlement {
                Settlement::Done(_) => {}
                Settlement::Waits(row) => drop(hook.waits.insert(row.notice, row)),
                Settlement::Parked(row) => drop(hook.parked.insert(row.notice, row)),
            }
        }
        hook.place.cursor = settled.cursor.map_or(hook.place.cursor, |cursor| cursor.max(hook.place.cursor));
        hook.place.missed += settled.missed;
        hook.deliveries.extend(settled.deliveries);
        Ok(true)
    }

    async fn notices(&self, id: &WebhookId, filter: NoticeFilter) -> Result<Vec<Unsettled>, StoreError> {
        let rows = self.rows()?;
        let Some(hook) = rows.webhooks.iter().find(|hook| hook.webhook.id == *id) else { return Ok(Vec::new()) };
        let of = if filter.parked { &hook.parked } else { &hook.waits };
        let behind = of.values().filter(|row| filter.after.is_none_or(|after| row.notice > after));
        Ok(behind.take(filter.limit).cloned().collect())
    }

    async fn unpark(&self, id: &WebhookId, notice: Option<Notice>, now: Timestamp) -> Result<u64, StoreError> {
        let mut rows = self.rows()?;
        let Some(hook) = rows.webhooks.iter_mut().find(|hook| hook.webhook.id == *id) else { return Ok(0) };
        let mut moved = 0;
        for wanted in hook.parked.keys().copied().collect::<Vec<_>>() {
            if notice.is_none_or(|notice| notice == wanted)
                && let Some(row) = hook.parked.remove(&wanted)
            {
                hook.waits.insert(wanted, Unsettled { attempts: 0, since: now, at: now, ..row });
                moved += 1;
            }
        }
        Ok(moved)
    }

    async fn deliveries(&self, id: &WebhookId, limit: usize) -> Result<Vec<Delivery>, StoreError> {
        let rows = self.rows()?;
        let hook = rows.webhooks.iter().find(|hook| hook.webhook.id == *id);
        Ok(hook.into_iter().flat_map(|hook| hook.deliveries.iter().rev()).take(limit).cloned().collect())
    }
}

/// The own store of a test.
pub fn memory() -> (Arc<Memory>, Store) {
    let memory = Arc::new(Memory {
        rows: Mutex::default(),
        down: AtomicBool::new(false),
        newest: watch::Sender::new(Cursor(0)),
        health: watch::Sender::new(StoreHealth::Ready),
    });
    let store = Store {
        outbox: memory.clone(),
        journal: memory.clone(),
        contacts: memory.clone(),
        chats: memory.clone(),
        values: memory.clone(),
        webhooks: memory.clone(),
        health: memory.health.subscribe(),
    };
    (memory, store)
}
