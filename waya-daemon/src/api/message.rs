//! One message's status, now or when it got far enough.

use std::time::Duration;

use tokio::sync::broadcast::{self, error::RecvError};
use tokio::time::Instant;

use super::view::MessageView;
use super::{Api, ApiError, MAX_WAIT};
use crate::bus::BusEvent;
use crate::model::{Ack, Message, MessageId, Status};

/// The most messages of one reference that an answer lists.
const MAX_SHARED: usize = 100;
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
        let messages = self.find(id_or_reference).await?;
        Ok(self.view_all(messages))
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
        let mut messages = self.find(id_or_reference).await?;
        let id = messages[0].id;
        while !target.is_over(&messages[0]) {
            tokio::select! {
                () = changed(&mut changes, id) => {}
                () = tokio::time::sleep(LOOK_EVERY) => {}
                () = tokio::time::sleep_until(deadline) => break,
                () = self.0.shutdown.cancelled() => break,
            }
            if let Some(message) = self.0.store.outbox.message(id).await? {
                messages[0] = message;
            }
        }
        Ok(self.view_all(messages))
    }

    /// Every message as it changes, from now on.
    #[must_use]
    pub fn message_changes(&self) -> MessageChanges {
        MessageChanges { api: self.clone(), bus: self.0.bus.subscribe() }
    }

    /// The row of a queue id, or the rows of a reference, newest first; never empty.
    async fn find(&self, id_or_reference: &str) -> Result<Vec<Message>, ApiError> {
        if let Ok(id) = id_or_reference.parse::<MessageId>()
            && let Some(message) = self.0.store.outbox.message(id).await?
        {
            return Ok(vec![message]);
        }
        let messages = self.0.store.outbox.by_reference(id_or_reference, MAX_SHARED).await?;
        if messages.is_empty() {
            return Err(ApiError::NoSuchMessage(id_or_reference.to_owned()));
        }
        Ok(messages)
    }

    /// The first one, and all of them when there are several.
    fn view_all(&self, messages: Vec<Message>) -> MessageView {
        let mut views: Vec<MessageView> = messages.into_iter().map(|message| self.view(message)).collect();
        let mut first = views[0].clone();
        if views.len() > 1 {
            first.messages = std::mem::take(&mut views);
        }
        first
    }
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
                Ok(BusEvent::Message(message)) => return Some(self.api.view(*message)),
                Ok(BusEvent::Link(_)) | Err(RecvError::Lagged(_)) => {}
                Err(RecvError::Closed) => return None,
            }
        }
    }
}
