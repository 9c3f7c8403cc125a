//! What happens after: webhooks and alerts.
//!
//! Owns the webhooks' rows and everything that is told by them. Each webhook has a [`line`] of its own, which reads the
//! journal with a durable place in it, so that nothing that must be told rides on memory or on the bus; the queue and
//! the session never wait for it. Woken by the journal, by time and by its callers. `alerts` tells the owner when
//! something needs them.

pub mod alerts;
mod attempt;
mod envelope;
mod line;
mod lines;
mod policy;
mod poster;
#[cfg(test)]
mod tests;
mod window;

use std::fmt::Debug;
use std::sync::Arc;

use async_trait::async_trait;
use serde_json::{Value, json};
use tokio::sync::{mpsc, oneshot, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

pub use policy::Patience;
pub use poster::{HttpPoster, POST_WITHIN, Post, PostError, Poster};

use crate::clock::Clock;
use crate::model::{Cursor, Event, EventNames, InvalidEventId, Notice, Secret, Topic, Webhook, WebhookId};
use crate::session::Link;
use crate::store::webhooks::{Delivery, NoticeFilter, Settled, StandingWebhook, Unsettled};
use crate::store::{MARKS, Store, StoreError};
use envelope::{Account, Envelope};
use lines::{Command, Lines};

/// Where the store keeps what tells this journal from others.
const JOURNAL: &str = "journal";
/// The event that tries a webhook out.
pub const TEST: &str = "webhook.test";

/// Makes the JSON of events, as the API shows the same things.
#[async_trait]
pub trait Render: Debug + Send + Sync {
    /// The payload of one of an event's topics.
    async fn payload(&self, topic: Topic, event: Event) -> Result<Value, StoreError>;
}

/// What deliveries stand on.
#[derive(Debug, Clone)]
pub struct Setup {
    /// The account's store.
    pub store: Store,
    /// The time.
    pub clock: Arc<dyn Clock>,
    /// The way out.
    pub poster: Arc<dyn Poster>,
    /// What events look like.
    pub render: Arc<dyn Render>,
    /// The link to WhatsApp: who is linked.
    pub link: watch::Receiver<Link>,
    /// The profile's name.
    pub session_name: String,
    /// How patient deliveries are.
    pub patience: Patience,
}

/// The same, and what was learnt at the start.
#[derive(Debug)]
struct Parts {
    store: Store,
    clock: Arc<dyn Clock>,
    poster: Arc<dyn Poster>,
    render: Arc<dyn Render>,
    link: watch::Receiver<Link>,
    session_name: String,
    patience: Patience,
    names: EventNames,
    /// Moves when something was parked, or a webhook was changed.
    changed: watch::Sender<u64>,
}

impl Parts {
    /// One event of the journal; `None` when it is gone.
    async fn event(&self, cursor: Cursor) -> Result<Option<Event>, StoreError> {
        let page = self.store.journal.after(Cursor(cursor.0.saturating_sub(1)), 1).await?;
        Ok(page.events.into_iter().next().filter(|event| event.cursor == cursor))
    }

    fn account(&self) -> Option<Account> {
        self.link.borrow().me.as_ref().map(Account::from)
    }
}

/// Something cannot be done with webhooks.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DeliverError {
    /// There is no such webhook.
    #[error("there is no webhook {0}; `waya webhooks list` shows them all")]
    Unknown(WebhookId),
    /// There are as many as there may be.
    #[error("there are {0} webhooks already; remove one first")]
    TooMany(usize),
    /// Not an event of this daemon.
    #[error(transparent)]
    Event(#[from] InvalidEventId),
    /// It is not parked.
    #[error("the event {0} is not parked for this webhook; `waya webhooks parked` shows what is")]
    NotParked(String),
    /// The store said no.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// A notice with its names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Parked {
    /// The event's id.
    pub event_id: String,
    /// The row.
    pub row: Unsettled,
}

/// A cheap handle to all webhooks of one account.
#[derive(Debug, Clone)]
pub struct Deliver {
    parts: Arc<Parts>,
    commands: mpsc::UnboundedSender<Command>,
}

impl Deliver {
    /// Reads the webhooks and begins to tell them what they missed. It ends when `shutdown` is cancelled.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub async fn start(setup: Setup, tasks: &TaskTracker, shutdown: CancellationToken) -> Result<Self, StoreError> {
        let names = event_names(&setup.store).await?;
        let Setup { store, clock, poster, render, link, session_name, patience } = setup;
        let changed = watch::Sender::new(0);
        let parts = Parts { store, clock, poster, render, link, session_name, patience, names, changed };
        let parts = Arc::new(parts);
        let (commands, receiver) = mpsc::unbounded_channel();
        tasks.spawn(Lines::new(Arc::clone(&parts)).run(receiver, shutdown));
        Ok(Self { parts, commands })
    }

    /// All webhooks, and where they stand.
    ///
    /// # Errors
    /// The store.
    pub async fn list(&self) -> Result<Vec<StandingWebhook>, DeliverError> {
        Ok(self.parts.store.webhooks.all().await?)
    }

    /// One of them.
    ///
    /// # Errors
    /// There is none of this id, or the store.
    pub async fn get(&self, id: &WebhookId) -> Result<StandingWebhook, DeliverError> {
        let found = self.list().await?.into_iter().find(|standing| standing.webhook.id == *id);
        found.ok_or_else(|| DeliverError::Unknown(id.clone()))
    }

    /// Adds one; it is told what happens from now on.
    ///
    /// # Errors
    /// There are too many, or the store.
    pub async fn add(&self, webhook: Webhook) -> Result<(), DeliverError> {
        if !self.parts.store.webhooks.add(webhook).await? {
            return Err(DeliverError::TooMany(crate::store::webhooks::MAX_WEBHOOKS));
        }
        self.look();
        Ok(())
    }

    /// Writes one anew; `from_now` lets what it is behind with go.
    ///
    /// # Errors
    /// There is none of this id, or the store.
    pub async fn change(&self, webhook: Webhook, from_now: bool) -> Result<(), DeliverError> {
        let (id, deliver) = (webhook.id.clone(), self.clone());
        let changed = async move {
            if from_now || !webhook.enabled {
                // Its line would go on where it is, and a disabled one is told nothing from the answer on.
                deliver.end_line(&webhook.id).await;
            }
            let there = deliver.parts.store.webhooks.change(webhook, from_now).await;
            deliver.look();
            there
        };
        if finish(changed).await? { Ok(()) } else { Err(DeliverError::Unknown(id)) }
    }

    /// Removes one with all that it was still to be told.
    ///
    /// # Errors
    /// There is none of this id, or the store.
    pub async fn remove(&self, id: &WebhookId) -> Result<(), DeliverError> {
        let (of, deliver) = (id.clone(), self.clone());
        let removed = async move {
            deliver.end_line(&of).await;
            let there = deliver.parts.store.webhooks.remove(&of).await;
            deliver.look();
            there
        };
        if finish(removed).await? { Ok(()) } else { Err(DeliverError::Unknown(id.clone())) }
    }

    /// Posts an event that says that it is a test, now and once, whether the webhook is enabled or not.
    ///
    /// # Errors
    /// There is none of this id, or the store. A receiver that does not take it is none: the delivery says so.
    pub async fn test(&self, id: &WebhookId) -> Result<Delivery, DeliverError> {
        let webhook = self.get(id).await?.webhook;
        let parts = &self.parts;
        let event_id = format!("evt_test_{}", uuid::Uuid::now_v7().simple());
        let envelope = Envelope {
            id: &event_id,
            timestamp: parts.clock.now(),
            event: TEST,
            session: &parts.session_name,
            me: parts.account(),
            payload: json!({"webhook": id.as_str(), "message": "this is a test"}),
        };
        let delivery = attempt::post(parts, &webhook.url, &envelope, Some(&webhook.secret)).await;
        let settled = Settled { deliveries: vec![delivery.clone()], ..Settled::default() };
        parts.store.webhooks.settle(id, settled).await?;
        Ok(delivery)
    }

    /// The newest deliveries, newest first.
    ///
    /// # Errors
    /// There is none of this id, or the store.
    pub async fn deliveries(&self, id: &WebhookId, limit: usize) -> Result<Vec<Delivery>, DeliverError> {
        self.get(id).await?;
        Ok(self.parts.store.webhooks.deliveries(id, limit).await?)
    }

    /// What was given up, oldest first.
    ///
    /// # Errors
    /// There is none of this id, or the store.
    pub async fn parked(&self, id: &WebhookId, limit: usize) -> Result<Vec<Parked>, DeliverError> {
        self.get(id).await?;
        let filter = NoticeFilter { parked: true, after: None, limit };
        let rows = self.parts.store.webhooks.notices(id, filter).await?;
        Ok(rows.into_iter().map(|row| Parked { event_id: self.parts.names.name(row.notice), row }).collect())
    }

    /// Has one parked event, or all of them, told again under the same ids; how many.
    ///
    /// # Errors
    /// There is no such webhook, the event is not parked, or the store.
    pub async fn redeliver(&self, id: &WebhookId, event_id: Option<&str>) -> Result<u64, DeliverError> {
        self.get(id).await?;
        let notice: Option<Notice> = event_id.map(|event_id| self.parts.names.parse(event_id)).transpose()?;
        let count = self.parts.store.webhooks.unpark(id, notice, self.parts.clock.now()).await?;
        if let (0, Some(event_id)) = (count, event_id) {
            return Err(DeliverError::NotParked(event_id.to_owned()));
        }
        self.parts.changed.send_modify(|changes| *changes += 1);
        let _ = self.commands.send(Command::Reload(id.clone()));
        Ok(count)
    }

    /// An id and a secret for a new webhook.
    #[must_use]
    pub fn fresh() -> (WebhookId, Secret) {
        let secret = rand::random::<[u8; 32]>().iter().fold(String::with_capacity(64), |mut text, byte| {
            use std::fmt::Write as _;
            let _ = write!(text, "{byte:02x}");
            text
        });
        (WebhookId::from_random(rand::random()), Secret(secret))
    }

    fn look(&self) {
        // Without the other end the daemon is stopping; the rows say it all to the next one.
        let _ = self.commands.send(Command::Look);
    }

    async fn end_line(&self, id: &WebhookId) {
        let (ended, told) = oneshot::channel();
        let _ = self.commands.send(Command::End(id.clone(), ended));
        let _ = told.await;
    }
}

/// Events of this journal are told apart from those of any other by a seed that is made once.
async fn event_names(store: &Store) -> Result<EventNames, StoreError> {
    let stored = store.values.get(MARKS, JOURNAL).await?;
    if let Some(names) = stored.and_then(|seed| String::from_utf8(seed).ok()).and_then(|seed| EventNames::new(&seed)) {
        return Ok(names);
    }
    let seed = format!("{:012x}", rand::random::<u64>() >> 16);
    store.values.put(MARKS, JOURNAL, Some(seed.clone().into_bytes())).await?;
    EventNames::new(&seed).ok_or_else(|| StoreError::Unavailable("no name for the journal".to_owned()))
}

/// Runs to its end, whether somebody waits for the answer or not.
async fn finish<T: Send + 'static>(
    work: impl Future<Output = Result<T, StoreError>> + Send + 'static,
) -> Result<T, StoreError> {
    match tokio::spawn(work).await {
        Ok(answer) => answer,
        Err(error) => Err(StoreError::Unavailable(format!("an internal error: {error}"))),
    }
}
