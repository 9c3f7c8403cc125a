//! The task that owns the queue's state: chooses, sends off, and decides what comes of it.
//!
//! Woken by its line of inputs, by the link, by settings and by time; asleep for good when nothing waits. It never
//! waits for the store or the network itself: couriers hand over, the settler writes, both tell it how that went.

mod care;
mod outcomes;
mod outlook;
mod typing;

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use super::Fits;
use super::care::CareOnTheWay;
use super::care::opt_outs::OptOuts;
use super::care::tally::Tally;
use super::courier::Courier;
use super::flights::{Flights, Stage};
use super::gauge::Gauge;
use super::hold::Outlook;
use super::ledger::Ledger;
use super::pace::{Gaps, Pace, Turn};
use super::policy::{self, Attempt};
use super::settler::{self, Settle, Settled};
use super::state::State;
use super::trouble::Trouble;
use crate::media::Media;
use crate::model::{Change, ChatId, Lane, Member, MessageId, NackReason, ReceiptKind, Status, Timestamp, WhatsAppId};
use crate::session::{Link, WhatsApp};
use crate::settings::Snapshot;
use crate::store::OpenMessage;
use care::Care;
use typing::Typists;

/// So many may be on their way at once …
const WINDOW: usize = 64;
/// … and so many replies on top, so that a blast whose acks do not come holds no reply.
const REPLY_WINDOW: usize = WINDOW + 16;
/// The longest sleep while wall time matters: it may be set, or the machine may have been asleep.
const LONGEST_SLEEP: Duration = Duration::from_secs(30);
/// Acks that came just before the connection went are still on their way through the daemon for this long.
const CUT_GRACE: Duration = Duration::from_millis(250);
/// How long a stop waits for acks that may come any moment, and then for the store.
const DRAIN: Duration = Duration::from_secs(3);

/// Everything that wakes the worker but link, settings and time, in one line, so that causes come before effects.
#[derive(Debug)]
pub(super) enum Input {
    /// New rows, on disk.
    Accepted(Vec<OpenMessage>),
    /// A finished row is pending again, on the user's word.
    Again(OpenMessage),
    /// A row that is none of the queue's any more.
    Gone(MessageId),
    /// The store could not say whether it took something.
    InDoubt,
    /// All unfinished rows, read again after such a doubt.
    Reread(Vec<OpenMessage>),
    /// Pause or resume.
    Pause(bool),
    /// Why these wait, and when they will leave.
    Outlooks(Vec<MessageId>, oneshot::Sender<Vec<Outlook>>),
    /// When messages of this lane would leave, not before that time.
    Fits(u64, Lane, Option<Timestamp>, oneshot::Sender<Fits>),
    /// Where a message stands in the line.
    Position(MessageId, oneshot::Sender<u64>),
    /// The row is claimed, with this many attempts spent.
    Claimed(MessageId, WhatsAppId, u32),
    /// The row is not to be had.
    NotClaimed(MessageId),
    /// It is in WhatsApp's hands, by the client library's word.
    HandedOver(MessageId),
    /// It is not.
    NotHandedOver(MessageId, Attempt),
    /// The server's word.
    ServerAck(WhatsAppId, Option<NackReason>),
    /// Refused, because this account may not write to strangers; whether the recipient has written to it.
    LockedOut(MessageId, bool),
    /// WhatsApp says until when it may not.
    LockedUntil(Option<Timestamp>),
    /// These have written to this account before.
    Warm(Vec<ChatId>),
    /// This one writes to it now.
    Wrote(ChatId),
    /// This one wants nothing more that we start; what a user reads of it.
    GiveUp(ChatId, &'static str),
    /// Since when this account is linked.
    Linked(String, Timestamp),
    /// The account is gone.
    AccountGone,
    /// A device's word; in a group with whose device it is, by every address known.
    Receipt(WhatsAppId, Vec<Member>, ReceiptKind, Timestamp),
    /// Where a row stands after a change.
    Settled(Settled),
    /// This LID and this phone are one person.
    Pair(ChatId, ChatId),
}

/// What handles may see.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct View {
    pub(super) paused: bool,
    pub(super) oldest: Option<Timestamp>,
    pub(super) scheduled: usize,
    pub(super) in_flight: usize,
    /// When the next one that is no reply may leave.
    pub(super) next_departure: Option<Timestamp>,
    /// Strangers may not be written to.
    pub(super) locked: bool,
}

/// What the worker is made of.
pub(super) struct Parts {
    pub(super) ledger: Ledger,
    pub(super) session: Arc<dyn WhatsApp>,
    pub(super) media: Media,
    pub(super) settings: watch::Receiver<Snapshot>,
    pub(super) inputs: mpsc::UnboundedSender<Input>,
    pub(super) view: watch::Sender<View>,
    pub(super) gauge: Arc<Gauge>,
    pub(super) opt_outs: OptOuts,
}

