//! The task that owns one account's link: it has the connection made, waits out the pauses, and shows the state.
//!
//! Woken by what the connection tells ([`Input`]), by commands of [`Handle`], and by the times the machine names. It
//! decides nothing (`state` does) and knows no client library ([`Driver`] is the way to it).

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinHandle;

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
}

/// Starts the task.
pub fn spawn<D: Driver>(parts: Parts<D>) -> Handle {
    let me = parts.driver.me();
    let machine = Machine::new(me.is_some());
    let (shown, link) = watch::channel(Link { state: machine.link().clone(), since: parts.clock.now(), me });
    let (commands, received) = mpsc::channel(8);
    let supervisor =
        Supervisor { parts, machine, commands: received, shown, keys_stay: false, logging_out: None, stopping: None };
    tokio::spawn(supervisor.run());
    Handle { commands, link }
}

struct Supervisor<D> {
    parts: Parts<D>,
    machine: Machine,
    commands: mpsc::Receiver<Command>,
    shown: watch::Sender<Link>,
    /// Keys that are of no use could not be deleted.
    keys_stay: bool,
    /// Answered when the keys are gone.
    logging_out: Option<(Reply<Unlinked>, Unlinked)>,
    /// Answered when the last connection is closed.
    stopping: Option<Reply>,
}

impl<D: Driver> Supervisor<D> {
    async fn run(mut self) {
        while !self.machine.is_stopped() {
            match self.machine.plan(self.now()) {
                Plan::Connect(task) => self.connect(task).await,
                Plan::Wait(at) => self.idle(Some(at)).await,
                Plan::Rest => self.idle(None).await,
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
        let now = self.now();
        tokio::select! {
            input = self.parts.inputs.recv() => self.take_or_stop(input),
            command = self.commands.recv() => self.obey(command, false).await,
            () = sleep_until(now, until) => self.take(Input::Tick),
        }
        self.discard().await;
    }

    /// One connection, from the dial to its end.
    async fn connect(&mut self, task: Task) {
        self.machine.dial();
        self.show();
        let driver = Arc::clone(&self.parts.driver);
        let mut connection = tokio::spawn(async move { driver.run(task).await });
        let ended = loop {
            let (now, until) = (self.now(), self.machine.pairing_ends());
            tokio::select! {
                biased;
                input = self.parts.inputs.recv() => self.take_or_stop(input),
                ended = &mut connection => break ended.unwrap_or_else(|error| crashed(&error)),
                command = self.commands.recv() => self.obey(command, true).await,
                () = sleep_until(now, until) => self.take(Input::Tick),
            }
            if !self.machine.keeps_connection() {
                self.close(connection).await;
                break Ended::default();
            }
        };
        while let Ok(input) = self.parts.inputs.try_recv() {
            self.take(input);
        }
        self.take(Input::Ended(ended));
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
            self.show();
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
                self.take(Input::PairAsked(method));
                if connected && before != self.machine.plan(self.now()) {
                    self.parts.driver.interrupt().await;
                }
                let _ = reply.send(Ok(()));
            }
            Some(Command::Reconnect(reply)) => {
                self.take(Input::ReconnectAsked);
                if connected {
                    self.parts.driver.interrupt().await;
                }
                let _ = reply.send(Ok(()));
            }
            Some(Command::LogOut(reply)) => {
                let unlinked = self.sign_off(connected).await;
                self.logging_out = Some((reply, unlinked));
                self.take(Input::Forgotten);
            }
            Some(Command::Stop(reply)) => {
                self.stopping = Some(reply);
                self.take(Input::Stopped);
            }
            // Every handle is gone: nobody can use the session any more.
            None => self.take(Input::Stopped),
        }
    }

    async fn sign_off(&self, connected: bool) -> Unlinked {
        let told = if connected { self.parts.driver.sign_off().await } else { Unlinked::HereOnly };
        if self.machine.is_linked() { told } else { Unlinked::Fully }
    }

    fn take_or_stop(&mut self, input: Option<Input>) {
        self.take(input.unwrap_or(Input::Stopped));
    }

    fn take(&mut self, input: Input) {
        let now = self.now();
        self.machine.take(input, now, rand::random());
        self.show();
    }

    /// Shows the state where it differs from what was shown last.
    fn show(&self) {
        let now = self.now();
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
