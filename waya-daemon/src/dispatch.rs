//! One closed match on what the session tells.
//!
//! Incoming messages go to the journal and are on disk when the session is told so; acks and receipts go to the queue,
//! link states to the views and the journal, what was learnt of people and chats to the address book and the chat list.
//! It decides nothing; what a person's word to be left alone is, `words` says. What is to be written goes through a line of its own, so that a slow store never keeps an ack
//! waiting.

mod words;
mod writers;

use std::sync::Arc;

use async_trait::async_trait;
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

use crate::bus::{Bus, BusEvent};
use crate::clock::Clock;
use crate::model::{ChatId, EventBody, Incoming, LinkState, Member, Timestamp};
use crate::queue::Queue;
use crate::session::{History, Inbox, Person, WaEvent};
use crate::settings::Snapshot;
use crate::store::{Contact, Journal, Store, StoreError, phone};

/// So many events are taken at once, so that what belongs together costs one commit.
const AT_ONCE: usize = 256;
/// So many rows of a history are written in one transaction.
const ROWS_AT_ONCE: usize = 500;

pub use writers::learn as learn_old_writers;

/// The journal, as the session's inbox. What a message says to the queue (who is no stranger any more, who wants to hear
/// no more) is on disk before it is acknowledged too, so nothing comes in before there is a queue.
#[derive(Debug)]
pub struct JournalInbox {
    journal: Arc<dyn Journal>,
    settings: watch::Receiver<Snapshot>,
    queue: watch::Receiver<Option<Queue>>,
}

impl JournalInbox {
    /// Takes messages in once there is a queue.
    #[must_use]
    pub fn new(
        journal: Arc<dyn Journal>,
        settings: watch::Receiver<Snapshot>,
        queue: watch::Receiver<Option<Queue>>,
    ) -> Self {
        Self { journal, settings, queue }
    }
}

#[async_trait]
impl Inbox for JournalInbox {
    async fn commit(&self, batch: Vec<Incoming>) -> anyhow::Result<()> {
        let queue = self.queue.clone().wait_for(Option::is_some).await?.clone();
        let words = words::said(&batch, &self.settings.borrow());
        let new = self.journal.record_incoming(batch).await?;
        if let Some(queue) = queue {
            words::heed(words, &new, &queue).await?;
        }
        Ok(())
    }
}

/// What is to be written.
#[derive(Debug)]
enum Note {
    Link(LinkState, Timestamp),
    Person(Contact),
    History(History),
    PhoneSeen(Timestamp),
    Forgotten,
}

/// Passes on what the session tells, until it tells no more, or until `last_call`: what it has told by then is passed on
/// too. Returns once all of it is written.
pub async fn run(
    mut events: mpsc::UnboundedReceiver<WaEvent>,
    queue: Queue,
    store: Store,
    bus: Bus,
    clock: Arc<dyn Clock>,
    last_call: CancellationToken,
) {
    let (notes, noted) = mpsc::unbounded_channel();
    let pairs = queue.clone();
    let pass_on = async move {
        // Dropped at the end, so that the writing ends too.
        let notes = notes;
        let note = |note| drop(notes.send(note));
        loop {
            let event = tokio::select! {
                event = events.recv() => event,
                () = last_call.cancelled(), if !events.is_closed() => {
                    events.close();
                    continue;
                }
            };
            let Some(event) = event else { break };
            match event {
                WaEvent::ServerAck { id, refused } => queue.on_server_ack(id, refused),
                WaEvent::Receipt { ids, chat, from, from_lid, kind, at } => {
                    let members = if chat.is_person() { Vec::new() } else { addresses(&from, from_lid) };
                    queue.on_receipt(ids, &members, kind, at);
                }
                WaEvent::Person(person) => {
                    pair(&queue, &person);
                    note(Note::Person(contact(person)));
                }
                WaEvent::History(history) => note(Note::History(history)),
                WaEvent::PhoneSeen(at) => note(Note::PhoneSeen(at)),
                WaEvent::Forgotten => {
                    queue.on_account_gone();
                    note(Note::Forgotten);
                }
                WaEvent::Link(state) => {
                    tracing::info!(state = state.name(), "link");
                    note(Note::Link(state.clone(), clock.now()));
                    bus.publish(BusEvent::Link(state));
                }
            }
        }
    };
    tokio::join!(pass_on, write_down(noted, &store, &pairs));
}

