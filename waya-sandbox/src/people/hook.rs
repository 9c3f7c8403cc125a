//! The durability hook of a person's client: what it decrypted is in the inbox before the server is
//! told that it arrived.
//!
//! Called by the client for every batch of decrypted messages. Never sends anything.

use std::sync::Arc;

use whatsapp_rust::prelude::{Client, InboundMessage, Jid, MessageInfo};
use whatsapp_rust::wacore_binary::JidExt as _;
use whatsapp_rust::{InboundDurabilityHook, anyhow, async_trait};

use super::content;
use super::inbox::{Address, Inbox, Received, Stanza};

/// Commits received messages to the inbox.
pub(super) struct InboxHook {
    inbox: Arc<Inbox>,
}

impl InboxHook {
    pub(super) fn new(inbox: Arc<Inbox>) -> Self {
        Self { inbox }
    }
}

#[async_trait]
impl InboundDurabilityHook for InboxHook {
    async fn on_messages(&self, client: Arc<Client>, batch: &[InboundMessage]) -> anyhow::Result<()> {
        let mut received = Vec::with_capacity(batch.len());
        for message in batch.iter().filter(|message| !message.info.source.is_from_me) {
            if let Some(content) = content::describe(&message.message) {
                received.push(read(&client, &message.info, content).await);
            }
        }
        self.inbox.commit(received)?;
        Ok(())
    }
}

async fn read(client: &Client, info: &MessageInfo, content: content::Content) -> Received {
    let source = &info.source;
    let from = shown(client, &source.sender, source.sender_alt.as_ref()).await;
    let chat = if source.is_group || source.chat.is_group() {
        source.chat.to_non_ad_string()
    } else {
        shown(client, &source.chat, source.sender_alt.as_ref()).await
    };
    let seconds = info.timestamp.timestamp();
    Received {
        id: info.id.clone(),
        chat,
        from,
        ts: info.timestamp.timestamp_millis(),
        content,
        address: address(info),
        stanza: Stanza {
            stamp: info.server_timestamp_us.unwrap_or(seconds * 1_000_000),
            exact: info.server_timestamp_us.is_some(),
            queued: info.is_offline,
        },
    }
}

/// Where the receipts of a message go.
pub(super) fn address(info: &MessageInfo) -> Address {
    let group = info.source.is_group || info.source.chat.is_group();
    Address { chat: info.source.chat.to_string(), participant: group.then(|| info.source.sender.to_string()) }
}

/// A person as people know them: by phone number wherever it is known.
pub(super) async fn shown(client: &Client, jid: &Jid, alternative: Option<&Jid>) -> String {
    if jid.server.is_pn_family() {
        return format!("{}@c.us", jid.user);
    }
    if !jid.server.is_lid_family() {
        return jid.to_non_ad_string();
    }
    if let Some(phone) = alternative.filter(|other| other.server.is_pn_family()) {
        return format!("{}@c.us", phone.user);
    }
    match client.get_lid_pn_entry(&jid.to_non_ad()).await {
        Ok(Some(entry)) => format!("{}@c.us", entry.phone_number),
        _ => format!("{}@lid", jid.user),
    }
}
