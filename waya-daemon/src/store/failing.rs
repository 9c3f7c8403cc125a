//! A store whose n-th call fails: for tests of what stands on the store.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use async_trait::async_trait;
use tokio::sync::watch;

use super::webhooks::{Delivery, NoticeFilter, Settled, StandingWebhook, Unsettled};
use super::{
    AddressBook, Batch, Changed, ChatList, Contact, Counts, Enqueued, Idempotency, Journal, Keep, KeyValues,
    ListFilter, OpenMessage, Outbox, Page, Store, StoreError, Webhooks,
};
use crate::model::{
    Change, ChatId, Cursor, EventBody, Incoming, ListedChat, Message, MessageId, Notice, Status, Timestamp, Webhook,
    WebhookId, WhatsAppId,
};

/// When the call fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum When {
    /// Nothing was done.
    Before,
    /// It was done, but nobody is told: what a power cut between commit and answer looks like.
    After,
}

/// Which calls fail, and how many there were.
#[derive(Debug, Default)]
pub struct Failures {
    calls: AtomicU64,
    before: AtomicU64,
    after: AtomicU64,
}

impl Failures {
    /// How many calls there were.
    pub fn calls(&self) -> u64 {
        self.calls.load(Ordering::SeqCst)
    }

    /// The `nth` call from now on, counted from 1, fails, and no other.
    pub fn fail(&self, nth: u64, when: When) {
        let at = |wanted| if when == wanted { self.calls() + nth } else { 0 };
        self.before.store(at(When::Before), Ordering::SeqCst);
        self.after.store(at(When::After), Ordering::SeqCst);
    }

    fn enter(&self) -> Result<Call<'_>, StoreError> {
        let number = self.calls.fetch_add(1, Ordering::SeqCst) + 1;
        if number == self.before.load(Ordering::SeqCst) { Err(failed()) } else { Ok(Call { failures: self, number }) }
    }
}

fn failed() -> StoreError {
    StoreError::Unavailable("this call was made to fail".to_owned())
}

struct Call<'f> {
    failures: &'f Failures,
    number: u64,
}

impl Call<'_> {
    fn leave<R>(self, answer: Result<R, StoreError>) -> Result<R, StoreError> {
        if self.number == self.failures.after.load(Ordering::SeqCst) { Err(failed()) } else { answer }
    }
}

/// The wrapper behind all traits.
#[derive(Debug)]
struct Failing {
    inner: Store,
    failures: Arc<Failures>,
}

/// Wraps a store.
#[must_use]
pub fn failing(inner: Store) -> (Store, Arc<Failures>) {
    let failures = Arc::new(Failures::default());
    let health = inner.health.clone();
    let wrapped = Arc::new(Failing { inner, failures: Arc::clone(&failures) });
    let store = Store {
        outbox: Arc::clone(&wrapped) as _,
        journal: Arc::clone(&wrapped) as _,
        contacts: Arc::clone(&wrapped) as _,
        chats: Arc::clone(&wrapped) as _,
        values: Arc::clone(&wrapped) as _,
        webhooks: wrapped,
        health,
    };
    (store, failures)
}

/// Hands a call on, between the two moments where it may fail.
macro_rules! through {
    ($self:ident, $part:ident.$call:ident($($argument:expr),*)) => {{
        let call = $self.failures.enter()?;
        call.leave($self.inner.$part.$call($($argument),*).await)
    }};
}

#[async_trait]
impl Outbox for Failing {
    fn accepts(&self) -> Result<(), StoreError> {
        self.inner.outbox.accepts()
    }

    async fn enqueue(&self, batch: Batch) -> Result<Enqueued, StoreError> {
        through!(self, outbox.enqueue(batch))
    }

    async fn known(&self, asked: &Idempotency) -> Result<Option<Enqueued>, StoreError> {
        through!(self, outbox.known(asked))
    }

    async fn change(&self, id: MessageId, change: Change, now: Timestamp) -> Result<Changed, StoreError> {
        through!(self, outbox.change(id, change, now))
    }

    async fn roster(&self, id: MessageId) -> Result<Option<crate::model::Roster>, StoreError> {
        through!(self, outbox.roster(id))
    }

    async fn open(&self) -> Result<Vec<OpenMessage>, StoreError> {
        through!(self, outbox.open())
    }

    async fn files_in_use(&self) -> Result<std::collections::HashSet<crate::model::MediaHash>, StoreError> {
        through!(self, outbox.files_in_use())
    }

    async fn message(&self, id: MessageId) -> Result<Option<Message>, StoreError> {
        through!(self, outbox.message(id))
    }

    async fn by_reference(&self, reference: &str, limit: usize) -> Result<Vec<Message>, StoreError> {
        through!(self, outbox.by_reference(reference, limit))
    }

    async fn count_by_reference(&self, reference: &str) -> Result<u64, StoreError> {
        through!(self, outbox.count_by_reference(reference))
    }

