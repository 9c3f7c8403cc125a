//! What a person's client reports, and what the person does about it.
//!
//! [`Ear`] runs inside the client and only takes notes; [`Reaction`] is a task that carries out, one
//! event after the other, whatever takes time.

use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::sync::{Arc, Weak};

use tokio::sync::{mpsc, watch};
use whatsapp_rust::prelude::{Client, Event, EventHandler, MessageBatch};
use whatsapp_rust::types::events::ChatPresenceUpdate;
use whatsapp_rust::types::presence::{ChatPresence, ChatPresenceMedia};

use super::acks::Acks;
use super::hook;
use super::inbox::Inbox;
use super::link::LinkState;
use super::reader::Reader;
use super::typing::{Typing, TypingSeen};
use super::who::Who;
use crate::emulator::Emulator;

/// How a connection ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    /// It was up and is gone.
    Lost,
    /// The server says that this device is linked no more.
    Unlinked,
    /// Another client took its place.
    Replaced,
}

/// Takes notes of events as they happen, in their order.
pub(super) struct Ear {
    client: Weak<Client>,
    state: Arc<watch::Sender<LinkState>>,
    acks: Arc<Acks>,
    events: mpsc::UnboundedSender<Arc<Event>>,
    /// 0 or the number of an [`End`].
    end: AtomicU8,
    paired: AtomicBool,
}

impl Ear {
    pub(super) fn new(
        client: &Arc<Client>,
        state: Arc<watch::Sender<LinkState>>,
        acks: Arc<Acks>,
        events: mpsc::UnboundedSender<Arc<Event>>,
    ) -> Self {
        let client = Arc::downgrade(client);
        Self { client, state, acks, events, end: AtomicU8::new(0), paired: AtomicBool::new(false) }
    }

    /// What is known of the end of the last connection; forgotten by asking.
    pub(super) fn take_end(&self) -> Option<End> {
        match self.end.swap(0, Ordering::AcqRel) {
            1 => Some(End::Lost),
            2 => Some(End::Unlinked),
            3 => Some(End::Replaced),
            _ => None,
        }
    }

    /// Whether the last connection was the one that paired, which the server always closes.
    pub(super) fn take_paired(&self) -> bool {
        self.paired.swap(false, Ordering::AcqRel)
    }
}

impl EventHandler for Ear {
    fn handle_event(&self, event: Arc<Event>) {
        match &*event {
            Event::PairSuccess(_) => self.paired.store(true, Ordering::Release),
            Event::Connected(_) => {
                self.end.store(1, Ordering::Release);
                if let Some(client) = self.client.upgrade() {
                    self.state.send_replace(LinkState::Online(client));
                }
            }
            Event::ServerAck(ack) => return self.acks.answered(ack),
            Event::LoggedOut(_) => self.end.store(2, Ordering::Release),
            Event::StreamReplaced(_) => self.end.store(3, Ordering::Release),
            _ => {}
        }
        // Fails only when the person is being shut down.
        let _ = self.events.send(event);
    }
}

/// What a person does about events.
pub(super) struct Reaction {
    pub(super) client: Weak<Client>,
    pub(super) emulator: Emulator,
    pub(super) who: Who,
    pub(super) inbox: Arc<Inbox>,
    pub(super) reader: Arc<Reader>,
    pub(super) typing: Arc<TypingSeen>,
}

impl Reaction {
    /// Runs until the client is gone.
    pub(super) async fn run(self, mut events: mpsc::UnboundedReceiver<Arc<Event>>) {
        while let Some(event) = events.recv().await {
            let Some(client) = self.client.upgrade() else { return };
            match &*event {
                Event::PairingQrCode(qr) => self.scan(&qr.code).await,
                Event::Messages(batch) => self.arrived(&client, batch).await,
                Event::Connected(_) => self.read(&client, false).await,
                Event::ChatPresence(seen) => self.saw_typing(&client, seen).await,
                Event::UndecryptableMessage(lost) => {
                    // The client asks the sender for another copy by itself.
                    tracing::debug!(id = %lost.info.id, person = %self.who.name(), "cannot decrypt yet");
                }
                _ => {}
            }
        }
    }

    /// The person's own handset scans the code.
    async fn scan(&self, code: &str) {
        if let Err(error) = self.emulator.scan_qr(code, Some(&self.who.phone())).await {
            tracing::warn!(%error, person = %self.who.name(), "a person could not link");
        }
    }

    /// The client has confirmed these messages to the server by now.
    async fn arrived(&self, client: &Arc<Client>, batch: &MessageBatch) {
        let delivered: Vec<_> = batch
            .messages
            .iter()
            .filter(|message| !message.info.source.is_from_me)
            .map(|message| (hook::address(&message.info), message.info.id.clone()))
            .collect();
        if let Err(error) = self.inbox.mark_delivered(&delivered, self.emulator.clock().now_millis()) {
            tracing::error!(%error, person = %self.who.name(), "cannot record a delivery");
        }
        self.read(client, true).await;
    }

    async fn saw_typing(&self, client: &Arc<Client>, seen: &ChatPresenceUpdate) {
        let source = &seen.source;
        let state = match (seen.state, seen.media) {
            (ChatPresence::Paused, _) => "paused",
            (_, ChatPresenceMedia::Audio) => "recording",
            _ => "composing",
        };
        self.typing.note(Typing {
            chat: hook::shown(client, &source.chat, source.sender_alt.as_ref()).await,
            from: hook::shown(client, &source.sender, source.sender_alt.as_ref()).await,
            state: state.to_owned(),
            at: self.emulator.clock().now_millis(),
        });
    }

    async fn read(&self, client: &Arc<Client>, delivered_only: bool) {
        if !self.inbox.autoread() {
            return;
        }
        // What is not read now is read at the next message or connection.
        if let Err(error) = self.reader.read(client, delivered_only).await {
            tracing::debug!(%error, person = %self.who.name(), "could not read at once");
        }
    }
}
