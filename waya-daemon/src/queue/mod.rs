//! The outgoing queue: the one way out, whatever the source.
//!
//! Owns the order, the pace and the fate of outgoing messages; the rows are the store's. Woken by what is enqueued, by
//! what the session tells, by changes of link and settings, and by time. It never holds a transaction across the
//! network, and nothing that was accepted rides on its memory: at start everything is read from the rows again.

mod courier;
mod ids;
mod policy;
mod state;
mod worker;

#[cfg(test)]
mod state_tests;
#[cfg(test)]
mod worker_tests;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::sync::{mpsc, oneshot, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

pub use policy::{Hold, NO_ANSWER};

use crate::bus::{Bus, BusEvent};
use crate::clock::Clock;
use crate::model::{
    Change, ChatId, Lane, Message, MessageId, NackReason, NewMessage, ReceiptKind, Source, Timestamp, WhatsAppId,
};
use crate::session::{Link, WhatsApp};
use crate::settings::Snapshot;
use crate::store::{Batch, Changed, Enqueued, Idempotency, ListFilter, OpenMessage, Store, StoreError};
use ids::IdGenerator;
use worker::{Input, View, Worker};

/// Where the marks of the queue stand in the store.
const MARKS: &str = "marks";
const PAUSED: &str = "queue.paused";

/// A message as a caller wants it.
#[derive(Debug, Clone)]
pub struct Draft {
    /// Where it goes.
    pub chat: ChatId,
    /// The text, byte for byte.
    pub text: String,
    /// The caller's own id.
    pub reference_id: Option<String>,
    /// Which lane it waits in.
    pub lane: Lane,
    /// Which door it came through.
    pub source: Source,
    /// Not before this time.
    pub not_before: Option<Timestamp>,
}

/// An accepted message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Placed {
    /// Its queue id.
    pub id: MessageId,
    /// How many leave before it, and itself.
    pub position: u64,
}

/// What became of a request to enqueue.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Accepted {
    /// On disk, in the order given.
    Fresh(Vec<Placed>),
    /// The same request was accepted before, under these ids.
    Repeat(Vec<MessageId>),
    /// The idempotency key was used with another body.
    Conflict,
}

/// A cheap handle to the queue of one account.
#[derive(Debug, Clone)]
pub struct Queue(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    store: Store,
    clock: Arc<dyn Clock>,
    bus: Bus,
    ids: IdGenerator,
    inputs: mpsc::UnboundedSender<Input>,
    view: watch::Receiver<View>,
    link: watch::Receiver<Link>,
    /// How many wait in each lane.
    waiting: Arc<[AtomicU64; 4]>,
}

