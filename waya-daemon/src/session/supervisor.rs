//! The task that owns one account's link: it has the connection made, waits out the pauses, keeps the states that
//! outlive the process (`resting`), and shows the state.
//!
//! Woken by what the connection tells ([`Input`]), by commands of [`Handle`], and by the times the machine names. It
//! decides nothing (`state` does) and knows no client library ([`Driver`] is the way to it).

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinHandle;

use super::resting::{Record, RestingFile};
use super::state::{Discard, Ended, Input, Machine, Plan, Task};
use super::{Link, Me, SessionError, Unlinked, WaEvent};
use crate::clock::Clock;
use crate::model::{LinkState, PairingMethod, Timestamp};

/// How long a connection may take to close before it is dropped.
const CLOSING_TAKES: Duration = Duration::from_secs(6);
/// The longest single sleep: wall time may be set, or the machine may have been asleep.
const LONGEST_SLEEP: Duration = Duration::from_secs(30);

/// What makes connections. Every method may be called while [`Driver::run`] is under way.
#[async_trait]
pub trait Driver: Send + Sync + 'static {
    /// Who is linked, from the keys on disk.
    fn me(&self) -> Option<Me>;
    /// Has one connection, dialling included, until it ends. What happens meanwhile is told as [`Input`], all of it
    /// before this returns.
    async fn run(&self, task: Task) -> Ended;
    /// Ends the connection so that the next one can follow.
    async fn interrupt(&self);
    /// Ends the connection and lets go of everything it used; a later `run` starts afresh.
    async fn close(&self);
    /// Tells WhatsApp that this device is to be unlinked, when it can be told, and ends the connection.
    async fn sign_off(&self) -> Unlinked;
    /// Removes the keys, or puts them aside. Only without a connection.
    ///
    /// # Errors
    /// They are still there; the words say why.
    async fn discard(&self, how: Discard) -> Result<(), SessionError>;
}

enum Command {
    Pair(PairingMethod, Reply),
    Reconnect(Reply),
    LogOut(Reply<Unlinked>),
    Stop(Reply),
}

type Reply<T = ()> = oneshot::Sender<Result<T, SessionError>>;

/// A cheap handle to the supervisor.
#[derive(Debug, Clone)]
pub struct Handle {
    commands: mpsc::Sender<Command>,
    link: watch::Receiver<Link>,
}

impl Handle {
    /// The link, as it changes.
    #[must_use]
    pub fn link(&self) -> watch::Receiver<Link> {
        self.link.clone()
    }

    /// Messages can leave now.
    #[must_use]
    pub fn is_connected(&self) -> bool {
        self.link.borrow().state.is_connected()
    }

    /// Starts linking; asking again for the same keeps a pairing alive, asking for the other way changes it.
    pub async fn pair(&self, method: PairingMethod) -> Result<(), SessionError> {
        self.ask(|reply| Command::Pair(method, reply)).await
    }

    /// Connects now.
    pub async fn reconnect(&self) -> Result<(), SessionError> {
        self.ask(Command::Reconnect).await
    }

    /// Unlinks and deletes the keys; stops a pairing.
    pub async fn log_out(&self) -> Result<Unlinked, SessionError> {
        self.ask(Command::LogOut).await
    }

    /// Closes for good; returns when it is done.
    pub async fn stop(&self) {
        // Refused only when it has stopped already.
        let _ = self.ask(Command::Stop).await;
    }

    async fn ask<T>(&self, command: impl FnOnce(Reply<T>) -> Command) -> Result<T, SessionError> {
        let (reply, answer) = oneshot::channel();
        let stopped = || SessionError::Other("the session has stopped".to_owned());
        self.commands.send(command(reply)).await.map_err(|_| stopped())?;
        answer.await.map_err(|_| stopped())?
    }
}

/// What the supervisor is built from.
pub struct Parts<D> {
    /// What makes connections.
    pub driver: Arc<D>,
    /// What the connections tell.
    pub inputs: mpsc::UnboundedReceiver<Input>,
    /// Where link states are told.
    pub events: mpsc::UnboundedSender<WaEvent>,
    /// The time.
    pub clock: Arc<dyn Clock>,
    /// What a restart must not change.
    pub resting: RestingFile,
}

