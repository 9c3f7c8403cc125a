//! The connection of one person: a real client that pairs itself, stays connected and comes back.
//!
//! One task a person owns the client; it wakes when the connection ends, when the person is wanted
//! on- or offline, and at shutdown. The library's own reconnecting is off, because its delays grow
//! to minutes and a sandbox is tested by the second.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use whatsapp_rust::bot::Bot;
use whatsapp_rust::prelude::{Client, EventInterest, EventKind};
use whatsapp_rust::wacore::store::DevicePropsOverride;
use whatsapp_rust::waproto::whatsapp::device_props::HistorySyncConfig;

use super::PeopleError;
use super::acks::Acks;
use super::dial::Dial;
use super::events::{Ear, End, Reaction};
use super::hook::InboxHook;
use super::http::EmulatorHttp;
use super::inbox::Inbox;
use super::keys::Keys;
use super::reader::Reader;
use super::typing::TypingSeen;
use super::who::Who;
use crate::emulator::Emulator;

/// The WhatsApp version the people claim to run; any that skips the look-up on the internet will do.
const VERSION: (u32, u32, u32) = (2, 3000, 1_027_000_000);
/// One-time keys on the server; few, because making them is most of the work of linking.
const PRE_KEYS: usize = 30;
/// Pauses before the next attempt to connect.
const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

const INTEREST: [EventKind; 9] = [
    EventKind::PairingQrCode,
    EventKind::PairSuccess,
    EventKind::Connected,
    EventKind::Messages,
    EventKind::ServerAck,
    EventKind::LoggedOut,
    EventKind::StreamReplaced,
    EventKind::UndecryptableMessage,
    EventKind::ChatPresence,
];

/// How far the connection is.
#[derive(Clone)]
pub(super) enum LinkState {
    /// Not connected, and not meant to be.
    Offline,
    /// Pairing, connecting, or between two attempts.
    Connecting,
    /// Logged in and in sync.
    Online(Arc<Client>),
}

/// What the task of one person works with.
pub(super) struct Link {
    pub(super) who: Who,
    pub(super) emulator: Emulator,
    pub(super) keys: Keys,
    pub(super) inbox: Arc<Inbox>,
    pub(super) reader: Arc<Reader>,
    pub(super) typing: Arc<TypingSeen>,
    pub(super) state: Arc<watch::Sender<LinkState>>,
    pub(super) acks: Arc<Acks>,
    pub(super) wanted: watch::Sender<bool>,
    pub(super) shutdown: CancellationToken,
}

impl Link {
    /// Runs until shutdown.
    pub(super) async fn run(mut self) {
        let mut wanted = self.wanted.subscribe();
        loop {
            let waited = self.shutdown.run_until_cancelled(wanted.wait_for(|on| *on)).await;
            if waited.is_none_or(|wanted| wanted.is_err()) {
                break;
            }
            match self.session(&mut wanted).await {
                Ok(End::Unlinked) => self.unlinked().await,
                // Another client took the place: WhatsApp expects that nobody fights for it.
                Ok(End::Replaced) => drop(self.wanted.send_replace(false)),
                Ok(End::Lost) => {}
                Err(error) => {
                    tracing::warn!(%error, person = %self.who.name(), "cannot start the client");
                    self.pause(LONGEST_PAUSE).await;
                }
            }
            self.state.send_replace(LinkState::Offline);
        }
        self.state.send_replace(LinkState::Offline);
    }

