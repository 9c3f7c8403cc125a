//! Reading: tells the senders of unread messages that they were read, each message once, and of voice messages that they
//! were played.

use std::sync::Arc;

use tokio::sync::Mutex;
use whatsapp_rust::prelude::{Client, Jid};

use super::PeopleError;
use super::inbox::{Inbox, Unread};
use crate::emulator::Clock;

/// Sends the read and played receipts of one person.
pub(super) struct Reader {
    inbox: Arc<Inbox>,
    clock: Clock,
    /// Held while receipts go out, so that no message is told as read twice.
    turn: Mutex<()>,
}

impl Reader {
    pub(super) fn new(inbox: Arc<Inbox>, clock: Clock) -> Self {
        Self { inbox, clock, turn: Mutex::new(()) }
    }

    /// Reads what is unread and returns how many messages that were.
    pub(super) async fn read(&self, client: &Arc<Client>, delivered_only: bool) -> Result<usize, PeopleError> {
        let _turn = self.turn.lock().await;
        let mut read = 0;
        for receipt in self.inbox.unread(delivered_only) {
            send(client, &receipt, false).await?;
            read += receipt.ids.len();
            self.inbox.mark_read(receipt, self.clock.now_millis())?;
        }
        Ok(read)
    }

    /// Plays the voice messages that were read and not played yet.
    pub(super) async fn play(&self, client: &Arc<Client>) -> Result<(), PeopleError> {
        let _turn = self.turn.lock().await;
        for receipt in self.inbox.unplayed() {
            send(client, &receipt, true).await?;
            self.inbox.mark_played(receipt, self.clock.now_millis())?;
        }
        Ok(())
    }
}

async fn send(client: &Client, receipt: &Unread, played: bool) -> Result<(), PeopleError> {
    let chat = jid(&receipt.address.chat)?;
    let participant = receipt.address.participant.as_deref().map(jid).transpose()?;
    let ids: Vec<&str> = receipt.ids.iter().map(String::as_str).collect();
    let sent = if played {
        client.mark_as_played(&chat, participant.as_ref(), &ids).await
    } else {
        client.mark_as_read(&chat, participant.as_ref(), &ids).await
    };
    sent.map_err(|error| PeopleError::NotSent(error.to_string()))
}

fn jid(text: &str) -> Result<Jid, PeopleError> {
    text.parse().map_err(|_| PeopleError::NotSent(format!("{text} is no address")))
}
