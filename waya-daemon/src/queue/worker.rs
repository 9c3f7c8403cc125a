//! The task that owns the queue's state: chooses, sends off, and settles what comes back.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::MARKS;
use super::courier::Courier;
use super::policy::{self, Attempt};
use super::state::State;
use crate::bus::Bus;
use crate::clock::Clock;
use crate::model::{Change, Lane, MessageId, NackReason, ReceiptKind, Status, Timestamp, WhatsAppId};
use crate::session::{Link, WhatsApp};
use crate::settings::Snapshot;
use crate::store::{Changed, OpenMessage, Store, StoreError};

/// So many may be on their way at once when there is no pace.
const WINDOW: usize = 64;
/// The longest sleep: wall time may be set, or the machine may have been asleep.
const LONGEST_SLEEP: Duration = Duration::from_secs(30);
/// How often waiting offline is counted, at least.
const TROUBLE_STEP: Duration = Duration::from_secs(60);
/// Since when the account has been offline, in the store, so that a restart does not start the count again.
const OFFLINE_SINCE: &str = "queue.offline_since";
/// So many are given up in one step; the rest follows in the next.
const EXPIRE_AT_ONCE: usize = 1000;
/// How long a stop waits for acks that may come any moment.
const DRAIN: Duration = Duration::from_secs(3);
/// How often retention looks.
const PRUNE_EVERY: Duration = Duration::from_secs(10 * 60);

/// Everything that wakes the worker, in one line, so that causes come before effects.
#[derive(Debug)]
pub(super) enum Input {
    /// New rows, on disk.
    Accepted(Vec<OpenMessage>),
    /// A row that is none of the queue's any more.
    Gone(MessageId),
    /// Pause or resume.
    Pause(bool),
    /// Where a message stands in the line.
    Position(MessageId, oneshot::Sender<u64>),
    /// The row is claimed, with this many attempts spent.
    Claimed(MessageId, WhatsAppId, u32),
    /// It is in WhatsApp's hands, by the client library's word.
    HandedOver(MessageId),
    /// It is not.
    NotHandedOver(MessageId, Attempt),
    /// The server's word.
    ServerAck(WhatsAppId, Option<NackReason>),
    /// A device's word.
    Receipt(WhatsAppId, ReceiptKind, Timestamp),
    /// A row after a change, and when it is to be tried again.
    Settled(MessageId, Box<Changed>, Option<Timestamp>),
}

/// What handles may see.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct View {
    pub(super) paused: bool,
    pub(super) oldest: Option<Timestamp>,
    /// When the next one may leave: a reply, any other.
    pub(super) departures: [Option<Timestamp>; 2],
}

/// What the worker is made of.
pub(super) struct Parts {
    pub(super) store: Store,
    pub(super) session: Arc<dyn WhatsApp>,
    pub(super) settings: watch::Receiver<Snapshot>,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) bus: Bus,
    pub(super) inputs: mpsc::UnboundedSender<Input>,
    pub(super) view: watch::Sender<View>,
    pub(super) waiting: Arc<[AtomicU64; 4]>,
}

/// How far one that is on its way has got.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// Being claimed, checked, encrypted, written.
    HandingOver,
    /// Handed over; the ack is due by then.
    AwaitingAck(Timestamp),
    /// Its row is being settled.
    Settling,
}

#[derive(Debug)]
struct Flight {
    stage: Stage,
    attempts: u32,
    whatsapp_id: Option<WhatsAppId>,
}

pub(super) struct Worker {
    courier: Courier,
    link: watch::Receiver<Link>,
    settings: watch::Receiver<Snapshot>,
    view: watch::Sender<View>,
    waiting: Arc<[AtomicU64; 4]>,
    state: State,
    flights: HashMap<MessageId, Flight>,
    by_whatsapp_id: HashMap<WhatsAppId, MessageId>,
    /// When the next one may leave: a reply, any other.
    departures: [Option<Timestamp>; 2],
    /// Up to when offline time has been counted; `None` while connected.
    offline_counted: Option<Timestamp>,
    /// The store knows since when.
    offline_marked: bool,
    couriers: JoinSet<()>,
}