pub(super) struct Worker {
    courier: Courier,
    link: watch::Receiver<Link>,
    settings: watch::Receiver<Snapshot>,
    view: watch::Sender<View>,
    gauge: Arc<Gauge>,
    state: State,
    flights: Flights,
    pace: Pace,
    trouble: Trouble,
    care: Care,
    typists: Typists,
    paused: bool,
    /// Since when the present connection stands, and which one it is.
    connected_since: Option<Timestamp>,
    connection: u64,
    /// Nothing is tried before.
    rest_until: Option<Instant>,
    /// The rows are being read again; again after that, when a doubt came meanwhile.
    rereading: Option<bool>,
    probing: Option<AbortOnDropHandle<()>>,
    couriers: JoinSet<()>,
    settler: AbortOnDropHandle<()>,
    settles: mpsc::UnboundedSender<Settle>,
}

impl Worker {
    /// Puts back what was on its way when the daemon stopped, and takes in all that waits.
    pub(super) async fn open(parts: Parts) -> Self {
        let Parts { ledger, session, media, settings, inputs, view, gauge, opt_outs } = parts;
        let now = ledger.clock.now();
        let mut state = State::default();
        let (open, interrupted): (Vec<_>, Vec<_>) =
            ledger.open().await.into_iter().partition(|open| open.status != Status::Sending);
        if !interrupted.is_empty() {
            let count = interrupted.len();
            tracing::info!(count, "messages were on their way when the daemon stopped; they go again under their ids");
        }
        let put_back = interrupted.iter().map(|open| ledger.change(open.id, Change::PutBack, now));
        futures_util::future::join_all(put_back).await;
        for open in interrupted.into_iter().chain(open) {
            state.insert(open, now);
        }
        gauge.publish(&state);
        let (settles, asked) = mpsc::unbounded_channel();
        let settler = tokio::spawn(settler::run(ledger.clone(), asked, inputs.clone()));
        let trouble = Trouble::open(&ledger).await;
        let tally = Arc::<Tally>::default();
        let as_set = settings.borrow().clone();
        let care = Care::open(&ledger, &as_set, Arc::clone(&tally)).await;
        let (link, paused) = (session.link(), view.borrow().paused);
        let mut worker = Self {
            courier: Courier { ledger, session, media, inputs, care: CareOnTheWay { opt_outs, tally } },
            link,
            settings,
            view,
            gauge,
            state,
            flights: Flights::default(),
            pace: Pace::default(),
            trouble,
            care,
            typists: Typists::default(),
            paused,
            connected_since: None,
            connection: 0,
            rest_until: None,
            rereading: None,
            probing: None,
            couriers: JoinSet::new(),
            settler: AbortOnDropHandle::new(settler),
            settles,
        };
        worker.begin_care().await;
        worker
    }

