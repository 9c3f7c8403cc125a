//! The outgoing queue: the one way out, whatever the source.
//!
//! Owns the order, the pace and the fate of outgoing messages; the rows are the store's. Woken by what is enqueued, by
//! what the session tells, by changes of link and settings, and by time. It never holds a transaction across the
//! network, and nothing that was accepted rides on its memory: at start everything is read from the rows again.

mod care;
mod courier;
mod flights;
mod gauge;
mod hold;
mod ids;
mod ledger;
mod luggage;
mod pace;
mod policy;
mod ranks;
mod retention;
mod settler;
mod state;
mod trouble;
mod worker;

#[cfg(test)]
mod care_tests;
#[cfg(test)]
mod chaos_tests;
#[cfg(test)]
mod fault_tests;
#[cfg(test)]
mod hold_tests;
#[cfg(test)]
mod pace_tests;
#[cfg(test)]
mod state_tests;
#[cfg(test)]
mod testing;
#[cfg(test)]
mod typing_tests;
#[cfg(test)]
mod worker_tests;

use std::sync::Arc;

use tokio::sync::{Mutex, mpsc, oneshot, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

pub use care::opt_outs::{By, OPTED_OUT, OptOut, OptOuts};
pub use hold::{Hold, Outlook};
pub use policy::NO_ANSWER;

use crate::bus::{Bus, BusEvent};
use crate::clock::Clock;
use crate::media::Media;
use crate::model::{
    Change, ChatId, Content, Lane, Member, MessageId, NackReason, NewMessage, ReceiptKind, Source, Timestamp,
    WhatsAppId,
};
use crate::session::WhatsApp;
use crate::settings::Snapshot;
use crate::store::{Batch, ByPhone, Changed, Enqueued, Idempotency, ListFilter, MARKS, OpenMessage, Store, StoreError};
pub use crate::store::{Known, Placed};
use gauge::Gauge;
use ids::IdGenerator;
use ledger::Ledger;
use worker::{Input, View, Worker};

const PAUSED: &str = "queue.paused";

/// A message as a caller wants it.
#[derive(Debug, Clone)]
pub struct Draft {
    /// Where it goes.
    pub chat: ChatId,
    /// The text, byte for byte.
    pub text: String,
    /// What it is beside its text.
    pub content: Content,
    /// The caller's own id.
    pub reference_id: Option<String>,
    /// Which lane it waits in.
    pub lane: Lane,
    /// Which door it came through.
    pub source: Source,
    /// Not before this time.
    pub not_before: Option<Timestamp>,
}

/// What became of a request to enqueue.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Accepted {
    /// On disk, in the order given.
    Fresh(Vec<Placed>),
    /// The same request was accepted before, and this was the answer.
    Repeat(Vec<Known>),
    /// The idempotency key was used with another body.
    Conflict,
}

/// What the queue stands on.
#[derive(Debug, Clone)]
pub struct Parts {
    /// The account's store.
    pub store: Store,
    /// The link to WhatsApp.
    pub session: Arc<dyn WhatsApp>,
    /// The files.
    pub media: Media,
    /// What the user may change.
    pub settings: watch::Receiver<Snapshot>,
    /// The time.
    pub clock: Arc<dyn Clock>,
    /// What just happened.
    pub bus: Bus,
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
    gauge: Arc<Gauge>,
    opt_outs: OptOuts,
    /// What users decide about single messages reaches the worker in the order in which the store carried it out.
    by_hand: Mutex<()>,
}

/// How messages would leave that are not accepted yet, as if the link were up and the queue ran.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fits {
    /// So many today.
    pub today: u64,
    /// So many on later days.
    pub later: u64,
    /// When the last one does, as far as anybody can tell.
    pub last_leaves_at: Option<Timestamp>,
    /// So many on no day that is known: to strangers, while WhatsApp lets this account write to none.
    pub strangers: u64,
}

/// How the queue stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Standing {
    /// Nothing leaves until somebody resumes it.
    pub paused: bool,
    /// How many are on their way: claimed, and neither acknowledged nor put back yet.
    pub in_flight: usize,
    /// How many stand in line, by lane in the order they leave.
    pub waiting: [u64; 4],
    /// How many wait for a time of their own.
    pub scheduled: usize,
    /// Acceptance time of the oldest one in line.
    pub oldest: Option<Timestamp>,
    /// Not before this time will the next one leave that is no reply; `None`: at once.
    pub next_departure: Option<Timestamp>,
}

