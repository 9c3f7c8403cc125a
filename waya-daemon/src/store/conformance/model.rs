//! A store in memory, as simple as can be: what an engine is compared with under random operations.

use std::collections::BTreeMap;

use crate::model::{Ack, Change, Incoming, Message, MessageId, PushName, Status, StatusChanged, Timestamp, WhatsAppId};
use crate::store::{Batch, Changed, Contact, Counts, Enqueued, Idempotency, Keep, Known, ListFilter};

/// All rows. The operations are those of the traits, at once and infallible.
#[derive(Debug, Clone, Default)]
pub struct Model {
    messages: BTreeMap<MessageId, Message>,
    claimed: BTreeMap<WhatsAppId, MessageId>,
    requests: BTreeMap<[u8; 32], (Idempotency, Vec<Known>)>,
    /// What the journal holds, without cursors.
    pub events: Vec<(Timestamp, ModelEvent)>,
    contacts: Vec<Contact>,
}

/// An event of the journal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ModelEvent {
    /// A message came in.
    Incoming(Box<Incoming>),
    /// An outgoing message changed.
    Status(StatusChanged),
}

impl Model {
    /// As [`crate::store::Outbox::enqueue`].
    pub fn enqueue(&mut self, batch: &Batch) -> Enqueued {
        if let Some(asked) = &batch.idempotency {
            if let Some(known) = self.known(asked) {
                return known;
            }
            let placed = batch.messages.iter().zip(&asked.positions);
            let known = placed.map(|(message, position)| Known::new(message, *position)).collect();
            self.requests.insert(asked.key, (asked.clone(), known));
        }
        self.messages.extend(batch.messages.iter().map(|new| (new.id, Message::from(new.clone()))));
        Enqueued::Fresh
    }

    /// As [`crate::store::Outbox::known`].
    pub fn known(&self, asked: &Idempotency) -> Option<Enqueued> {
        let (request, known) = self.requests.get(&asked.key).filter(|(k, _)| k.at.plus(k.keep) > asked.at)?;
        Some(if request.body == asked.body { Enqueued::Repeat(known.clone()) } else { Enqueued::Conflict })
    }

    /// As [`crate::store::Outbox::change`].
    pub fn change(&mut self, id: MessageId, change: &Change, now: Timestamp) -> Changed {
        let Some(message) = self.messages.get_mut(&id) else { return Changed::Unknown };
        let before: (Status, Ack) = (message.status, message.ack);
        match message.apply(change, now) {
            Err(refusal) => return Changed::Refused(refusal),
            Ok(false) => return Changed::Already(Box::new(message.clone())),
            Ok(true) => {}
        }
        if *change == Change::Claim {
            self.claimed.insert(message.whatsapp_id.clone(), id);
        }
        if before != (message.status, message.ack) && !matches!(change, Change::Claim | Change::PutBack) {
            let changed = StatusChanged {
                id,
                reference_id: message.reference_id.clone(),
                chat: message.chat.clone(),
                status: message.status,
                ack: message.ack,
                error: message.error.clone(),
                before: Some(before.1),
            };
            self.events.push((now, ModelEvent::Status(changed)));
        }
        Changed::Yes(Box::new(message.clone()))
    }

    /// As [`crate::store::Outbox::remove`].
    pub fn remove(&mut self, ids: &[MessageId], status: Status) -> usize {
        let before = self.messages.len();
        for id in ids {
            if let Some(message) = self.messages.get(id).filter(|message| message.status == status) {
                self.claimed.remove(&message.whatsapp_id);
                self.messages.remove(id);
            }
        }
        before - self.messages.len()
    }

    /// As [`crate::store::Outbox::prune`], all of it at once.
    pub fn prune(&mut self, keep: Keep, now: Timestamp) -> usize {
        let cutoff = now.minus(keep.age);
        let finished: Vec<MessageId> =
            self.messages.values().filter(|message| message.status.is_finished()).map(|message| message.id).collect();
        let beyond = finished.len().saturating_sub(keep.newest);
        let old = |id: &&MessageId| {
            self.messages.get(id).is_some_and(|m| m.created_at < cutoff && m.finished_at.is_none_or(|at| at < cutoff))
        };
        let gone: Vec<MessageId> = finished[..beyond].iter().filter(old).copied().collect();
        for id in &gone {
            if let Some(message) = self.messages.remove(id) {
                self.claimed.remove(&message.whatsapp_id);
            }
        }
        let requests = self.requests.len();
        self.requests.retain(|_, (known, _)| known.at.plus(known.keep) > now);
        gone.len() + requests - self.requests.len()
    }