    async fn by_whatsapp_id(&self, id: &WhatsAppId) -> Result<Option<MessageId>, StoreError> {
        through!(self, outbox.by_whatsapp_id(id))
    }

    async fn list(&self, filter: ListFilter) -> Result<Vec<Message>, StoreError> {
        through!(self, outbox.list(filter))
    }

    async fn counts(&self) -> Result<Counts, StoreError> {
        through!(self, outbox.counts())
    }

    async fn remove(&self, ids: Vec<MessageId>, status: Status) -> Result<usize, StoreError> {
        through!(self, outbox.remove(ids, status))
    }

    async fn prune(&self, keep: Keep, now: Timestamp) -> Result<usize, StoreError> {
        through!(self, outbox.prune(keep, now))
    }
}

#[async_trait]
impl Journal for Failing {
    async fn record_incoming(&self, batch: Vec<Incoming>) -> Result<Vec<bool>, StoreError> {
        through!(self, journal.record_incoming(batch))
    }

    async fn append(&self, body: EventBody, at: Timestamp) -> Result<Cursor, StoreError> {
        through!(self, journal.append(body, at))
    }

    async fn after(&self, cursor: Cursor, limit: usize) -> Result<Page, StoreError> {
        through!(self, journal.after(cursor, limit))
    }

    async fn incoming(&self, id: &str) -> Result<Option<Incoming>, StoreError> {
        through!(self, journal.incoming(id))
    }

    fn newest(&self) -> watch::Receiver<Cursor> {
        self.inner.journal.newest()
    }

    async fn prune_events(&self, keep: Keep, now: Timestamp) -> Result<usize, StoreError> {
        through!(self, journal.prune_events(keep, now))
    }
}

#[async_trait]
impl AddressBook for Failing {
    async fn learn(&self, contacts: Vec<Contact>) -> Result<(), StoreError> {
        through!(self, contacts.learn(contacts))
    }

    async fn by_phone(&self, phone: &str) -> Result<Option<Contact>, StoreError> {
        through!(self, contacts.by_phone(phone))
    }

    async fn by_lid(&self, lid: &str) -> Result<Option<Contact>, StoreError> {
        through!(self, contacts.by_lid(lid))
    }

    async fn count(&self) -> Result<u64, StoreError> {
        through!(self, contacts.count())
    }

    async fn forget_all(&self) -> Result<(), StoreError> {
        through!(self, contacts.forget_all())
    }
}

#[async_trait]
impl ChatList for Failing {
    async fn learn(&self, chats: Vec<ListedChat>) -> Result<(), StoreError> {
        through!(self, chats.learn(chats))
    }

    async fn chat(&self, id: &ChatId) -> Result<Option<ListedChat>, StoreError> {
        through!(self, chats.chat(id))
    }

    async fn count(&self) -> Result<u64, StoreError> {
        through!(self, chats.count())
    }
}

#[async_trait]
impl KeyValues for Failing {
    async fn all(&self, namespace: &str) -> Result<Vec<(String, Vec<u8>)>, StoreError> {
        through!(self, values.all(namespace))
    }

    async fn get(&self, namespace: &str, key: &str) -> Result<Option<Vec<u8>>, StoreError> {
        through!(self, values.get(namespace, key))
    }

    async fn put(&self, namespace: &str, key: &str, value: Option<Vec<u8>>) -> Result<(), StoreError> {
        through!(self, values.put(namespace, key, value))
    }
}

#[async_trait]
impl Webhooks for Failing {
    async fn all(&self) -> Result<Vec<StandingWebhook>, StoreError> {
        through!(self, webhooks.all())
    }

    async fn add(&self, webhook: Webhook) -> Result<bool, StoreError> {
        through!(self, webhooks.add(webhook))
    }

    async fn change(&self, webhook: Webhook, from_now: bool) -> Result<bool, StoreError> {
        through!(self, webhooks.change(webhook, from_now))
    }

    async fn remove(&self, id: &WebhookId) -> Result<bool, StoreError> {
        through!(self, webhooks.remove(id))
    }

    async fn settle(&self, id: &WebhookId, settled: Settled) -> Result<bool, StoreError> {
        through!(self, webhooks.settle(id, settled))
    }

    async fn notices(&self, id: &WebhookId, filter: NoticeFilter) -> Result<Vec<Unsettled>, StoreError> {
        through!(self, webhooks.notices(id, filter))
    }

    async fn unpark(&self, id: &WebhookId, notice: Option<Notice>, now: Timestamp) -> Result<u64, StoreError> {
        through!(self, webhooks.unpark(id, notice, now))
    }

    async fn deliveries(&self, id: &WebhookId, limit: usize) -> Result<Vec<Delivery>, StoreError> {
        through!(self, webhooks.deliveries(id, limit))
    }
}
