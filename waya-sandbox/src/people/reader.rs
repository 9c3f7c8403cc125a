//! Reading: tells the senders of unread messages that they were read, each message once.

use std::sync::Arc;

use tokio::sync::Mutex;
use whatsapp_rust::prelude::{Client, Jid};

use super::PeopleError;
use super::inbox::{Inbox, Unread};

/// Sends the read receipts of one person.
pub(super) struct Reader {
    inbox: Arc<Inbox>,
    /// Held while receipts go out, so that no message is told as read twice.
    turn: Mutex<()>,
}

impl Reader {
    pub(super) fn new(inbox: Arc<Inbox>) -> Self {
        Self { inbox, turn: Mutex::new(()) }
    }

    /// Reads what is unread and returns how many messages that were.
    pub(super) async fn read(&self, client: &Arc<Client>, delivered_only: bool) -> Result<usize, PeopleError> {
        let _turn = self.turn.lock().await;
        let mut read = 0;
        for receipt in self.inbox.unread(delivered_only) {
            send(client, &receipt).await?;
            read += receipt.ids.len();
            self.inbox.mark_read(receipt)?;
        }
        Ok(read)
    }
}

async fn send(client: &Client, receipt: &Unread) -> Result<(), PeopleError> {
    let chat = jid(&receipt.address.chat)?;
    let participant = receipt.address.participant.as_deref().map(jid).transpose()?;
    let ids: Vec<&str> = receipt.ids.iter().map(String::as_str).collect();
    client
        .mark_as_read(&chat, participant.as_ref(), &ids)
        .await
        .map_err(|error| PeopleError::NotSent(error.to_string()))
}

fn jid(text: &str) -> Result<Jid, PeopleError> {
    text.parse().map_err(|_| PeopleError::NotSent(format!("{text} is no address")))
}
