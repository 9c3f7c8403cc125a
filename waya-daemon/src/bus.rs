//! The lossy broadcast of what just happened, for views that may miss some of it.
//!
//! Nothing that must happen rides on it: rows and their wake-ups do that.

use tokio::sync::broadcast;

use crate::model::{LinkState, Message};

/// What a view may want to show at once.
#[derive(Debug, Clone)]
pub enum BusEvent {
    /// An outgoing message changed (the row after the change).
    Message(Box<Message>),
    /// The link to WhatsApp changed.
    Link(LinkState),
}

/// A cheap handle to the broadcast.
#[derive(Debug, Clone)]
pub struct Bus(broadcast::Sender<BusEvent>);

impl Default for Bus {
    fn default() -> Self {
        Self(broadcast::channel(1024).0)
    }
}

impl Bus {
    /// Tells whoever listens; nobody listening is fine.
    pub fn publish(&self, event: BusEvent) {
        let _ = self.0.send(event);
    }

    /// Whether anybody listens, for those to whom telling costs something.
    #[must_use]
    pub fn is_heard(&self) -> bool {
        self.0.receiver_count() > 0
    }

    /// From now on; a slow listener misses events and is told how many.
    #[must_use]
    pub fn subscribe(&self) -> broadcast::Receiver<BusEvent> {
        self.0.subscribe()
    }
}