/// Starts the task, from where the last one left the link.
pub fn spawn<D: Driver>(parts: Parts<D>) -> Handle {
    let (me, now) = (parts.driver.me(), parts.clock.now());
    let saved = parts.resting.load();
    let account = me.as_ref().map(|me| me.phone.as_str());
    let left = saved.as_ref().filter(|left| left.account.as_deref() == account);
    let machine = left.map_or_else(
        || Machine::new(me.is_some()),
        |left| Machine::restore(me.is_some(), left.link.clone(), left.since, now),
    );
    let state = machine.link().clone();
    let since = left.filter(|_| machine.resting().is_some()).map_or(now, |left| left.since);
    if machine.resting().is_some() {
        // The last one ended by telling that it stops.
        let _ = parts.events.send(WaEvent::Link(state.clone()));
    }
    let (shown, link) = watch::channel(Link { state, since, me });
    let (commands, received) = mpsc::channel(8);
    let supervisor = Supervisor {
        parts,
        machine,
        commands: received,
        shown,
        // What could not be read is to go as well.
        is_unsaved: saved.is_none(),
        saved,
        keys_stay: false,
        logging_out: None,
        stopping: None,
    };
    tokio::spawn(supervisor.run());
    Handle { commands, link }
}

struct Supervisor<D> {
    parts: Parts<D>,
    machine: Machine,
    commands: mpsc::Receiver<Command>,
    shown: watch::Sender<Link>,
    /// What is on disk for the next start …
    saved: Option<Record>,
    /// … unless this says that it may be something else.
    is_unsaved: bool,
    /// Keys that are of no use could not be deleted.
    keys_stay: bool,
    /// Answered when the keys are gone.
    logging_out: Option<(Reply<Unlinked>, Unlinked)>,
    /// Answered when the last connection is closed.
    stopping: Option<Reply>,
}

impl<D: Driver> Supervisor<D> {
    async fn run(mut self) {
        self.save(self.now()).await;
        while !self.machine.is_stopped() {
            match self.machine.plan(self.now()) {
                Plan::Connect(task) => self.connect(task).await,
                Plan::Wait(at) => self.idle(Some(at)).await,
                Plan::Rest => self.idle(self.is_unsaved.then(|| self.now().plus(LONGEST_SLEEP))).await,
            }
        }
        self.parts.driver.close().await;
        if let Some(reply) = self.stopping.take() {
            let _ = reply.send(Ok(()));
        }
    }

    fn now(&self) -> Timestamp {
        self.parts.clock.now()
    }

    /// Without a connection, until something happens or `until` comes.
    async fn idle(&mut self, until: Option<Timestamp>) {
        let (now, mut moves) = (self.now(), self.parts.clock.moves());
        tokio::select! {
            input = self.parts.inputs.recv() => self.take_or_stop(input).await,
            command = self.commands.recv() => self.obey(command, false).await,
            () = sleep_until(now, until) => self.take(Input::Tick).await,
            () = moves.next() => self.take(Input::Tick).await,
        }
        self.discard().await;
    }

    /// One connection, from the dial to its end.
    async fn connect(&mut self, task: Task) {
        self.machine.dial();
        self.settle().await;
        let driver = Arc::clone(&self.parts.driver);
        let mut connection = tokio::spawn(async move { driver.run(task).await });
        let ended = loop {
            let (now, until) = (self.now(), self.machine.pairing_ends());
            tokio::select! {
                biased;
                input = self.parts.inputs.recv() => self.take_or_stop(input).await,
                ended = &mut connection => break ended.unwrap_or_else(|error| crashed(&error)),
                command = self.commands.recv() => self.obey(command, true).await,
                () = sleep_until(now, until) => self.take(Input::Tick).await,
            }
            if !self.machine.keeps_connection() {
                self.close(connection).await;
                break Ended::default();
            }
        };
        while let Ok(input) = self.parts.inputs.try_recv() {
            self.take(input).await;
        }
        self.take(Input::Ended(ended)).await;
        self.discard().await;
    }

    /// Closes what is not wanted any more, without waiting for ever.
    async fn close(&self, connection: JoinHandle<Ended>) {
        let stop = connection.abort_handle();
        let closing = async {
            self.parts.driver.close().await;
            connection.await
        };
        if tokio::time::timeout(CLOSING_TAKES, closing).await.is_err() {
            stop.abort();
        }
    }

    async fn discard(&mut self) {
        let mut discarded = Ok(());
        if let Some(how) = self.machine.take_discard() {
            self.parts.driver.close().await;
            discarded = self.parts.driver.discard(how).await;
            self.keys_stay = discarded.is_err();
            self.settle().await;
        }
        if let Some((reply, unlinked)) = self.logging_out.take() {
            let _ = reply.send(discarded.map(|()| unlinked));
        }
    }

