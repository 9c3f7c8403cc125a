//! What must outlive the process, as narrow traits; `sled/` is the engine behind them.
//!
//! Every call that writes answers only after its fsync. Nothing here decides anything: what may become of a
//! message is `model::transition`'s to say, and is carried out inside the transaction.

mod by_phone;
#[cfg(any(test, feature = "test-util"))]
pub mod conformance;
#[cfg(any(test, feature = "test-util"))]
pub mod failing;
pub mod phone;
pub mod sled;
pub mod webhooks;

use std::collections::HashSet;
use std::fmt::Debug;
use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::watch;

pub use by_phone::ByPhone;
pub use webhooks::Webhooks;

use crate::model::{
    Change, ChatId, Cursor, Event, EventBody, Incoming, Lane, ListedChat, MediaHash, Message, MessageId, NewMessage,
    PushName, Refusal, Roster, Status, Timestamp, Typing, WhatsAppId,
};

/// The namespace of small facts that outlive the process, among [`Store::values`].
pub const MARKS: &str = "marks";

/// The store said no.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StoreError {
    /// Nothing can be written or read now; it recovers by itself when it can.
    #[error("the store is unavailable: {0}")]
    Unavailable(String),
    /// Too little free space to accept more.
    #[error("the disk is almost full ({free} bytes left); free some space")]
    DiskFull {
        /// Bytes left.
        free: u64,
    },
    /// A row could not be read; it was set aside.
    #[error("a damaged record was set aside: {0}")]
    Damaged(String),
}

/// Rows accepted together, all or none.
#[derive(Debug, Clone)]
pub struct Batch {
    /// The rows, in order.
    pub messages: Vec<NewMessage>,
    /// With an idempotency key: what makes a repeat of this request the same.
    pub idempotency: Option<Idempotency>,
}

/// What makes two requests the same one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Idempotency {
    /// Hash of API key and `Idempotency-Key`.
    pub key: [u8; 32],
    /// Hash of the body.
    pub body: [u8; 32],
    /// When it was first seen.
    pub at: Timestamp,
    /// How long it is remembered.
    pub keep: Duration,
    /// Where each message of the request stood when it was accepted, for the answer to a repeat.
    pub positions: Vec<u64>,
}

/// An accepted message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Placed {
    /// Its queue id.
    pub id: MessageId,
    /// How many leave before it, and itself, as it was accepted.
    pub position: u64,
}

/// A message of a request that was accepted before, as its first answer named it: the row itself may be gone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Known {
    /// Which one, and where it stood.
    pub placed: Placed,
    /// Where it goes.
    pub chat: ChatId,
    /// The caller's own id.
    pub reference_id: Option<String>,
}

impl Known {
    /// Of one that is accepted now.
    #[must_use]
    pub fn new(message: &NewMessage, position: u64) -> Self {
        Self {
            placed: Placed { id: message.id, position },
            chat: message.chat.clone(),
            reference_id: message.reference_id.clone(),
        }
    }
}

/// What became of a [`Batch`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Enqueued {
    /// On disk.
    Fresh,
    /// The same request was accepted before; this was answered then, and nothing was queued now.
    Repeat(Vec<Known>),
    /// The key was used with another body; nothing was queued.
    Conflict,
}

/// The row after a change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Changed {
    /// It changed.
    Yes(Box<Message>),
    /// It had all happened before.
    Already(Box<Message>),
    /// The change does not fit; the row is as it was.
    Refused(Refusal),
    /// No such row.
    Unknown,
}

/// What the queue must know of an unfinished message to choose the next one; the text stays in the store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OpenMessage {
    /// The queue id.
    pub id: MessageId,
    /// Where it goes.
    pub chat: ChatId,
    /// Its lane.
    pub lane: Lane,
    /// `Pending` or `Sending`.
    pub status: Status,
    /// When it was accepted.
    pub created_at: Timestamp,
    /// Not before this time.
    pub not_before: Option<Timestamp>,
    /// When its next attempt is due.
    pub retry_at: Option<Timestamp>,
    /// It was taken to be sent before: it may have left.
    pub claimed: bool,
    /// How it is typed; `None` for what nobody types.
    pub typing: Option<Typing>,
}

impl From<&NewMessage> for OpenMessage {
    fn from(new: &NewMessage) -> Self {
        Self {
            id: new.id,
            chat: new.chat.clone(),
            lane: new.lane,
            status: Status::Pending,
            created_at: new.created_at,
            not_before: new.not_before,
            retry_at: None,
            claimed: false,
            typing: Typing::of(&new.text, &new.content),
        }
    }
}

