//! One message's way out: claim the row, check the number, hand over; and every settling of a row.
//!
//! Runs as a task of its own a message, so that one slow exchange holds nobody else. It tells the worker what
//! happened and decides nothing. A store that does not answer is waited for, never skipped.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;

use super::policy::Attempt;
use super::worker::Input;
use crate::bus::{Bus, BusEvent};
use crate::clock::Clock;
use crate::model::{Change, Message, MessageId, WhatsAppId};
use crate::session::{Outgoing, SendError, WhatsApp};
use crate::store::{Changed, Contact, Store, StoreHealth};

/// How long it is believed that a number is, or is not, on WhatsApp.
const REGISTRATION_HOLDS: Duration = Duration::from_secs(24 * 60 * 60);
/// A failing store is asked again this often at least.
const STORE_POLL: Duration = Duration::from_secs(1);

/// What a courier needs; cheap to clone.
#[derive(Debug, Clone)]
pub(super) struct Courier {
    pub(super) store: Store,
    pub(super) session: Arc<dyn WhatsApp>,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) bus: Bus,
    pub(super) inputs: mpsc::UnboundedSender<Input>,
}

impl Courier {
    /// Takes one message out, as far as the hand-over.
    pub(super) async fn carry(self, id: MessageId) {
        let Some(message) = self.claim(id).await else {
            self.tell(Input::Gone(id));
            return;
        };
        // Told before the hand-over, so that no ack can come for an id the worker does not know.
        self.tell(Input::Claimed(id, message.whatsapp_id.clone(), message.attempts));
        let outcome = match self.check_number(&message).await {
            Ok(()) => self.hand_over(message).await,
            Err(attempt) => Err(attempt),
        };
        self.tell(match outcome {
            Ok(()) => Input::HandedOver(id),
            Err(attempt) => Input::NotHandedOver(id, attempt),
        });
    }

    async fn claim(&self, id: MessageId) -> Option<Box<Message>> {
        match self.change(id, Change::Claim).await {
            Changed::Yes(message) => Some(message),
            // Cancelled meanwhile, or settled by a late receipt.
            Changed::Already(_) | Changed::Refused(_) | Changed::Unknown => None,
        }
    }

    async fn hand_over(&self, message: Box<Message>) -> Result<(), Attempt> {
        let Message { whatsapp_id, chat, text, .. } = *message;
        self.session.send(Outgoing { whatsapp_id, chat, text }).await.map_err(attempt)
    }

    /// Before the first message to a number in a day: whether it is on WhatsApp at all.
    async fn check_number(&self, message: &Message) -> Result<(), Attempt> {
        let Some(phone) = message.chat.phone_number() else { return Ok(()) };
        let now = self.clock.now();
        // A store in trouble costs a question more, no message.
        let known = self.store.contacts.by_phone(phone).await.ok().flatten().and_then(|contact| contact.registered);
        let registered = match known.filter(|(_, at)| now.since(*at) < REGISTRATION_HOLDS) {
            Some((registered, _)) => registered,
            None => self.ask(phone).await?,
        };
        if registered { Ok(()) } else { Err(Attempt::Permanent(format!("{phone} is not on WhatsApp"))) }
    }

    async fn ask(&self, phone: &str) -> Result<bool, Attempt> {
        let answer = self.session.registered(&[phone.to_owned()]).await.map_err(attempt)?;
        let registered = answer.first().copied().unwrap_or(false);
        let contact = Contact {
            phone: Some(phone.to_owned()),
            registered: Some((registered, self.clock.now())),
            ..Contact::default()
        };
        if let Err(error) = self.store.contacts.learn(vec![contact]).await {
            tracing::warn!(%error, "cannot remember whether a number is on WhatsApp");
        }
        Ok(registered)
    }

    /// Settles a row and tells the worker how it stands.
    pub(super) async fn settle(self, id: MessageId, change: Change) {
        let retry_at = if let Change::Retry { at, .. } = &change { Some(*at) } else { None };
        let changed = self.change(id, change).await;
        self.tell(Input::Settled(id, Box::new(changed), retry_at));
    }

    /// Settles the row of a WhatsApp id that is on nobody's way: a late ack, or a receipt.
    pub(super) async fn settle_late(self, whatsapp_id: WhatsAppId, change: Change) {
        let id = loop {
            match self.store.outbox.by_whatsapp_id(&whatsapp_id).await {
                Ok(id) => break id,
                Err(error) => self.await_store(&error).await,
            }
        };
        // Ids of other devices of this account, and of messages pruned long ago, are nobody's here.
        let Some(id) = id else { return };
        let changed = self.change(id, change).await;
        self.tell(Input::Settled(id, Box::new(changed), None));
    }

    /// Changes a row, however long the store takes to do it, and announces it.
    async fn change(&self, id: MessageId, change: Change) -> Changed {
        loop {
            match self.store.outbox.change(id, change.clone(), self.clock.now()).await {
                Ok(changed) => {
                    if let Changed::Yes(message) = &changed {
                        self.bus.publish(BusEvent::Message(message.clone()));
                    }
                    return changed;
                }
                Err(error) => self.await_store(&error).await,
            }
        }
    }

    async fn await_store(&self, error: &crate::store::StoreError) {
        tracing::warn!(%error, "the queue waits for the store");
        let mut health = self.store.health.clone();
        let ready = health.wait_for(|health| *health == StoreHealth::Ready);
        let _ = tokio::time::timeout(STORE_POLL, async {
            let ready = ready.await.is_ok();
            // It says ready and failed all the same: do not spin.
            if ready {
                tokio::time::sleep(STORE_POLL).await;
            }
        })
        .await;
    }

    fn tell(&self, input: Input) {
        let _ = self.inputs.send(input);
    }
}

fn attempt(error: SendError) -> Attempt {
    match error {
        SendError::Offline => Attempt::Offline,
        SendError::Transient(reason) => Attempt::Transient(reason),
        SendError::Permanent(reason) => Attempt::Permanent(reason),
    }
}
