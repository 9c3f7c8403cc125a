//! Incoming messages: in the journal first, acknowledged to WhatsApp after.
//!
//! When the journal refuses, WhatsApp keeps the messages, but sends them again at the next connect only. So what was
//! refused is tried again here, and when the journal takes it the connection is renewed: WhatsApp then sends the
//! messages again, the journal knows them already, and they are acknowledged.

use std::mem;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use async_trait::async_trait;
use whatsapp_rust::Client;
use whatsapp_rust::types::durability_hook::InboundDurabilityHook;
use whatsapp_rust::types::events::InboundMessage;

use super::context::Context;
use super::convert::{self, Address};
use crate::model::Incoming;

/// The first wait before the journal is tried again; it doubles up to …
const FIRST_RETRY: Duration = Duration::from_secs(1);
/// … this.
const LONGEST_RETRY: Duration = Duration::from_secs(30);
/// How many refused messages are kept here; more are with WhatsApp only, which is enough.
const KEPT: usize = 1000;

/// The library's durability hook.
pub struct JournalFirst {
    context: Arc<Context>,
    refused: Arc<Mutex<Refused>>,
}

#[derive(Default)]
struct Refused {
    messages: Vec<Incoming>,
    retrying: bool,
}

impl JournalFirst {
    /// For one account's client.
    #[must_use]
    pub fn new(context: Arc<Context>) -> Self {
        Self { context, refused: Arc::default() }
    }

    fn try_again_later(&self, messages: Vec<Incoming>, client: Weak<Client>) {
        let mut refused = lock(&self.refused);
        let room = KEPT.saturating_sub(refused.messages.len());
        refused.messages.extend(messages.into_iter().take(room));
        if !mem::replace(&mut refused.retrying, true) {
            tokio::spawn(retry(Arc::clone(&self.context), Arc::clone(&self.refused), client));
        }
    }
}

fn lock(refused: &Mutex<Refused>) -> std::sync::MutexGuard<'_, Refused> {
    refused.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn retry(context: Arc<Context>, refused: Arc<Mutex<Refused>>, client: Weak<Client>) {
    let mut wait = FIRST_RETRY;
    while client.strong_count() > 0 {
        tokio::time::sleep(wait).await;
        wait = (wait * 2).min(LONGEST_RETRY);
        let messages = lock(&refused).messages.clone();
        let count = messages.len();
        if context.out.inbox.commit(messages).await.is_err() {
            continue;
        }
        {
            let mut refused = lock(&refused);
            refused.messages.drain(..count);
            if !refused.messages.is_empty() {
                continue;
            }
            refused.retrying = false;
        }
        if let Some(client) = client.upgrade() {
            tracing::info!("messages can be stored again; asking WhatsApp for those it still holds");
            client.reconnect_immediately().await;
        }
        return;
    }
}

#[async_trait]
impl InboundDurabilityHook for JournalFirst {
    async fn on_messages(&self, client: Arc<Client>, batch: &[InboundMessage]) -> anyhow::Result<()> {
        let now = self.context.out.clock.now();
        for message in batch {
            let at = convert::timestamp(message.info.timestamp.timestamp_millis());
            let sign = self.context.phone.heard(&client, &message.info.source.sender, at, now);
            sign.into_iter().for_each(|sign| self.context.tell(sign));
            self.context.people.learn(&message.info, now).into_iter().for_each(|person| self.context.tell(person));
            let Some(address) = convert::chat_of(&client, &message.info).await else { continue };
            self.context.people.named(&address).into_iter().for_each(|person| self.context.tell(person));
            // What comes by a broadcast list carries the list's timer, not the chat's.
            if !convert::is_broadcast_list(&message.info.source.chat) {
                self.context.timers.learn(&address.chat, message).await;
            }
        }
        let messages = convert::all_incoming(&client, batch, now).await;
        for Incoming { sender, sender_lid, .. } in &messages {
            let address = Address { chat: sender.clone(), lid: sender_lid.clone() };
            self.context.people.named(&address).into_iter().for_each(|person| self.context.tell(person));
        }
        if messages.is_empty() {
            return Ok(());
        }
        let outcome = self.context.out.inbox.commit(messages.clone()).await;
        if let Err(error) = &outcome {
            tracing::error!(%error, count = messages.len(), "incoming messages could not be stored; WhatsApp keeps them");
            self.try_again_later(messages, Arc::downgrade(&client));
        }
        outcome
    }
}