impl Queue {
    /// Reads the rows, puts back what was on its way when the daemon stopped, and starts to work.
    /// It ends when `shutdown` is cancelled: what waits for WhatsApp's answer then goes back, under its id.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub async fn start(parts: Parts, tasks: &TaskTracker, shutdown: CancellationToken) -> Result<Self, StoreError> {
        let Parts { store, session, media, settings, clock, bus } = parts;
        let newest = store.outbox.list(ListFilter { limit: 1, ..ListFilter::default() }).await?;
        let paused = store.values.get(MARKS, PAUSED).await?.is_some();
        let (inputs, receiver) = mpsc::unbounded_channel();
        let (view_sender, view) = watch::channel(View { paused, ..View::default() });
        let gauge = Arc::<Gauge>::default();
        let opt_outs = OptOuts::open(store.clone()).await?;
        let worker = Worker::open(worker::Parts {
            ledger: Ledger::new(store.clone(), Arc::clone(&clock), bus.clone()),
            session,
            media: media.clone(),
            settings: settings.clone(),
            inputs: inputs.clone(),
            view: view_sender,
            gauge: Arc::clone(&gauge),
            opt_outs: opt_outs.clone(),
        })
        .await;
        tasks.spawn(worker.run(receiver, shutdown.clone()));
        tasks.spawn(retention::run(store.clone(), media, settings, Arc::clone(&clock), shutdown));
        let ids = IdGenerator::after(newest.first().map(|message| message.id));
        let by_hand = Mutex::new(());
        Ok(Self(Arc::new(Inner { store, clock, bus, ids, inputs, view, gauge, opt_outs, by_hand })))
    }

    /// Accepts messages, all or none; answers once they are on disk. What was begun is finished also when the caller
    /// does not wait for it.
    ///
    /// # Errors
    /// When the store does not take them; then none of them is queued, unless it broke in the very moment of writing.
    pub async fn enqueue(&self, drafts: Vec<Draft>, idempotency: Option<Idempotency>) -> Result<Accepted, StoreError> {
        let queue = self.clone();
        finish(async move { queue.accept(drafts, idempotency).await }).await
    }

    async fn accept(&self, drafts: Vec<Draft>, mut idempotency: Option<Idempotency>) -> Result<Accepted, StoreError> {
        let now = self.0.clock.now();
        let messages: Vec<NewMessage> = drafts.into_iter().map(|draft| self.message(draft, now)).collect();
        let open: Vec<OpenMessage> = messages.iter().map(OpenMessage::from).collect();
        let shown = if self.0.bus.is_heard() { messages.clone() } else { Vec::new() };
        // What is answered goes to disk with the rows, for whoever asks again; hence it is reckoned before.
        let positions = self.0.gauge.next(&open);
        if let Some(asked) = &mut idempotency {
            asked.positions.clone_from(&positions);
        }
        let enqueued = self.0.store.outbox.enqueue(Batch { messages, idempotency }).await;
        match enqueued.inspect_err(|error| self.doubt(error))? {
            Enqueued::Fresh => {
                let place = |(open, position): (&OpenMessage, u64)| {
                    self.0.gauge.joins(open.lane);
                    Placed { id: open.id, position }
                };
                let placed = open.iter().zip(positions).map(place).collect();
                self.tell(Input::Accepted(open));
                for message in shown {
                    self.0.bus.publish(BusEvent::Message(Box::new(message.into())));
                }
                Ok(Accepted::Fresh(placed))
            }
            Enqueued::Repeat(known) => Ok(Accepted::Repeat(known)),
            Enqueued::Conflict => Ok(Accepted::Conflict),
        }
    }

    /// A store that broke while it wrote may have written: the worker looks when it works again.
    fn doubt(&self, error: &StoreError) {
        if matches!(error, StoreError::Unavailable(_)) {
            self.tell(Input::InDoubt);
        }
    }

    fn message(&self, draft: Draft, now: Timestamp) -> NewMessage {
        NewMessage {
            id: self.0.ids.next(now),
            reference_id: draft.reference_id,
            chat: draft.chat,
            text: draft.text,
            content: draft.content,
            lane: draft.lane,
            source: draft.source,
            whatsapp_id: WhatsAppId::from_random(rand::random()),
            created_at: now,
            not_before: draft.not_before,
        }
    }

    /// Takes a pending message back.
    ///
    /// # Errors
    /// When the store does not answer.
    pub async fn cancel(&self, id: MessageId) -> Result<Changed, StoreError> {
        self.change(id, Change::Cancel, |open| Input::Gone(open.id)).await
    }

    /// Tries a failed or cancelled message again, under the same WhatsApp id.
    ///
    /// # Errors
    /// When the store does not answer.
    pub async fn retry(&self, id: MessageId) -> Result<Changed, StoreError> {
        self.change(id, Change::RetryByHand, Input::Again).await
    }

    async fn change(
        &self,
        id: MessageId,
        change: Change,
        input: impl FnOnce(OpenMessage) -> Input + Send + 'static,
    ) -> Result<Changed, StoreError> {
        let queue = self.clone();
        finish(async move {
            let inner = &queue.0;
            let _one_by_one = inner.by_hand.lock().await;
            let changed = inner.store.outbox.change(id, change, inner.clock.now()).await;
            let changed = changed.inspect_err(|error| queue.doubt(error))?;
            if let Changed::Yes(message) = &changed {
                let mut open = OpenMessage::from(&**message);
                ByPhone::new(&inner.store).name(&mut open.chat).await;
                queue.tell(input(open));
                inner.bus.publish(BusEvent::Message(message.clone()));
            }
            Ok(changed)
        })
        .await
    }

    /// Nothing leaves until [`Queue::resume`], also after a restart.
    ///
    /// # Errors
    /// When the store does not take it.
    pub async fn pause(&self) -> Result<(), StoreError> {
        self.set_paused(true).await
    }

    /// Messages leave again.
    ///
    /// # Errors
    /// When the store does not take it.
    pub async fn resume(&self) -> Result<(), StoreError> {
        self.set_paused(false).await
    }

    async fn set_paused(&self, paused: bool) -> Result<(), StoreError> {
        let queue = self.clone();
        finish(async move {
            // One at a time: what is on disk and what the worker does must not cross.
            let _alone = queue.0.by_hand.lock().await;
            queue.0.store.values.put(MARKS, PAUSED, paused.then(|| b"1".to_vec())).await?;
            queue.tell(Input::Pause(paused));
            // The answer must not overtake the effect; without a worker there is none to wait for.
            let _ = queue.0.view.clone().wait_for(|view| view.paused == paused).await;
            Ok(())
        })
        .await
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

    /// How the queue stands.
    #[must_use]
    pub fn standing(&self) -> Standing {
        let view = *self.0.view.borrow();
        Standing {
            paused: view.paused,
            in_flight: view.in_flight,
            waiting: Lane::ALL.map(|lane| self.0.gauge.waiting(lane)),
            scheduled: view.scheduled,
            oldest: view.oldest,
            next_departure: view.next_departure,
        }
    }

    /// How many leave before this one, and itself; zero when it does not wait.
    pub async fn position(&self, id: MessageId) -> u64 {
        let (sender, receiver) = oneshot::channel();
        self.tell(Input::Position(id, sender));
        receiver.await.unwrap_or(0)
    }

    /// Why each of these waits, where it stands and when it will leave; nothing of one that does not wait.
    pub async fn outlooks(&self, ids: Vec<MessageId>) -> Vec<Outlook> {
        let count = ids.len();
        if count == 0 {
            return Vec::new();
        }
        let (sender, receiver) = oneshot::channel();
        self.tell(Input::Outlooks(ids, sender));
        // Without a worker the daemon is stopping, and nobody knows.
        receiver.await.unwrap_or_else(|_| vec![Outlook::default(); count])
    }

    /// When messages to these chats would leave, were they accepted now.
    ///
    /// # Errors
    /// When the store cannot say who has written to us.
    pub async fn fits(&self, chats: &[ChatId], lane: Lane, not_before: Option<Timestamp>) -> Result<Fits, StoreError> {
        let mut strangers = 0;
        if lane != Lane::Reply && self.0.view.borrow().locked {
            for chat in chats.iter().filter(|chat| chat.is_person()) {
                let contact = match chat.phone_number() {
                    Some(phone) => self.0.store.contacts.by_phone(phone).await?,
                    None => self.0.store.contacts.by_lid(chat.user()).await?,
                };
                strangers += u64::from(contact.and_then(|contact| contact.wrote_at).is_none());
            }
        }
        let count = (chats.len() as u64).saturating_sub(strangers);
        let (sender, receiver) = oneshot::channel();
        self.tell(Input::Fits(count, lane, not_before, sender));
        let fits = receiver.await.map_err(|_| StoreError::Unavailable("the daemon is stopping".to_owned()))?;
        Ok(Fits { strangers, last_leaves_at: fits.last_leaves_at.filter(|_| strangers == 0), ..fits })
    }

    /// Who wants no more messages that we start.
    #[must_use]
    pub fn opt_outs(&self) -> &OptOuts {
        &self.0.opt_outs
    }

    /// Somebody wrote to this account, and it is on disk.
    pub fn on_wrote(&self, chat: ChatId) {
        self.tell(Input::Wrote(chat));
    }

    /// Somebody is on the do-not-send list from now on: what waits for them and was started by us is given up.
    pub fn on_opted_out(&self, chat: ChatId) {
        self.tell(Input::GiveUp(chat, OPTED_OUT));
    }

    /// The account is linked no more; what WhatsApp held against it goes with it.
    pub fn on_account_gone(&self) {
        self.tell(Input::AccountGone);
    }

    /// The server took a message, or refused it.
    pub fn on_server_ack(&self, id: WhatsAppId, refused: Option<NackReason>) {
        self.tell(Input::ServerAck(id, refused));
    }

    /// A receipt came for these messages. `from` is for groups: the member whose it is, by every address known.
    pub fn on_receipt(&self, ids: Vec<WhatsAppId>, from: &[Member], kind: ReceiptKind, at: Timestamp) {
        for id in ids {
            self.tell(Input::Receipt(id, from.to_vec(), kind, at));
        }
    }

    /// A person's LID and phone digits belong together: from now on they are one chat. To be told before the store
    /// learns it, so that nothing accepted by phone passes what was accepted by LID.
    pub fn on_pair(&self, lid: &str, phone: &str) {
        self.tell(Input::Pair(ChatId::lid(lid), ChatId::phone(phone)));
    }

    fn tell(&self, input: Input) {
        // Without a worker the daemon is stopping; the rows say it all to the next one.
        let _ = self.0.inputs.send(input);
    }
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