    /// One client, through as many connections as it takes, until it is not wanted any more.
    async fn session(&mut self, wanted: &mut watch::Receiver<bool>) -> Result<End, PeopleError> {
        self.state.send_replace(LinkState::Connecting);
        let bot = self.build().await?;
        let client = bot.client();
        client.enable_auto_reconnect.store(false, Ordering::Relaxed);
        client.set_force_active_delivery_receipts(true);
        let (events, queue) = mpsc::unbounded_channel();
        let ear = Arc::new(Ear::new(&client, self.state.clone(), self.acks.clone(), events));
        let subscription = client.subscribe(EventInterest::of(&INTEREST), ear.clone());
        let reaction = self.reaction(&client).run(queue);
        let reaction = tokio::spawn(reaction);

        let mut running: JoinHandle<()> = tokio::spawn(bot.run());
        let mut pause = FIRST_PAUSE;
        let end = loop {
            tokio::select! {
                _ = &mut running => {}
                () = unwanted(wanted, &self.shutdown) => break End::Lost,
            }
            self.state.send_replace(LinkState::Connecting);
            match ear.take_end() {
                Some(End::Lost) => pause = FIRST_PAUSE,
                Some(end) => break end,
                // Nothing good happened on that connection: it was refused, or cut at once.
                None => pause = (pause * 2).min(LONGEST_PAUSE),
            }
            if !ear.take_paired() {
                tokio::select! {
                    () = tokio::time::sleep(pause) => {}
                    () = unwanted(wanted, &self.shutdown) => break End::Lost,
                }
            }
            client.enable_auto_reconnect.store(false, Ordering::Relaxed);
            let client = client.clone();
            running = tokio::spawn(async move { client.run().await });
        };
        client.disconnect().await;
        settle(running).await;
        drop(subscription);
        reaction.abort();
        Ok(end)
    }

    fn reaction(&self, client: &Arc<Client>) -> Reaction {
        Reaction {
            client: Arc::downgrade(client),
            emulator: self.emulator.clone(),
            who: self.who.clone(),
            inbox: self.inbox.clone(),
            reader: self.reader.clone(),
            typing: self.typing.clone(),
        }
    }

    async fn build(&mut self) -> Result<Bot, PeopleError> {
        let keys = self.keys.store().await?;
        let transport = Dial { address: self.emulator.address(), url: self.emulator.whatsapp_url() };
        let bot = Bot::builder()
            .with_backend_arc(keys)
            .with_transport_factory(transport)
            .with_http_client(EmulatorHttp::new(self.emulator.address())?)
            .with_version(VERSION)
            .with_push_name(self.who.name())
            .with_wanted_pre_key_count(PRE_KEYS)
            .with_device_props(DevicePropsOverride::new().with_history_sync_config(no_history()))
            .skip_history_sync()
            .with_inbound_durability_hook(InboxHook::new(self.inbox.clone()))
            .build()
            .await?;
        // What a fault has garbled is sent again at once: nobody here takes offence at many at a time.
        bot.client().set_resend_rate_limit(0, 0);
        Ok(bot)
    }

    /// The server ended the link. If the emulator no longer knows a device of this person, the keys
    /// are worth nothing and a new device is linked; else the refusal was a fault and passes.
    async fn unlinked(&mut self) {
        let account = self.emulator.account(&self.who.phone());
        let linked = account.is_some_and(|account| !account.devices.is_empty());
        if linked {
            self.pause(LONGEST_PAUSE).await;
        } else {
            self.keys.forget();
        }
    }

    async fn pause(&self, time: Duration) {
        self.shutdown.run_until_cancelled(tokio::time::sleep(time)).await;
    }
}

/// The people have no room for what was before.
fn no_history() -> HistorySyncConfig {
    HistorySyncConfig { storage_quota_mb: Some(0), ..HistorySyncConfig::default() }
}

/// Resolves when the person is no longer wanted online.
async fn unwanted(wanted: &mut watch::Receiver<bool>, shutdown: &CancellationToken) {
    // An error means that nobody is left to want anything: the same as shutdown.
    shutdown.run_until_cancelled(wanted.wait_for(|on| !*on)).await;
}

/// Waits for the run loop after a disconnect, but not for ever.
async fn settle(mut running: JoinHandle<()>) {
    // A finished task has been waited for already.
    if running.is_finished() {
        return;
    }
    if tokio::time::timeout(Duration::from_secs(5), &mut running).await.is_err() {
        running.abort();
    }
}
