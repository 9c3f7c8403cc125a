//! One closed match on what the session tells.
//!
//! Incoming messages go to the journal and are on disk when the session is told so; acks and receipts go to the queue,
//! link states to the views and the journal, what was learnt of people to the address book. It decides nothing. What
//! is to be written goes through a line of its own, so that a slow store never keeps an ack waiting.

use std::sync::Arc;

use async_trait::async_trait;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::bus::{Bus, BusEvent};
use crate::clock::Clock;
use crate::model::{EventBody, Incoming, LinkState, Timestamp};
use crate::queue::Queue;
use crate::session::{Inbox, WaEvent};
use crate::store::{Contact, Journal, Store, StoreError};

/// So many events are taken at once, so that what belongs together costs one commit.
const AT_ONCE: usize = 256;

/// The journal, as the session's inbox.
#[derive(Debug)]
pub struct JournalInbox(pub Arc<dyn Journal>);

#[async_trait]
impl Inbox for JournalInbox {
    async fn commit(&self, batch: Vec<Incoming>) -> anyhow::Result<()> {
        self.0.record_incoming(batch).await?;
        Ok(())
    }
}

/// What is to be written.
#[derive(Debug)]
enum Note {
    Link(LinkState, Timestamp),
    Person(Contact),
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
                WaEvent::Receipt { ids, kind, at, .. } => queue.on_receipt(ids, kind, at),
                WaEvent::Person { phone, lid, push_name } => {
                    if let (Some(phone), Some(lid)) = (&phone, &lid) {
                        queue.on_pair(lid, phone);
                    }
                    note(Note::Person(Contact { phone, lid, push_name, registered: None }));
                }
                WaEvent::Link(state) => {
                    tracing::info!(state = state.name(), "link");
                    note(Note::Link(state.clone(), clock.now()));
                    bus.publish(BusEvent::Link(state));
                }
            }
        }
    };
    tokio::join!(pass_on, write_down(noted, &store));
}

async fn write_down(mut noted: mpsc::UnboundedReceiver<Note>, store: &Store) {
    let mut batch = Vec::with_capacity(AT_ONCE);
    let mut last = None;
    while noted.recv_many(&mut batch, AT_ONCE).await > 0 {
        let mut people = Vec::new();
        for note in batch.drain(..) {
            match note {
                Note::Person(contact) => people.push(contact),
                Note::Link(state, at) => journal_link(store, state, at, &mut last).await,
            }
        }
        if !people.is_empty() {
            learn(store, people).await;
        }
    }
}

/// Writes down what was learnt of people, once the store can: the session tells it only once.
async fn learn(store: &Store, people: Vec<Contact>) {
    while let Err(error) = store.contacts.learn(people.clone()).await {
        if matches!(error, StoreError::Damaged(_)) {
            tracing::error!(%error, "names and numbers are not written down");
            return;
        }
        tracing::debug!(%error, "names and numbers wait for the store");
        store.come_back().await;
    }
}

/// Journals a change of the link, once the store can.
async fn journal_link(store: &Store, state: LinkState, at: Timestamp, last: &mut Option<LinkState>) {
    let state = match state {
        // A QR code is good for seconds and for whoever sees it: views show it, the journal does not keep it.
        LinkState::Pairing { .. } => LinkState::Pairing { qr: None, code: None, expires_at: None },
        other => other,
    };
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
