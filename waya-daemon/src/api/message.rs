//! One message's status, now or when it got far enough.

use std::time::Duration;

use tokio::sync::broadcast::{self, error::RecvError};
use tokio::time::Instant;

use super::send::MAX_RECIPIENTS;
use super::view::MessageView;
use super::{Api, ApiError, MAX_WAIT};
use crate::bus::BusEvent;
use crate::model::{Ack, Message, MessageId, Status};

/// The most messages of one reference that an answer lists: as many as one request may send.
const MAX_SHARED: usize = MAX_RECIPIENTS;
/// How often a waiter looks by itself: the bus may lose events.
const LOOK_EVERY: Duration = Duration::from_secs(5);

/// How far a message must get.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WaitFor {
    /// WhatsApp's server took it.
    Sent,
    /// A device of the recipient has it.
    Delivered,
    /// It was read.
    Read,
}

impl WaitFor {
    /// From the contract's word.
    #[must_use]
    pub fn from_word(word: &str) -> Option<Self> {
        match word {
            "sent" => Some(Self::Sent),
            "delivered" => Some(Self::Delivered),
            "read" => Some(Self::Read),
            _ => None,
        }
    }

    /// Whether there is nothing more to wait for.
    fn is_over(self, message: &Message) -> bool {
        let enough = match self {
            Self::Sent => Ack::Server,
            Self::Delivered => Ack::Device,
            Self::Read => Ack::Read,
        };
        matches!(message.status, Status::Failed | Status::Cancelled)
            || (message.status == Status::Sent && (self == Self::Sent || message.ack >= enough))
    }
}

impl Api {
    /// A message by queue id, or the newest of a reference.
    ///
    /// # Errors
    /// [`ApiError::NoSuchMessage`], or the store.
    pub async fn message(&self, id_or_reference: &str) -> Result<MessageView, ApiError> {
        let found = self.find(id_or_reference).await?;
        let id = found.messages[0].id;
        Ok(self.view_all(found, id).await)
    }

    /// The same, once the message got far enough, failed or was cancelled; after `timeout` as it stands then.
    ///
    /// # Errors
    /// As [`Api::message`].
    pub async fn wait_message(
        &self,
        id_or_reference: &str,
        target: WaitFor,
        timeout: Duration,
    ) -> Result<MessageView, ApiError> {
        let deadline = Instant::now() + timeout.min(MAX_WAIT);
        // Registered before the first look, so that no change falls in between.
        let mut changes = self.0.bus.subscribe();
        let mut found = self.find(id_or_reference).await?;
        let id = found.messages[0].id;
        if target.is_over(&found.messages[0]) {
            return Ok(self.view_all(found, id).await);
        }
        loop {
            tokio::select! {
                () = changed(&mut changes, id) => {}
                () = tokio::time::sleep(LOOK_EVERY) => {}
                () = tokio::time::sleep_until(deadline) => break,
                () = self.0.shutdown.cancelled() => break,
            }
            let message = self.0.store.outbox.message(id).await?;
            if message.is_none_or(|message| target.is_over(&message)) {
                break;
            }
        }
        // The others have gone on meanwhile. Should retention have taken them all, they stand as they were.
        match self.find(id_or_reference).await {
            Err(ApiError::NoSuchMessage(_)) => {}
            again => found = again?,
        }
        Ok(self.view_all(found, id).await)
    }

    /// Every message as it changes, from now on.
    #[must_use]
    pub fn message_changes(&self) -> MessageChanges {
        MessageChanges { api: self.clone(), bus: self.0.bus.subscribe() }
    }

    /// The row of a queue id, or the rows of a reference, newest first; never empty.
    async fn find(&self, id_or_reference: &str) -> Result<Found, ApiError> {
        if let Ok(id) = id_or_reference.parse::<MessageId>()
            && let Some(message) = self.0.store.outbox.message(id).await?
        {
            return Ok(Found { messages: vec![message], total: 1 });
        }
        let messages = self.0.store.outbox.by_reference(id_or_reference, MAX_SHARED).await?;
        if messages.is_empty() {
            return Err(ApiError::NoSuchMessage(id_or_reference.to_owned()));
        }
        let mut total = messages.len() as u64;
        if messages.len() == MAX_SHARED {
            total = total.max(self.0.store.outbox.count_by_reference(id_or_reference).await?);
        }
        Ok(Found { messages, total })
    }

    /// The one with this id, and all of them when there are several.
    async fn view_all(&self, found: Found, id: MessageId) -> MessageView {
        let Found { messages, total } = found;
        let views = self.views(messages).await;
        let mut asked = views.iter().find(|view| view.id == id).unwrap_or(&views[0]).clone();
        if views.len() > 1 {
            asked.messages = views;
            asked.total = Some(total);
        }
        asked
    }
}

/// What an id or a reference means.
struct Found {
    /// Newest first; never empty.
    messages: Vec<Message>,
    /// How many there are in all.
    total: u64,
}

/// Returns when this message may have changed.
async fn changed(changes: &mut broadcast::Receiver<BusEvent>, id: MessageId) {
    loop {
        match changes.recv().await {
            Ok(BusEvent::Message(message)) if message.id == id => return,
            Ok(_) => {}
            Err(RecvError::Lagged(_)) => return,
            // Nobody will ever tell; the slow look remains.
            Err(RecvError::Closed) => std::future::pending().await,
        }
    }
}

/// Messages as they change; a slow reader misses some.
#[derive(Debug)]
pub struct MessageChanges {
    api: Api,
    bus: broadcast::Receiver<BusEvent>,
}

impl MessageChanges {
    /// The next message that changed; `None` when the daemon stops.
    pub async fn next(&mut self) -> Option<MessageView> {
        loop {
            let event = tokio::select! {
                event = self.bus.recv() => event,
                () = self.api.0.shutdown.cancelled() => return None,
            };
            match event {
                Ok(BusEvent::Message(message)) => return Some(self.api.view(*message).await),
                Ok(BusEvent::Link(_)) | Err(RecvError::Lagged(_)) => {}
                Err(RecvError::Closed) => return None,
            }
        }
    }
}
