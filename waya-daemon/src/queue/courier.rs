//! One message's way out: claim the row, check the number, have its file ready, hand over.
//!
//! Runs as a task of its own a message, so that one slow exchange holds nobody else. It tells the worker what
//! happened and decides nothing.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt as _;
use tokio::sync::mpsc;

use super::care::CareOnTheWay;
use super::ledger::Ledger;
use super::luggage;
use super::policy::Attempt;
use super::worker::Input;
use crate::media::Media;
use crate::model::{Change, ChatKind, Message, MessageId, Roster, Status};
use crate::session::{SendError, WhatsApp};
use crate::store::{Changed, Contact};

/// How long it is believed that a number is, or is not, on WhatsApp.
const REGISTRATION_HOLDS: Duration = Duration::from_hours(24);
/// Longer than the session takes for any answer: whatever hangs beyond that must not hold the queue.
const HAND_OVER_AT_MOST: Duration = Duration::from_mins(1);

/// What a courier needs; cheap to clone.
#[derive(Debug, Clone)]
pub(super) struct Courier {
    pub(super) ledger: Ledger,
    pub(super) session: Arc<dyn WhatsApp>,
    pub(super) media: Media,
    pub(super) inputs: mpsc::UnboundedSender<Input>,
    pub(super) care: CareOnTheWay,
}

impl Courier {
    /// Takes one message out, as far as the hand-over. With `ask_again`, what is remembered of its number is not
    /// believed.
    pub(super) async fn carry(self, id: MessageId, ask_again: bool) {
        let message = match AssertUnwindSafe(self.claim(id)).catch_unwind().await {
            Ok(Some(message)) => message,
            Ok(None) => return self.tell(Input::NotClaimed(id)),
            Err(_panic) => return self.tell(Input::NotHandedOver(id, internal_error())),
        };
        // Told before the hand-over, so that no ack can come for an id the worker does not know.
        self.tell(Input::Claimed(id, message.whatsapp_id.clone(), message.attempts));
        let outcome = AssertUnwindSafe(self.deliver(message, ask_again)).catch_unwind().await;
        self.tell(match outcome.unwrap_or_else(|_panic| Err(internal_error())) {
            Ok(()) => Input::HandedOver(id),
            Err(attempt) => Input::NotHandedOver(id, attempt),
        });
    }

    async fn claim(&self, id: MessageId) -> Option<Message> {
        let changed = self.ledger.change(id, Change::Claim, self.ledger.clock.now()).await;
        self.ledger.announce(&changed);
        match changed {
            Changed::Yes(message) => Some(*message),
            // A claim that the store carried out without being able to say so.
            Changed::Refused(refusal) if refusal.status == Status::Sending => {
                self.ledger.message(id).await.filter(|message| message.status == Status::Sending)
            }
            // Cancelled meanwhile, or settled by a late receipt.
            Changed::Already(_) | Changed::Refused(_) | Changed::Unknown => None,
        }
    }

    async fn deliver(&self, message: Message, ask_again: bool) -> Result<(), Attempt> {
        self.care.allows(&self.ledger, &message).await?;
        within_patience(self.check_number(&message, ask_again)).await?;
        self.address(&message).await;
        let outgoing = luggage::pack(&self.media, &*self.session, &message).await?;
        self.care.counted(&self.ledger, &message).await;
        within_patience(async { self.session.send(outgoing).await.map_err(attempt) }).await
    }

    /// Before a message to a group leaves: who gets it, so that their receipts can be counted. Where that cannot be
    /// found out it leaves all the same, and the first receipt counts for all.
    async fn address(&self, message: &Message) {
        if message.chat.kind() != ChatKind::Group || message.receipts.is_some() {
            return;
        }
        let asking = AssertUnwindSafe(self.session.members(&message.chat)).catch_unwind();
        let Ok(Ok(Some(people))) = tokio::time::timeout(HAND_OVER_AT_MOST, asking).await else { return };
        if let Some(members) = Roster::new(&people) {
            let addressed = Change::Addressed { members };
            self.ledger.change(message.id, addressed, self.ledger.clock.now()).await;
        }
    }

    /// Before the first message to a number in a day: whether it is on WhatsApp at all.
    async fn check_number(&self, message: &Message, ask_again: bool) -> Result<(), Attempt> {
        let Some(phone) = message.chat.phone_number() else { return Ok(()) };
        let now = self.ledger.clock.now();
        // A store in trouble costs a question more, no message.
        let known = self.ledger.store.contacts.by_phone(phone).await.ok().flatten();
        let known = known.and_then(|contact| contact.registered);
        let registered = match known.filter(|(_, at)| !ask_again && now.since(*at) < REGISTRATION_HOLDS) {
            Some((true, _)) => return Ok(()),
            Some((false, _)) => return Err(Attempt::Permanent(not_there(phone))),
            None => self.ask(phone).await?,
        };
        if registered { Ok(()) } else { Err(Attempt::NotThere(not_there(phone))) }
    }

    async fn ask(&self, phone: &str) -> Result<bool, Attempt> {
        let answer = self.session.registered(&[phone.to_owned()]).await.map_err(unanswered)?;
        let Some(registered) = answer.first().copied() else {
            return Err(Attempt::Unanswered("WhatsApp did not say whether the number is on it".to_owned(), 1));
        };
        let contact = Contact {
            phone: Some(phone.to_owned()),
            registered: Some((registered, self.ledger.clock.now())),
            ..Contact::default()
        };
        let contacts = Arc::clone(&self.ledger.store.contacts);
        // The message need not wait until that is on disk.
        tokio::spawn(async move {
            if let Err(error) = contacts.learn(vec![contact]).await {
                tracing::warn!(%error, "cannot remember whether a number is on WhatsApp");
            }
        });
        Ok(registered)
    }

    fn tell(&self, input: Input) {
        let _ = self.inputs.send(input);
    }
}

async fn within_patience(step: impl Future<Output = Result<(), Attempt>>) -> Result<(), Attempt> {
    let too_long = || Attempt::Transient("the hand-over to WhatsApp took too long".to_owned());
    tokio::time::timeout(HAND_OVER_AT_MOST, step).await.unwrap_or_else(|_| Err(too_long()))
}

fn internal_error() -> Attempt {
    Attempt::Transient("an internal error while it was handed over".to_owned())
}

pub(super) fn attempt(error: SendError) -> Attempt {
    match error {
        SendError::Offline => Attempt::Offline,
        SendError::Transient(reason) => Attempt::Transient(reason),
        SendError::Permanent(reason) => Attempt::Permanent(reason),
    }
}

/// A question that failed is no hand-over, and no refusal of the message either.
fn unanswered(error: SendError) -> Attempt {
    match error {
        SendError::Offline => Attempt::Offline,
        SendError::Transient(reason) | SendError::Permanent(reason) => Attempt::Unanswered(reason, 1),
    }
}

fn not_there(phone: &str) -> String {
    format!("{phone} is not on WhatsApp")
}