impl Worker {
    /// Reads the rows and puts back what was on its way when the daemon stopped.
    pub(super) async fn open(parts: Parts) -> Result<Self, StoreError> {
        let Parts { store, session, settings, clock, bus, inputs, view, waiting } = parts;
        let now = clock.now();
        let mut state = State::default();
        let mut interrupted = 0;
        for mut open in store.outbox.open().await? {
            if open.status == Status::Sending {
                store.outbox.change(open.id, Change::PutBack, now).await?;
                open.attempts = open.attempts.saturating_sub(1);
                interrupted += 1;
            }
            waiting[open.lane as usize].fetch_add(1, Ordering::Relaxed);
            state.insert(open, now);
        }
        if interrupted > 0 {
            tracing::info!(
                interrupted,
                "messages were on their way when the daemon stopped; they go again under their ids"
            );
        }
        let since = store.values.get(MARKS, OFFLINE_SINCE).await?;
        let since: Option<u64> = since.and_then(|bytes| String::from_utf8(bytes).ok()?.parse().ok());
        let link = session.link();
        let courier = Courier { store, session, clock, bus, inputs };
        Ok(Self {
            courier,
            link,
            settings,
            view,
            waiting,
            state,
            flights: HashMap::new(),
            by_whatsapp_id: HashMap::new(),
            departures: [None; 2],
            offline_counted: Some(since.map_or(now, Timestamp::from_millis)),
            offline_marked: since.is_some(),
            couriers: JoinSet::new(),
        })
    }

    /// Works until told to stop, then lets what is on its way come to an end for a moment, and puts the rest back.
    pub(super) async fn run(mut self, mut inputs: mpsc::UnboundedReceiver<Input>, shutdown: CancellationToken) {
        self.link_changed().await;
        loop {
            self.advance();
            let sleep = self.sleep();
            tokio::select! {
                () = shutdown.cancelled() => break,
                Some(input) = inputs.recv() => self.take(input, &mut inputs),
                changed = self.link.changed() => {
                    if changed.is_err() { break }
                    self.link_changed().await;
                }
                Ok(()) = self.settings.changed() => {}
                Some(_) = self.couriers.join_next(), if !self.couriers.is_empty() => {}
                () = tokio::time::sleep(sleep) => {}
            }
        }
        self.drain(inputs).await;
    }

    fn take(&mut self, first: Input, inputs: &mut mpsc::UnboundedReceiver<Input>) {
        self.handle(first);
        // Whatever waits behind it, before the next choice is made.
        while let Ok(input) = inputs.try_recv() {
            self.handle(input);
        }
    }

    fn now(&self) -> Timestamp {
        self.courier.clock.now()
    }

    fn handle(&mut self, input: Input) {
        let now = self.now();
        match input {
            Input::Accepted(messages) => messages.into_iter().for_each(|open| self.state.insert(open, now)),
            Input::Gone(id) => self.forget(id),
            Input::Pause(paused) => self.view.send_modify(|view| view.paused = paused),
            Input::Position(id, reply) => drop(reply.send(self.state.position(id))),
            Input::Claimed(id, whatsapp_id, attempts) => {
                if let Some(flight) = self.flights.get_mut(&id) {
                    flight.attempts = attempts;
                    flight.whatsapp_id = Some(whatsapp_id.clone());
                    self.by_whatsapp_id.insert(whatsapp_id, id);
                }
            }
            Input::HandedOver(id) => self.handed_over(id, now),
            Input::NotHandedOver(id, attempt) => self.attempt_ended(id, &attempt),
            Input::ServerAck(whatsapp_id, refused) => self.acked(whatsapp_id, refused),
            Input::Receipt(whatsapp_id, kind, at) => self.settle_late(whatsapp_id, Change::Receipt { kind, at }),
            Input::Settled(id, changed, retry_at) => self.settled(id, &changed, retry_at, now),
        }
    }

    /// Sends off whatever may leave now.
    fn advance(&mut self) {
        let now = self.now();
        self.state.wake(now);
        self.expire_acks(now);
        self.count_trouble(now);
        while let Some(id) = self.choose(now) {
            self.state.start(id);
            self.flights.insert(id, Flight { stage: Stage::HandingOver, attempts: 0, whatsapp_id: None });
            self.couriers.spawn(self.courier.clone().carry(id));
        }
        let view = View { paused: self.view.borrow().paused, oldest: self.state.oldest(), departures: self.departures };
        self.view.send_if_modified(|seen| std::mem::replace(seen, view) != view);
    }

    fn choose(&self, now: Timestamp) -> Option<MessageId> {
        if self.view.borrow().paused || !self.link.borrow().state.is_connected() {
            return None;
        }
        let window = if self.paced() { 1 } else { WINDOW };
        let handing_over = self.flights.values().filter(|flight| flight.stage == Stage::HandingOver).count();
        if handing_over >= window || self.state.in_flight() >= WINDOW {
            return None;
        }
        self.state.next(|lane| self.departures[slot(lane)].is_none_or(|at| at <= now))
    }

