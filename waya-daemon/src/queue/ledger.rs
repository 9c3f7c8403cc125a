//! The store as the queue's tasks use it: a store that does not answer is waited for, never skipped.
//!
//! A change whose answer was an error may have happened all the same; it is asked for again, and `model::transition`
//! makes that harmless.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::bus::{Bus, BusEvent};
use crate::clock::Clock;
use crate::model::{Change, Message, MessageId, Roster, Timestamp, WhatsAppId};
use crate::store::{ByPhone, Changed, OpenMessage, Store, StoreError};

/// A cheap handle to rows, clock and bus.
#[derive(Debug, Clone)]
pub(super) struct Ledger {
    pub(super) store: Store,
    pub(super) clock: Arc<dyn Clock>,
    bus: Bus,
    /// One warning is enough for however many wait for the store.
    waits: Arc<AtomicBool>,
}

impl Ledger {
    pub(super) fn new(store: Store, clock: Arc<dyn Clock>, bus: Bus) -> Self {
        Self { store, clock, bus, waits: Arc::default() }
    }

    /// Changes a row, however long the store takes to do it. A damaged row is as good as none.
    pub(super) async fn change(&self, id: MessageId, change: Change, now: Timestamp) -> Changed {
        loop {
            match self.store.outbox.change(id, change.clone(), now).await {
                Ok(changed) => break self.works(changed),
                Err(StoreError::Damaged(what)) => {
                    tracing::error!(%id, what, "a message cannot be read and leaves the queue");
                    break Changed::Unknown;
                }
                Err(error) => self.wait(&error).await,
            }
        }
    }

    /// One row.
    pub(super) async fn message(&self, id: MessageId) -> Option<Message> {
        loop {
            match self.store.outbox.message(id).await {
                Ok(message) => break self.works(message),
                Err(StoreError::Damaged(_)) => break None,
                Err(error) => self.wait(&error).await,
            }
        }
    }

    /// Who was in the group as a message to it left.
    pub(super) async fn roster(&self, id: MessageId) -> Option<Roster> {
        loop {
            match self.store.outbox.roster(id).await {
                Ok(roster) => break self.works(roster),
                Err(StoreError::Damaged(_)) => break None,
                Err(error) => self.wait(&error).await,
            }
        }
    }

    /// Which row has this WhatsApp id.
    pub(super) async fn by_whatsapp_id(&self, id: &WhatsAppId) -> Option<MessageId> {
        loop {
            match self.store.outbox.by_whatsapp_id(id).await {
                Ok(id) => break self.works(id),
                Err(StoreError::Damaged(_)) => break None,
                Err(error) => self.wait(&error).await,
            }
        }
    }

    /// All unfinished rows, people by phone whenever that is known.
    pub(super) async fn open(&self) -> Vec<OpenMessage> {
        let mut open = loop {
            match self.store.outbox.open().await {
                Ok(open) => break self.works(open),
                Err(error) => self.wait(&error).await,
            }
        };
        let mut by_phone = ByPhone::new(&self.store);
        for message in &mut open {
            by_phone.name(&mut message.chat).await;
        }
        open
    }

    /// Tells the views what a row has become.
    pub(super) fn announce(&self, changed: &Changed) {
        if let Changed::Yes(message) = changed {
            self.bus.publish(BusEvent::Message(message.clone()));
        }
    }

    fn works<T>(&self, answer: T) -> T {
        if self.waits.swap(false, Ordering::Relaxed) {
            tracing::info!("the store works again; the queue goes on");
        }
        answer
    }

    /// Until the store says that it works, or for a moment.
    pub(super) async fn wait(&self, error: &StoreError) {
        if !self.waits.swap(true, Ordering::Relaxed) {
            tracing::warn!(%error, "the queue waits for the store");
        }
        self.store.come_back().await;
    }
}