impl Queue {
    /// Reads the rows, puts back what was on its way when the daemon stopped, and starts to work.
    /// It ends when `shutdown` is cancelled: what waits for WhatsApp's answer then goes back, under its id.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub async fn start(
        store: Store,
        session: Arc<dyn WhatsApp>,
        settings: watch::Receiver<Snapshot>,
        clock: Arc<dyn Clock>,
        bus: Bus,
        tasks: &TaskTracker,
        shutdown: CancellationToken,
    ) -> Result<Self, StoreError> {
        let newest = store.outbox.list(ListFilter { limit: 1, ..ListFilter::default() }).await?;
        let paused = store.values.get(MARKS, PAUSED).await?.is_some();
        let (inputs, receiver) = mpsc::unbounded_channel();
        let (view_sender, view) = watch::channel(View { paused, ..View::default() });
        let link = session.link();
        let waiting = Arc::<[AtomicU64; 4]>::default();
        let worker = Worker::open(worker::Parts {
            store: store.clone(),
            session,
            settings: settings.clone(),
            clock: Arc::clone(&clock),
            bus: bus.clone(),
            inputs: inputs.clone(),
            view: view_sender,
            waiting: Arc::clone(&waiting),
        })
        .await?;
        tasks.spawn(worker.run(receiver, shutdown.clone()));
        tasks.spawn(worker::prune(store.clone(), settings, Arc::clone(&clock), shutdown));
        let ids = IdGenerator::after(newest.first().map(|message| message.id));
        Ok(Self(Arc::new(Inner { store, clock, bus, ids, inputs, view, link, waiting })))
    }

    /// Accepts messages, all or none; answers once they are on disk.
    ///
    /// # Errors
    /// When the store does not take them; then none of them is queued.
    pub async fn enqueue(&self, drafts: Vec<Draft>, idempotency: Option<Idempotency>) -> Result<Accepted, StoreError> {
        let now = self.0.clock.now();
        let messages: Vec<NewMessage> = drafts.into_iter().map(|draft| self.message(draft, now)).collect();
        let open: Vec<OpenMessage> = messages.iter().map(OpenMessage::from).collect();
        match self.0.store.outbox.enqueue(Batch { messages, idempotency }).await? {
            Enqueued::Fresh => {
                let placed = open.iter().map(|open| Placed { id: open.id, position: self.joins(open.lane) }).collect();
                self.tell(Input::Accepted(open));
                Ok(Accepted::Fresh(placed))
            }
            Enqueued::Repeat(ids) => Ok(Accepted::Repeat(ids)),
            Enqueued::Conflict => Ok(Accepted::Conflict),
        }
    }

    fn message(&self, draft: Draft, now: Timestamp) -> NewMessage {
        NewMessage {
            id: self.0.ids.next(now),
            reference_id: draft.reference_id,
            chat: draft.chat,
            text: draft.text,
            lane: draft.lane,
            source: draft.source,
            whatsapp_id: WhatsAppId::from_random(rand::random()),
            created_at: now,
            not_before: draft.not_before,
        }
    }

    /// Counts one more in its lane; how many stand before it in the lanes that leave first, and itself.
    fn joins(&self, lane: Lane) -> u64 {
        let waiting = &self.0.waiting;
        waiting[lane as usize].fetch_add(1, Ordering::Relaxed);
        waiting[..=lane as usize].iter().map(|count| count.load(Ordering::Relaxed)).sum()
    }

    /// Takes a pending message back.
    ///
    /// # Errors
    /// When the store does not answer.
    pub async fn cancel(&self, id: MessageId) -> Result<Changed, StoreError> {
        let changed = self.change(id, Change::Cancel).await?;
        if matches!(changed, Changed::Yes(_)) {
            self.tell(Input::Gone(id));
        }
        Ok(changed)
    }

    /// Tries a failed or cancelled message again, under the same WhatsApp id.
    ///
    /// # Errors
    /// When the store does not answer.
    pub async fn retry(&self, id: MessageId) -> Result<Changed, StoreError> {
        let changed = self.change(id, Change::RetryByHand).await?;
        if let Changed::Yes(message) = &changed {
            self.joins(message.lane);
            self.tell(Input::Accepted(vec![OpenMessage::from(message.as_ref())]));
        }
        Ok(changed)
    }

    async fn change(&self, id: MessageId, change: Change) -> Result<Changed, StoreError> {
        let changed = self.0.store.outbox.change(id, change, self.0.clock.now()).await?;
        if let Changed::Yes(message) = &changed {
            self.0.bus.publish(BusEvent::Message(message.clone()));
        }
        Ok(changed)
    }

    /// Nothing leaves until [`Queue::resume`], also after a restart.
    ///
    /// # Errors
    /// When the store does not take it.
    pub async fn pause(&self) -> Result<(), StoreError> {
        self.0.store.values.put(MARKS, PAUSED, Some(b"1".to_vec())).await?;
        self.set_paused(true).await;
        Ok(())
    }

    /// Messages leave again.
    ///
    /// # Errors
    /// When the store does not take it.
    pub async fn resume(&self) -> Result<(), StoreError> {
        self.0.store.values.put(MARKS, PAUSED, None).await?;
        self.set_paused(false).await;
        Ok(())
    }

    async fn set_paused(&self, paused: bool) {
        self.tell(Input::Pause(paused));
        // The answer must not overtake the effect; without a worker there is none to wait for.
        let _ = self.0.view.clone().wait_for(|view| view.paused == paused).await;
    }

    /// Whether it is paused.
    #[must_use]
    pub fn is_paused(&self) -> bool {
        self.0.view.borrow().paused
    }

    /// Acceptance time of the oldest one that waits.
    #[must_use]
    pub fn oldest_pending(&self) -> Option<Timestamp> {
        self.0.view.borrow().oldest
    }

    /// How many leave before this one, and itself; zero when it does not wait.
    pub async fn position(&self, id: MessageId) -> u64 {
        let (sender, receiver) = oneshot::channel();
        self.tell(Input::Position(id, sender));
        receiver.await.unwrap_or(0)
    }

    /// Why a message waits, and until when if that is known.
    #[must_use]
    pub fn hold(&self, message: &Message) -> Option<Hold> {
        let view = *self.0.view.borrow();
        let departure = view.departures[usize::from(message.lane != Lane::Reply)];
        let link = self.0.link.borrow();
        policy::hold(message, view.paused, &link.state, departure, self.0.clock.now())
    }

    /// The server took a message, or refused it.
    pub fn on_server_ack(&self, id: WhatsAppId, refused: Option<NackReason>) {
        self.tell(Input::ServerAck(id, refused));
    }

    /// A receipt came for these messages.
    pub fn on_receipt(&self, ids: Vec<WhatsAppId>, kind: ReceiptKind, at: Timestamp) {
        for id in ids {
            self.tell(Input::Receipt(id, kind, at));
        }
    }

    fn tell(&self, input: Input) {
        // Without a worker the daemon is stopping; the rows say it all to the next one.
        let _ = self.0.inputs.send(input);
    }
}