    /// With a pace, hand-overs are one at a time, so that the gap between two is what was asked for.
    fn paced(&self) -> bool {
        let settings = self.settings.borrow();
        !(settings.delay.is_zero() && settings.jitter.is_zero())
    }

    fn handed_over(&mut self, id: MessageId, now: Timestamp) {
        {
            let settings = self.settings.borrow();
            for lane in [Lane::Reply, Lane::Normal] {
                self.departures[slot(lane)] = Some(now.plus(policy::gap(lane, &settings, rand::random())));
            }
        }
        let due = now.plus(self.settings.borrow().ack_timeout);
        // The ack may have been quicker.
        if let Some(flight) = self.flights.get_mut(&id).filter(|flight| flight.stage == Stage::HandingOver) {
            flight.stage = Stage::AwaitingAck(due);
        }
    }

    fn acked(&mut self, whatsapp_id: WhatsAppId, refused: Option<NackReason>) {
        match (self.by_whatsapp_id.get(&whatsapp_id).copied(), refused) {
            (Some(id), None) => self.settle(id, Change::Acked),
            (Some(id), Some(reason)) => self.attempt_ended(id, &Attempt::Refused(reason)),
            (None, None) => self.settle_late(whatsapp_id, Change::Acked),
            // A refusal of an attempt that was given up before changes nothing.
            (None, Some(_)) => {}
        }
    }

    fn expire_acks(&mut self, now: Timestamp) {
        let late = |flight: &Flight| matches!(flight.stage, Stage::AwaitingAck(due) if due <= now);
        let expired: Vec<_> = self.flights.iter().filter(|(_, flight)| late(flight)).map(|(id, _)| *id).collect();
        if expired.is_empty() {
            return;
        }
        // A connection that swallows acks may be dead: have it prove that it lives.
        let session = Arc::clone(&self.courier.session);
        self.couriers.spawn(async move {
            session.probe().await;
        });
        for id in expired {
            self.attempt_ended(id, &Attempt::NoAnswer);
        }
    }

    fn attempt_ended(&mut self, id: MessageId, attempt: &Attempt) {
        let Some(flight) = self.flights.get(&id).filter(|flight| flight.stage != Stage::Settling) else { return };
        let change = policy::after(attempt, flight.attempts, &self.settings.borrow(), self.now(), rand::random());
        self.settle(id, change);
    }

    fn settle(&mut self, id: MessageId, change: Change) {
        let Some(flight) = self.flights.get_mut(&id).filter(|flight| flight.stage != Stage::Settling) else { return };
        flight.stage = Stage::Settling;
        self.couriers.spawn(self.courier.clone().settle(id, change));
    }

    fn settle_late(&mut self, whatsapp_id: WhatsAppId, change: Change) {
        self.couriers.spawn(self.courier.clone().settle_late(whatsapp_id, change));
    }

    fn settled(&mut self, id: MessageId, changed: &Changed, retry_at: Option<Timestamp>, now: Timestamp) {
        let status = match changed {
            Changed::Yes(message) | Changed::Already(message) => Some(message.status),
            Changed::Refused(refusal) => Some(refusal.status),
            Changed::Unknown => None,
        };
        let settling = self.flights.get(&id).is_some_and(|flight| flight.stage == Stage::Settling);
        match status {
            Some(Status::Pending) if settling => {
                self.land(id);
                self.state.put_back(id, retry_at, now);
            }
            Some(Status::Pending | Status::Sending) => {}
            // A receipt or a late ack may finish one that the worker still has on its way, or in the line.
            _ => self.forget(id),
        }
    }

    /// Takes one off its way.
    fn land(&mut self, id: MessageId) {
        if let Some(whatsapp_id) = self.flights.remove(&id).and_then(|flight| flight.whatsapp_id) {
            self.by_whatsapp_id.remove(&whatsapp_id);
        }
    }

    fn forget(&mut self, id: MessageId) {
        self.land(id);
        if let Some(lane) = self.state.entry(id).map(|entry| entry.lane) {
            self.waiting[lane as usize].fetch_sub(1, Ordering::Relaxed);
        }
        let now = self.now();
        self.state.remove(id, now);
    }