    /// Works until told to stop, then lets what is on its way come to an end for a moment, and puts the rest back.
    pub(super) async fn run(mut self, mut inputs: mpsc::UnboundedReceiver<Input>, shutdown: CancellationToken) {
        self.link_changed();
        let mut moves = self.courier.ledger.clock.moves();
        loop {
            self.advance();
            let sleep = self.sleep();
            tokio::select! {
                () = shutdown.cancelled() => break,
                Some(input) = inputs.recv() => self.take(input, &mut inputs),
                Ok(()) = self.link.changed() => self.link_changed(),
                Ok(()) = self.settings.changed() => self.settings_changed(),
                Some(_) = self.couriers.join_next(), if !self.couriers.is_empty() => {}
                () = moves.next() => {}
                () = sleep_for(sleep) => {}
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
        self.courier.ledger.clock.now()
    }

    fn handle(&mut self, input: Input) {
        match input {
            Input::Accepted(messages) => self.accept(messages),
            Input::Again(open) => {
                self.flights.remove(open.id);
                self.look_up(vec![open.chat.clone()]);
                self.state.insert_again(open, self.now());
            }
            Input::Gone(id) => self.forget(id),
            Input::InDoubt => self.reread(),
            Input::Reread(messages) => self.take_in(messages),
            Input::Pause(paused) => self.paused = paused,
            Input::Outlooks(ids, reply) => drop(reply.send(self.outlooks(&ids))),
            Input::Fits(count, lane, not_before, reply) => drop(reply.send(self.fits(count, lane, not_before))),
            Input::Position(id, reply) => drop(reply.send(self.state.position(id))),
            Input::Claimed(id, whatsapp_id, attempts) => {
                self.state.identify(id, whatsapp_id);
                if let Some(flight) = self.flights.get_mut(id) {
                    flight.attempts = attempts;
                }
            }
            Input::NotClaimed(id) => {
                self.pace.ends(id, false, Instant::now(), 0.0);
                self.typists.end(id);
                self.care.never_left(id, self.now());
                if self.flights.get(id).is_some() {
                    self.forget(id);
                }
            }
            Input::HandedOver(id) => self.handed_over(id),
            Input::NotHandedOver(id, attempt) => self.not_handed_over(id, &attempt),
            Input::ServerAck(whatsapp_id, None) => self.heard_of(whatsapp_id, Vec::new(), Change::Acked),
            Input::ServerAck(whatsapp_id, Some(reason)) => self.refused(&whatsapp_id, reason),
            Input::LockedOut(id, wrote) => self.kept_or_tried(id, wrote),
            Input::LockedUntil(until) => self.locked_until(until),
            Input::Warm(chats) => self.state.warm(chats, self.now()),
            Input::Wrote(chat) => self.state.wrote(chat, self.now()),
            Input::GiveUp(chat, reason) => self.give_up(&chat, reason),
            Input::Linked(phone, since) => self.linked(&phone, since),
            Input::AccountGone => self.account_gone(),
            Input::Receipt(whatsapp_id, from, kind, at) => {
                self.heard_of(whatsapp_id, from, Change::Receipt { kind, at });
            }
            Input::Settled(settled) => self.settled(settled),
            Input::Pair(lid, phone) => self.state.pair(&lid, &phone, self.now()),
        }
    }

    fn accept(&mut self, messages: Vec<OpenMessage>) {
        let now = self.now();
        let mut seen = [0; 4];
        if self.care.lock.is_some() {
            self.look_up(messages.iter().map(|open| open.chat.clone()).collect());
        }
        for open in messages {
            seen[open.lane as usize] += 1;
            self.state.insert(open, now);
        }
        self.gauge.publish(&self.state);
        self.gauge.seen(seen);
    }

    /// The store may hold rows that nobody was told of.
    fn reread(&mut self) {
        if let Some(again) = &mut self.rereading {
            *again = true;
            return;
        }
        self.rereading = Some(false);
        let Courier { ledger, inputs, .. } = self.courier.clone();
        self.couriers.spawn(async move {
            let open = ledger.open().await;
            let _ = inputs.send(Input::Reread(open));
        });
    }

    fn take_in(&mut self, messages: Vec<OpenMessage>) {
        let now = self.now();
        self.look_up(messages.iter().map(|open| open.chat.clone()).collect());
        // One that has finished meanwhile is found out when it is claimed.
        for open in messages {
            self.state.insert(open, now);
        }
        if self.rereading.take() == Some(true) {
            self.reread();
        }
    }

    /// Sends off whatever may leave now.
    fn advance(&mut self) {
        self.state.wake(self.now());
        self.run_out_of_time();
        self.count_trouble();
        let now = Instant::now();
        self.type_ahead(now);
        while let Some((id, lane)) = self.choose(now) {
            let ask_again = self.state.entry(id).is_some_and(|entry| entry.by_hand);
            self.set_off(id, lane);
            self.flights.add(id, Stage::HandingOver, self.connection);
            self.pace.begins(id, lane, now);
            self.couriers.spawn(self.courier.clone().carry(id, ask_again));
        }
        self.publish(now);
    }

    /// It leaves its line; what that means for limits and for others to the same person.
    fn set_off(&mut self, id: MessageId, lane: Lane) {
        let wall = self.now();
        if self.state.is_strangers(id) {
            self.care.trial = Some(id);
        }
        self.state.start(id);
        self.care.sets_off(id, lane, wall);
        if let Some(chat) = self.state.entry(id).filter(|_| lane != Lane::Reply).map(|entry| entry.chat.clone()) {
            self.state.left(&chat, id, wall, wall);
        }
    }

    fn gaps(&self) -> Gaps {
        Gaps::from(&*self.settings.borrow())
    }

    fn may_send(&self) -> bool {
        !self.paused && self.link.borrow().state.is_connected()
    }

    fn has_room(&self, lane: Lane) -> bool {
        self.flights.len() < window(lane)
    }

    fn choose(&self, now: Instant) -> Option<(MessageId, Lane)> {
        if !self.may_send() || self.rest_until.is_some_and(|until| until > now) {
            return None;
        }
        let (gaps, wall) = (self.gaps(), self.now());
        let closed = self.care.closed(wall).is_some();
        let may_leave = |lane: Lane| {
            (lane == Lane::Reply || !closed) && self.has_room(lane) && self.pace.turn(lane, gaps, now) == Turn::Now
        };
        let stranger = if self.care.may_try(wall) { self.state.next_stranger(may_leave) } else { None };
        let id = stranger.or_else(|| self.state.next(may_leave))?;
        self.state.entry(id).map(|entry| (id, entry.lane))
    }

    fn publish(&self, now: Instant) {
        self.gauge.publish(&self.state);
        let paced = match self.pace.turn(Lane::Normal, self.gaps(), now) {
            Turn::At(at) => Some(self.now().plus(at - now)),
            Turn::Now | Turn::AfterThis => None,
        };
        let next_departure = self.care.closed(self.now()).map(|closed| closed.until).max(paced);
        let view = View {
            paused: self.paused,
            oldest: self.state.oldest(),
            scheduled: self.state.scheduled(),
            in_flight: self.flights.len(),
            next_departure,
            locked: self.care.lock.is_some(),
        };
        self.view.send_if_modified(|seen| std::mem::replace(seen, view) != view);
    }

    /// The link came, went, or was replaced by another one between two looks.
    fn link_changed(&mut self) {
        let link = self.link.borrow_and_update().clone();
        self.look_who_is_linked();
        let connected_since = link.state.is_connected().then_some(link.since);
        if connected_since == self.connected_since {
            return;
        }
        if self.connected_since.is_some() {
            // What was handed over there and not acknowledged goes again.
            self.connection += 1;
            self.flights.cut(Instant::now() + CUT_GRACE);
        }
        self.connected_since = connected_since;
        self.rest_until = None;
    }

    fn count_trouble(&mut self) {
        let (now, max_age) = (self.now(), self.settings.borrow().max_age);
        let in_trouble = !self.paused && self.connected_since.is_none();
        let over = self.trouble.count(&mut self.state, now, in_trouble, max_age);
        for id in over {
            let reason = policy::too_old(max_age);
            self.settle(id, Change::Failed { reason });
        }
    }

    /// Until the next thing that only time brings; `None`: only an input brings anything.
    fn sleep(&self) -> Option<Duration> {
        let (now, wall) = (Instant::now(), self.now());
        let until = |at: Instant| at.saturating_duration_since(now);
        let mut next: Vec<Duration> = self.flights.next_due().map(until).into_iter().collect();
        next.extend(self.state.next_time().map(|at| at.since(wall).min(LONGEST_SLEEP)));
        if !self.state.nothing_waits() {
            next.extend(self.trouble.due(wall));
            if self.may_send() {
                next.extend(self.rest_until.filter(|at| *at > now).map(until));
                next.extend(self.next_typing(now).map(until));
                next.extend(self.next_opening(wall).map(|at| at.since(wall).min(LONGEST_SLEEP)));
                let gaps = self.gaps();
                let tries = self.care.may_try(wall);
                let has_next = |lane| self.state.has_ready(lane) || (tries && self.state.has_stranger(lane));
                let turns = Lane::ALL.into_iter().filter(|lane| has_next(*lane));
                next.extend(turns.filter_map(|lane| match self.pace.turn(lane, gaps, now) {
                    Turn::At(at) => Some(until(at)),
                    Turn::Now | Turn::AfterThis => None,
                }));
            }
        }
        next.into_iter().min().map(|sleep| sleep.max(Duration::from_millis(1)))
    }

    /// No new work; acks that come within a moment still count, the rest goes back under its id.
    async fn drain(mut self, mut inputs: mpsc::UnboundedReceiver<Input>) {
        // What leaves no more is typed no more.
        self.typists.end_all();
        let deadline = Instant::now() + DRAIN;
        while self.flights.len() > 0 {
            let due = self.flights.next_due().map_or(deadline, |due| due.min(deadline));
            tokio::select! {
                Some(input) = inputs.recv() => self.take(input, &mut inputs),
                Ok(()) = self.link.changed() => self.link_changed(),
                () = tokio::time::sleep_until(due) => {
                    if due == deadline { break }
                    self.run_out_of_time();
                }
            }
        }
        self.couriers.abort_all();
        for id in self.flights.ids() {
            // Its ack may be on its way: the repeat carries the same id, and is dropped there if it had arrived.
            self.settle(id, Change::PutBack);
        }
        let Self { settles, settler, courier, .. } = self;
        drop(settles);
        let written = async {
            let _ = settler.await;
            courier.care.tally.secure(&courier.ledger).await;
        };
        if tokio::time::timeout(DRAIN, written).await.is_err() {
            tracing::warn!("the store did not answer; what was on its way is put back at the next start");
        }
    }
}

const fn window(lane: Lane) -> usize {
    if matches!(lane, Lane::Reply) { REPLY_WINDOW } else { WINDOW }
}

async fn sleep_for(sleep: Option<Duration>) {
    match sleep {
        Some(sleep) => tokio::time::sleep(sleep).await,
        None => std::future::pending().await,
    }
}