impl From<&Message> for OpenMessage {
    fn from(message: &Message) -> Self {
        Self {
            id: message.id,
            chat: message.chat.clone(),
            lane: message.lane,
            status: message.status,
            created_at: message.created_at,
            not_before: message.not_before,
            retry_at: message.retry_at,
            claimed: message.claimed,
            typing: Typing::of(&message.text, &message.content),
        }
    }
}

/// Which messages to list, newest first.
#[derive(Debug, Clone, Default)]
pub struct ListFilter {
    /// Only these statuses; empty means all.
    pub statuses: Vec<Status>,
    /// Older than this one.
    pub before: Option<MessageId>,
    /// At most so many.
    pub limit: usize,
}

/// How many messages stand where.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counts {
    /// Waiting.
    pub pending: u64,
    /// On their way.
    pub sending: u64,
    /// Acknowledged by the server.
    pub sent: u64,
    /// Given up.
    pub failed: u64,
    /// Taken back.
    pub cancelled: u64,
}

/// What retention keeps.
#[derive(Debug, Clone, Copy)]
pub struct Keep {
    /// Finished rows younger than this stay …
    pub age: Duration,
    /// … and the newest so many, whichever keeps more.
    pub newest: usize,
}

/// The outgoing queue's rows.
#[async_trait]
pub trait Outbox: Debug + Send + Sync {
    /// Whether [`Outbox::enqueue`] would be refused now, whatever the batch. Does not wait.
    fn accepts(&self) -> Result<(), StoreError>;
    /// Accepts a batch in one transaction. Ids in the batch are greater than all before.
    async fn enqueue(&self, batch: Batch) -> Result<Enqueued, StoreError>;
    /// What a batch with this key would hear without being queued: [`Enqueued::Repeat`], [`Enqueued::Conflict`], or
    /// nothing when the key is new.
    async fn known(&self, asked: &Idempotency) -> Result<Option<Enqueued>, StoreError>;
    /// Applies `change` to one row in one transaction, with its event in the journal when status or ack changed
    /// (claims and put-backs are not journalled).
    async fn change(&self, id: MessageId, change: Change, now: Timestamp) -> Result<Changed, StoreError>;
    /// Who was in the group as a message to it left; `None` where that is not kept.
    async fn roster(&self, id: MessageId) -> Result<Option<Roster>, StoreError>;
    /// All unfinished rows, oldest first.
    async fn open(&self) -> Result<Vec<OpenMessage>, StoreError>;
    /// The files that unfinished rows need.
    async fn files_in_use(&self) -> Result<HashSet<MediaHash>, StoreError>;
    /// One row.
    async fn message(&self, id: MessageId) -> Result<Option<Message>, StoreError>;
    /// The rows of a caller's reference, newest first.
    async fn by_reference(&self, reference: &str, limit: usize) -> Result<Vec<Message>, StoreError>;
    /// How many rows a caller's reference has.
    async fn count_by_reference(&self, reference: &str) -> Result<u64, StoreError>;
    /// Which row has this WhatsApp id; known from the first claim on.
    async fn by_whatsapp_id(&self, id: &WhatsAppId) -> Result<Option<MessageId>, StoreError>;
    /// Rows by filter, newest first.
    async fn list(&self, filter: ListFilter) -> Result<Vec<Message>, StoreError>;
    /// How many stand where; cheap.
    async fn counts(&self) -> Result<Counts, StoreError>;
    /// Removes those of these rows that stand at `status`, which must be a finished one, in one transaction; how many
    /// went. What is remembered of their requests, and their events, stay.
    async fn remove(&self, ids: Vec<MessageId>, status: Status) -> Result<usize, StoreError>;
    /// Removes finished rows (and old idempotency records) that retention does not keep, a bounded number a call;
    /// how many went.
    async fn prune(&self, keep: Keep, now: Timestamp) -> Result<usize, StoreError>;
}

/// A page of the journal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Page {
    /// The events, oldest first.
    pub events: Vec<Event>,
    /// Where to go on: the last one read, also when events in between were pruned.
    pub next: Cursor,
}

/// The journal of incoming messages, status changes and link states.
#[async_trait]
pub trait Journal: Debug + Send + Sync {
    /// Commits incoming messages, all or none, each at most once by (chat, sender, id); `true` where it was new. That
    /// somebody wrote in private is on their contact's row by the same transaction.
    async fn record_incoming(&self, batch: Vec<Incoming>) -> Result<Vec<bool>, StoreError>;
    /// Adds an event.
    async fn append(&self, body: EventBody, at: Timestamp) -> Result<Cursor, StoreError>;
    /// The events after `cursor`.
    async fn after(&self, cursor: Cursor, limit: usize) -> Result<Page, StoreError>;
    /// An incoming message by WhatsApp's id; the newest, should several senders have used the same.
    async fn incoming(&self, id: &str) -> Result<Option<Incoming>, StoreError>;
    /// The newest cursor, as it moves: wait on it, then read.
    fn newest(&self) -> watch::Receiver<Cursor>;
    /// Removes the events older than `age` beyond the newest `newest`, a bounded number a call; how many went.
    async fn prune_events(&self, keep: Keep, now: Timestamp) -> Result<usize, StoreError>;
}