/// A group's member, as they may be known.
fn addresses(from: &ChatId, lid: Option<String>) -> Vec<Member> {
    let lid = lid.map(|digits| ChatId::lid(&digits));
    [Some(from), lid.as_ref()].into_iter().flatten().filter_map(Member::of).collect()
}

/// Tells the queue of both addresses of a person, before the store learns them.
fn pair(queue: &Queue, person: &Person) {
    if let (Some(phone), Some(lid)) = (&person.phone, &person.lid) {
        queue.on_pair(lid, phone);
    }
}

fn contact(Person { phone, lid, push_name }: Person) -> Contact {
    Contact { phone, lid, push_name, ..Contact::default() }
}

async fn write_down(mut noted: mpsc::UnboundedReceiver<Note>, store: &Store, queue: &Queue) {
    let mut batch = Vec::with_capacity(AT_ONCE);
    let mut last = None;
    while noted.recv_many(&mut batch, AT_ONCE).await > 0 {
        let mut people = Vec::new();
        for note in batch.drain(..) {
            match note {
                Note::Person(contact) => people.push(contact),
                Note::History(history) => {
                    // In the order told: a name of before is older than what a history tells.
                    learn(store, std::mem::take(&mut people)).await;
                    learn_history(store, queue, history).await;
                }
                Note::PhoneSeen(at) => {
                    once_it_can(store, "the phone's being there", || phone::saw(&*store.values, at)).await;
                }
                Note::Forgotten => {
                    people.clear();
                    once_it_can(store, "what is to be forgotten", || phone::forget(&*store.values)).await;
                    once_it_can(store, "what is to be forgotten", || store.contacts.forget_all()).await;
                }
                Note::Link(state, at) => journal_link(store, state, at, &mut last).await,
            }
        }
        learn(store, people).await;
    }
}

/// Writes down what was learnt of people.
async fn learn(store: &Store, people: Vec<Contact>) {
    if !people.is_empty() {
        once_it_can(store, "names and numbers", || store.contacts.learn(people.clone())).await;
    }
}

/// Writes down what the phone knows, a bounded number of rows a transaction, so that nothing else waits long.
async fn learn_history(store: &Store, queue: &Queue, history: History) {
    for people in history.people.chunks(ROWS_AT_ONCE) {
        // A few at a time here too: the queue does not remember pairs for long.
        people.iter().for_each(|person| pair(queue, person));
        learn(store, people.iter().cloned().map(contact).collect()).await;
    }
    for chats in history.chats.chunks(ROWS_AT_ONCE) {
        once_it_can(store, "chats", || store.chats.learn(chats.to_vec())).await;
    }
}

/// Writes something down once the store can: the session tells it only once.
async fn once_it_can<F>(store: &Store, what: &str, write: impl Fn() -> F)
where
    F: Future<Output = Result<(), StoreError>>,
{
    while let Err(error) = write().await {
        if matches!(error, StoreError::Damaged(_)) {
            tracing::error!(%error, what, "not written down");
            return;
        }
        tracing::debug!(%error, what, "waiting for the store");
        store.come_back().await;
    }
}

/// Journals a change of the link, once the store can.
async fn journal_link(store: &Store, state: LinkState, at: Timestamp, last: &mut Option<LinkState>) {
    // Views show codes, the journal does not keep them.
    let state = state.without_codes();
    if last.as_ref() == Some(&state) {
        return;
    }
    while let Err(error) = store.journal.append(EventBody::Link(state.clone()), at).await {
        if matches!(error, StoreError::Damaged(_)) {
            tracing::error!(%error, "a change of the link is not in the journal");
            break;
        }
        tracing::debug!(%error, "a change of the link waits for the journal");
        store.come_back().await;
    }
    *last = Some(state);
}

#[cfg(test)]
mod tests;