    /// The link came or went. What was handed over and not acknowledged on the old connection goes again.
    async fn link_changed(&mut self) {
        let connected = self.link.borrow_and_update().state.is_connected();
        let now = self.now();
        if connected {
            self.count_trouble(now);
            self.offline_counted = None;
            if std::mem::take(&mut self.offline_marked) {
                self.mark_offline(None).await;
            }
            return;
        }
        let since = *self.offline_counted.get_or_insert(now);
        if !std::mem::replace(&mut self.offline_marked, true) {
            self.mark_offline(Some(since)).await;
        }
        let awaiting = |flight: &Flight| matches!(flight.stage, Stage::AwaitingAck(_));
        let cut: Vec<_> = self.flights.iter().filter(|(_, flight)| awaiting(flight)).map(|(id, _)| *id).collect();
        for id in cut {
            let cuts = self.state.cut(id);
            self.attempt_ended(id, &Attempt::Cut(cuts));
        }
    }

    async fn mark_offline(&self, since: Option<Timestamp>) {
        let value = since.map(|at| at.as_millis().to_string().into_bytes());
        if let Err(error) = self.courier.store.values.put(MARKS, OFFLINE_SINCE, value).await {
            tracing::warn!(%error, "cannot write down since when the account is offline");
        }
    }

    /// Adds the time since the last look to whatever waits, while offline; what waited too long is given up.
    fn count_trouble(&mut self, now: Timestamp) {
        let Some(from) = self.offline_counted else { return };
        let connected = self.link.borrow().state.is_connected();
        if now.since(from) < TROUBLE_STEP && !connected {
            return;
        }
        self.offline_counted = Some(now);
        let max_age = self.settings.borrow().max_age;
        for id in self.state.add_trouble(from, now, max_age).into_iter().take(EXPIRE_AT_ONCE) {
            let reason =
                format!("waited longer than {} h without reaching WhatsApp (queue.max_age)", max_age.as_secs() / 3600);
            self.state.start(id);
            self.flights.insert(id, Flight { stage: Stage::Settling, attempts: 0, whatsapp_id: None });
            self.couriers.spawn(self.courier.clone().settle(id, Change::Failed { reason }));
        }
    }

    /// Until the next thing that only time brings.
    fn sleep(&self) -> Duration {
        let now = self.now();
        let acks = self.flights.values().filter_map(|flight| match flight.stage {
            Stage::AwaitingAck(due) => Some(due),
            Stage::HandingOver | Stage::Settling => None,
        });
        let departures = Lane::ALL.into_iter().filter(|lane| self.state.has_ready(*lane));
        let departures = departures.filter_map(|lane| self.departures[slot(lane)].filter(|at| *at > now));
        let next = acks.chain(departures).chain(self.state.next_time()).min();
        next.map_or(LONGEST_SLEEP, |at| at.since(now)).clamp(Duration::from_millis(1), LONGEST_SLEEP)
    }

    /// No new work; acks that come within a moment still count, the rest is put back when the daemon starts again.
    async fn drain(mut self, mut inputs: mpsc::UnboundedReceiver<Input>) {
        let deadline = tokio::time::Instant::now() + DRAIN;
        while !self.flights.is_empty() || !self.couriers.is_empty() {
            tokio::select! {
                Some(input) = inputs.recv() => self.take(input, &mut inputs),
                Some(_) = self.couriers.join_next(), if !self.couriers.is_empty() => {}
                () = tokio::time::sleep_until(deadline) => break,
            }
        }
        let left: Vec<MessageId> = self.flights.keys().copied().collect();
        let now = self.now();
        for id in left {
            // Its ack may be on its way: it goes again under its id, and is dropped there if it had arrived.
            if let Err(error) = self.courier.store.outbox.change(id, Change::PutBack, now).await {
                tracing::warn!(%error, "a message is put back at the next start");
            }
        }
    }
}

/// Replies have a gap of their own.
fn slot(lane: Lane) -> usize {
    usize::from(lane != Lane::Reply)
}

/// Retention: looks every so often, removes what is old in bounded steps.
pub(super) async fn prune(
    store: Store,
    settings: watch::Receiver<Snapshot>,
    clock: Arc<dyn Clock>,
    shutdown: CancellationToken,
) {
    loop {
        let keep = settings.borrow().keep();
        loop {
            let now = clock.now();
            let removed = match store.outbox.prune(keep, now).await {
                Ok(messages) => store.journal.prune_events(keep, now).await.map(|events| messages + events),
                Err(error) => Err(error),
            };
            match removed {
                Ok(0) => break,
                Ok(removed) => tracing::debug!(removed, "old rows removed"),
                Err(error) => {
                    tracing::warn!(%error, "old rows are not removed");
                    break;
                }
            }
        }
        tokio::select! {
            () = shutdown.cancelled() => return,
            () = tokio::time::sleep(PRUNE_EVERY) => {}
        }
    }
}