    /// As [`crate::store::Journal::record_incoming`].
    pub fn record_incoming(&mut self, batch: &[Incoming]) -> Vec<bool> {
        let mut new = Vec::new();
        for incoming in batch {
            let known = self
                .events
                .iter()
                .any(|(_, event)| matches!(event, ModelEvent::Incoming(there) if there.is_same_as(incoming)));
            if !known {
                self.events.push((incoming.received_at, ModelEvent::Incoming(Box::new(incoming.clone()))));
            }
            new.push(!known);
            if let Some(writer) = Contact::of_writer(incoming) {
                self.learn(&writer);
            }
        }
        new
    }

    /// As [`crate::store::AddressBook::learn`], of one contact that has a phone or a LID.
    pub fn learn(&mut self, learnt: &Contact) {
        let same = |a: &Option<String>, b: &Option<String>| a.is_some() && a == b;
        let (lids, phones): (Vec<Contact>, Vec<Contact>) = self
            .contacts
            .extract_if(.., |there| same(&there.phone, &learnt.phone) || same(&there.lid, &learnt.lid))
            .partition(|there| !same(&there.phone, &learnt.phone));
        let mut one = Contact::default();
        for part in phones.into_iter().chain(lids).chain([learnt.clone()]) {
            one.phone = part.phone.or(one.phone);
            one.lid = part.lid.or(one.lid);
            one.push_name = PushName::newer(one.push_name, part.push_name);
            one.registered = match (one.registered, part.registered) {
                (Some(a), Some(b)) => Some(if b.1 >= a.1 { b } else { a }),
                (a, b) => b.or(a),
            };
            one.wrote_at = one.wrote_at.into_iter().chain(part.wrote_at).min();
        }
        self.contacts.push(one);
    }

    /// By phone digits.
    pub fn by_phone(&self, phone: &str) -> Option<Contact> {
        self.contacts.iter().find(|contact| contact.phone.as_deref() == Some(phone)).cloned()
    }

    /// By LID digits.
    pub fn by_lid(&self, lid: &str) -> Option<Contact> {
        self.contacts.iter().find(|contact| contact.lid.as_deref() == Some(lid)).cloned()
    }

    /// As [`crate::store::Outbox::list`].
    pub fn list(&self, filter: &ListFilter) -> Vec<Message> {
        let wanted = |m: &&Message| {
            (filter.statuses.is_empty() || filter.statuses.contains(&m.status))
                && filter.before.is_none_or(|before| m.id < before)
        };
        self.messages.values().rev().filter(wanted).take(filter.limit).cloned().collect()
    }

    /// As [`crate::store::Outbox::by_reference`].
    pub fn by_reference(&self, reference: &str, limit: usize) -> Vec<Message> {
        let same = |m: &&Message| m.reference_id.as_deref() == Some(reference);
        self.messages.values().rev().filter(same).take(limit).cloned().collect()
    }

    /// As [`crate::store::Outbox::by_whatsapp_id`].
    pub fn by_whatsapp_id(&self, id: &WhatsAppId) -> Option<MessageId> {
        self.claimed.get(id).copied()
    }

    /// Unfinished messages, oldest first.
    pub fn open(&self) -> Vec<MessageId> {
        self.messages.values().filter(|message| !message.status.is_finished()).map(|message| message.id).collect()
    }

    /// As [`crate::store::Outbox::counts`].
    pub fn counts(&self) -> Counts {
        let count = |status| self.messages.values().filter(|message| message.status == status).count() as u64;
        Counts {
            pending: count(Status::Pending),
            sending: count(Status::Sending),
            sent: count(Status::Sent),
            failed: count(Status::Failed),
            cancelled: count(Status::Cancelled),
        }
    }
}