    async fn obey(&mut self, command: Option<Command>, connected: bool) {
        match command {
            Some(Command::Pair(..)) if self.machine.is_linked() => refuse(command, SessionError::AlreadyLinked),
            Some(Command::Reconnect(_)) if !self.machine.is_linked() => refuse(command, SessionError::NotLinked),
            Some(Command::LogOut(_)) if *self.machine.link() == LinkState::Unpaired && !self.keys_stay => {
                refuse(command, SessionError::NotLinked);
            }
            Some(Command::Pair(method, reply)) => {
                let before = self.machine.plan(self.now());
                self.take(Input::PairAsked(method)).await;
                if connected && before != self.machine.plan(self.now()) {
                    self.parts.driver.interrupt().await;
                }
                let _ = reply.send(Ok(()));
            }
            Some(Command::Reconnect(reply)) => {
                self.take(Input::ReconnectAsked).await;
                if connected {
                    self.parts.driver.interrupt().await;
                }
                let _ = reply.send(Ok(()));
            }
            Some(Command::LogOut(reply)) => {
                let unlinked = self.sign_off(connected).await;
                self.logging_out = Some((reply, unlinked));
                self.take(Input::Forgotten).await;
            }
            Some(Command::Stop(reply)) => {
                self.stopping = Some(reply);
                self.take(Input::Stopped).await;
            }
            // Every handle is gone: nobody can use the session any more.
            None => self.take(Input::Stopped).await,
        }
    }

    async fn sign_off(&self, connected: bool) -> Unlinked {
        let told = if connected { self.parts.driver.sign_off().await } else { Unlinked::HereOnly };
        if self.machine.is_linked() { told } else { Unlinked::Fully }
    }

    async fn take_or_stop(&mut self, input: Option<Input>) {
        self.take(input.unwrap_or(Input::Stopped)).await;
    }

    async fn take(&mut self, input: Input) {
        self.machine.take(input, self.now(), rand::random());
        self.settle().await;
    }

    /// Brings the disk and then what is shown up to the machine's state: what was seen once is so after a restart.
    async fn settle(&mut self) {
        let now = self.now();
        self.save(now).await;
        self.show(now);
    }

    /// Writes down, or forgets, what a restart must not change. Without success it is tried again; a restart meanwhile
    /// costs an attempt to connect.
    async fn save(&mut self, now: Timestamp) {
        // How it stood before the stop is what counts.
        if self.machine.is_stopped() {
            return;
        }
        let record = self.record(now);
        if record == self.saved && !self.is_unsaved {
            return;
        }
        let (file, wanted) = (self.parts.resting.clone(), record.clone());
        let saving = tokio::task::spawn_blocking(move || file.save(wanted.as_ref()));
        match saving.await.unwrap_or_else(|error| Err(error.into())) {
            Ok(()) => (self.saved, self.is_unsaved) = (record, false),
            Err(error) => {
                tracing::warn!(%error, "the state of the link cannot be written down");
                self.is_unsaved = true;
            }
        }
    }

    fn record(&self, now: Timestamp) -> Option<Record> {
        let link = self.machine.resting()?.clone();
        let account = self.parts.driver.me().filter(|_| self.machine.is_linked()).map(|me| me.phone);
        let shown = self.shown.borrow();
        let since = if shown.state.name() == link.name() { shown.since } else { now };
        Some(Record { account, since, link })
    }

    /// Shows the state where it differs from what was shown last.
    fn show(&self, now: Timestamp) {
        let state = self.machine.link().clone();
        let me = self.parts.driver.me().filter(|_| self.machine.is_linked());
        let mut changed = false;
        self.shown.send_if_modified(|link| {
            changed = link.state != state;
            let differs = changed || link.me != me;
            if changed {
                link.since = if link.state.name() == state.name() { link.since } else { now };
            }
            if differs {
                (link.state, link.me) = (state.clone(), me.clone());
            }
            differs
        });
        if changed {
            tracing::debug!(state = state.name(), "the link to WhatsApp changed");
            let _ = self.parts.events.send(WaEvent::Link(state));
        }
    }
}

fn refuse(command: Option<Command>, error: SessionError) {
    match command {
        Some(Command::Pair(_, reply) | Command::Reconnect(reply) | Command::Stop(reply)) => {
            let _ = reply.send(Err(error));
        }
        Some(Command::LogOut(reply)) => {
            let _ = reply.send(Err(error));
        }
        None => {}
    }
}

fn crashed(error: &tokio::task::JoinError) -> Ended {
    tracing::error!(%error, "the connection's task failed");
    Ended { trouble: Some("an internal error ended the connection; see the log".to_owned()), throttled: false }
}

async fn sleep_until(now: Timestamp, until: Option<Timestamp>) {
    match until {
        Some(until) => tokio::time::sleep(until.since(now).min(LONGEST_SLEEP)).await,
        None => std::future::pending().await,
    }
}

#[cfg(test)]
#[path = "supervisor_tests.rs"]
mod tests;