/// What is known of people: a phone number and a LID are one contact.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Contact {
    /// Digits with country code.
    pub phone: Option<String>,
    /// LID digits.
    pub lid: Option<String>,
    /// Their own name for themselves.
    pub push_name: Option<PushName>,
    /// Whether the number is on WhatsApp, and when that was learnt.
    pub registered: Option<(bool, Timestamp)>,
    /// When they first wrote to this account, as far as is known.
    pub wrote_at: Option<Timestamp>,
}

impl Contact {
    /// That the sender of a private message has written to this account.
    #[must_use]
    pub fn of_writer(incoming: &Incoming) -> Option<Self> {
        let chat = incoming.private_writer()?;
        let digits = Some(chat.user().to_owned());
        let (phone, lid) = if chat.phone_number().is_some() { (digits, None) } else { (None, digits) };
        Some(Self { phone, lid, wrote_at: Some(incoming.timestamp), ..Self::default() })
    }
}

/// People, and what was learnt of them.
#[async_trait]
pub trait AddressBook: Debug + Send + Sync {
    /// Merges what was learnt, in one transaction; rows of the same phone or LID become one. What is known already
    /// writes nothing.
    async fn learn(&self, contacts: Vec<Contact>) -> Result<(), StoreError>;
    /// By phone digits.
    async fn by_phone(&self, phone: &str) -> Result<Option<Contact>, StoreError>;
    /// By LID digits.
    async fn by_lid(&self, lid: &str) -> Result<Option<Contact>, StoreError>;
    /// How many there are; cheap.
    async fn count(&self) -> Result<u64, StoreError>;
    /// Forgets everybody, and with them the chat list: they belong to an account that is linked no more.
    async fn forget_all(&self) -> Result<(), StoreError>;
}

/// The account's chat list. The private chats of one person, by phone and by LID, are one chat.
#[async_trait]
pub trait ChatList: Debug + Send + Sync {
    /// Merges what was learnt, in one transaction. What is known already writes nothing.
    async fn learn(&self, chats: Vec<ListedChat>) -> Result<(), StoreError>;
    /// One chat, by either address of a private one.
    async fn chat(&self, id: &ChatId) -> Result<Option<ListedChat>, StoreError>;
    /// How many there are; cheap.
    async fn count(&self) -> Result<u64, StoreError>;
}

/// Small named values: settings, key hashes, marks.
#[async_trait]
pub trait KeyValues: Debug + Send + Sync {
    /// All of a namespace (`settings`, `secrets`, `marks` …).
    async fn all(&self, namespace: &str) -> Result<Vec<(String, Vec<u8>)>, StoreError>;
    /// One value.
    async fn get(&self, namespace: &str, key: &str) -> Result<Option<Vec<u8>>, StoreError>;
    /// Sets or, with `None`, removes one value.
    async fn put(&self, namespace: &str, key: &str, value: Option<Vec<u8>>) -> Result<(), StoreError>;
}

/// Whether the store works, for readiness and for whoever waits for its return.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StoreHealth {
    /// It accepts work.
    Ready,
    /// It does not; why.
    Down(String),
}

/// The whole store of one account, as handles.
#[derive(Debug, Clone)]
pub struct Store {
    /// The queue's rows.
    pub outbox: std::sync::Arc<dyn Outbox>,
    /// What happened.
    pub journal: std::sync::Arc<dyn Journal>,
    /// People.
    pub contacts: std::sync::Arc<dyn AddressBook>,
    /// Their chats, and groups.
    pub chats: std::sync::Arc<dyn ChatList>,
    /// Settings and marks.
    pub values: std::sync::Arc<dyn KeyValues>,
    /// Webhooks and their deliveries.
    pub webhooks: std::sync::Arc<dyn Webhooks>,
    /// Whether it works.
    pub health: watch::Receiver<StoreHealth>,
}

impl Store {
    /// After an error: waits until the store says that it works again, a second at the most. When it says so already
    /// and failed all the same, that second is what keeps the caller from spinning.
    pub async fn come_back(&self) {
        let mut health = self.health.clone();
        let working = *health.borrow() == StoreHealth::Ready;
        let ready = async {
            if working || health.wait_for(|health| *health == StoreHealth::Ready).await.is_err() {
                std::future::pending::<()>().await;
            }
        };
        let _ = tokio::time::timeout(Duration::from_secs(1), ready).await;
    }
}
