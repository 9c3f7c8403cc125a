//! One closed match on what the session tells.
//!
//! Incoming messages go to the journal and are on disk when the session is told so; acks and receipts go to the queue,
//! link states to the journal and the views, what was learnt of people to the address book. It decides nothing, and a
//! slow store never keeps an ack waiting: the queue takes those into its own line at once.

use std::sync::Arc;

use async_trait::async_trait;
use tokio::sync::mpsc;

use crate::bus::{Bus, BusEvent};
use crate::clock::Clock;
use crate::model::{EventBody, Incoming, LinkState};
use crate::queue::Queue;
use crate::session::{Inbox, WaEvent};
use crate::store::{Contact, Journal, Store};

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

/// Passes on what the session tells, until it tells no more.
pub async fn run(
    mut events: mpsc::UnboundedReceiver<WaEvent>,
    queue: Queue,
    store: Store,
    bus: Bus,
    clock: Arc<dyn Clock>,
) {
    let mut batch = Vec::with_capacity(AT_ONCE);
    while events.recv_many(&mut batch, AT_ONCE).await > 0 {
        let (mut people, mut links) = (Vec::new(), Vec::new());
        for event in batch.drain(..) {
            match event {
                WaEvent::ServerAck { id, refused } => queue.on_server_ack(id, refused),
                WaEvent::Receipt { ids, kind, at, .. } => queue.on_receipt(ids, kind, at),
                WaEvent::Person { phone, lid, push_name } => {
                    people.push(Contact { phone, lid, push_name, registered: None });
                }
                WaEvent::Link(state) => links.push(state),
            }
        }
        for state in links {
            note_link(&store, &bus, &*clock, state).await;
        }
        if !people.is_empty()
            && let Err(error) = store.contacts.learn(people).await
        {
            // It is learnt again with the next message of these people.
            tracing::warn!(%error, "names and numbers are not written down");
        }
    }
}

async fn note_link(store: &Store, bus: &Bus, clock: &dyn Clock, state: LinkState) {
    tracing::info!(state = state.name(), "link");
    // A QR code is good for seconds and for whoever sees it: views show it, the journal does not keep it.
    let journalled = match &state {
        LinkState::Pairing { .. } => LinkState::Pairing { qr: None, code: None, expires_at: None },
        other => other.clone(),
    };
    bus.publish(BusEvent::Link(state));
    if let Err(error) = store.journal.append(EventBody::Link(journalled), clock.now()).await {
        tracing::warn!(%error, "a change of the link is not in the journal");
    }
}
