//! Addresses and messages of the client library in the words of the domain, and back.

use std::sync::Arc;

use whatsapp_rust::types::events::InboundMessage;
use whatsapp_rust::types::message::{MessageCategory, MessageInfo};
use whatsapp_rust::waproto::codec::message_to_vec;
use whatsapp_rust::{Client, Jid, Server};

use super::kind;
use crate::model::{ChatId, ChatKind, Incoming, Timestamp};

/// A person or chat as it is shown, with the LID when that is known too.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Address {
    /// By phone whenever that is known.
    pub chat: ChatId,
    /// LID digits.
    pub lid: Option<String>,
}

/// Where the library sends to for `chat`.
#[must_use]
pub fn jid(chat: &ChatId) -> Jid {
    match chat.kind() {
        ChatKind::Phone => Jid::pn(chat.user()),
        ChatKind::Lid => Jid::lid(chat.user()),
        ChatKind::Group => Jid::group(chat.user()),
        ChatKind::Status => Jid::status_broadcast(),
        ChatKind::Newsletter => Jid::newsletter(chat.user()),
    }
}

/// Phone and LID digits of one person, out of the two ways a stanza may name them.
#[must_use]
pub fn phone_and_lid(jid: &Jid, other: Option<&Jid>) -> (Option<String>, Option<String>) {
    let find = |wanted: fn(Server) -> bool| {
        let named = [Some(jid), other].into_iter().flatten().find(|jid| wanted(jid.server));
        named.map(|jid| jid.user_base().to_owned())
    };
    let phone = |server| matches!(server, Server::Pn | Server::Legacy | Server::Hosted);
    let lid = |server| matches!(server, Server::Lid | Server::HostedLid);
    (find(phone), find(lid))
}

/// The address of a person or chat; `other` is the second name a stanza gave. `None` for what is no chat (calls,
/// bots, other networks).
pub async fn address(client: &Client, jid: &Jid, other: Option<&Jid>) -> Option<Address> {
    match jid.server {
        Server::Group => Some(Address { chat: ChatId::group(&jid.user), lid: None }),
        Server::Broadcast | Server::Newsletter => {
            Some(Address { chat: format!("{}@{}", jid.user, jid.server.as_str()).parse().ok()?, lid: None })
        }
        Server::Pn | Server::Legacy | Server::Hosted | Server::Lid | Server::HostedLid => {
            person(client, phone_and_lid(jid, other)).await
        }
        _ => None,
    }
}

async fn person(client: &Client, known: (Option<String>, Option<String>)) -> Option<Address> {
    match known {
        (Some(phone), lid) => Some(Address { chat: ChatId::phone(&phone), lid }),
        (None, Some(lid)) => {
            // A failing look-up costs the nicer address only.
            let entry = client.get_lid_pn_entry(&Jid::lid(lid.as_str())).await.ok().flatten();
            let chat = entry.map_or_else(|| ChatId::lid(&lid), |entry| ChatId::phone(&entry.phone_number));
            Some(Address { chat, lid: Some(lid) })
        }
        (None, None) => None,
    }
}

/// An incoming message for the journal; `None` for what people do not see, and for status posts.
pub async fn incoming(client: &Client, message: &InboundMessage, now: Timestamp) -> Option<Incoming> {
    let info = &message.info;
    if info.category == MessageCategory::Peer || info.source.chat.server == Server::Broadcast {
        return None;
    }
    let content = kind::content(&message.message)?;
    let sender = sender(client, info).await?;
    let chat = chat_of(client, info).await?;
    Some(Incoming {
        id: info.id.clone(),
        chat,
        sender: sender.chat,
        sender_lid: sender.lid,
        from_me: info.source.is_from_me,
        push_name: push_name(info),
        kind: content.kind.to_owned(),
        text: content.text,
        timestamp: timestamp(info.timestamp.timestamp_millis()),
        received_at: now,
        raw: message_to_vec(&message.message),
    })
}

/// The chat a message stands in. In a private chat it is named after the other side.
pub async fn chat_of(client: &Client, info: &MessageInfo) -> Option<ChatId> {
    let source = &info.source;
    let other = if source.is_from_me { &source.recipient_alt } else { &source.sender_alt };
    Some(address(client, &source.chat, other.as_ref()).await?.chat)
}

async fn sender(client: &Client, info: &MessageInfo) -> Option<Address> {
    if info.source.is_from_me {
        let lid = client.lid();
        return address(client, &client.pn()?, lid.as_ref()).await;
    }
    address(client, &info.source.sender, info.source.sender_alt.as_ref()).await
}

/// The sender's own name for itself, else the name a business was verified under.
#[must_use]
pub fn push_name(info: &MessageInfo) -> Option<String> {
    let said = Some(info.push_name.clone()).filter(|name| !name.is_empty());
    said.or_else(|| info.verified_name.as_ref().and_then(|verified| verified.name.clone()))
}

/// Milliseconds since the epoch; nothing before it.
#[must_use]
pub fn timestamp(millis: i64) -> Timestamp {
    Timestamp::from_millis(u64::try_from(millis).unwrap_or(0))
}

/// All of a batch that people see.
pub async fn all_incoming(client: &Arc<Client>, batch: &[InboundMessage], now: Timestamp) -> Vec<Incoming> {
    let mut messages = Vec::with_capacity(batch.len());
    for message in batch {
        messages.extend(incoming(client, message, now).await);
    }
    messages
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn every_chat_has_one_address_on_either_side() {
        for (shown, library) in [
            ("6281200000002@c.us", "6281200000002@s.whatsapp.net"),
            ("123456789012345@lid", "123456789012345@lid"),
            ("120363041234567890@g.us", "120363041234567890@g.us"),
            ("status@broadcast", "status@broadcast"),
            ("120363041234567891@newsletter", "120363041234567891@newsletter"),
        ] {
            assert_eq!(jid(&shown.parse().unwrap()).to_string(), library);
        }
    }

    #[test]
    fn a_person_is_known_by_both_names_whichever_comes_first() {
        let phone: Jid = "6281200000002:7@s.whatsapp.net".parse().unwrap();
        let lid: Jid = "123456789012345:7@lid".parse().unwrap();
        let both = (Some("6281200000002".to_owned()), Some("123456789012345".to_owned()));
        assert_eq!(phone_and_lid(&phone, Some(&lid)), both);
        assert_eq!(phone_and_lid(&lid, Some(&phone)), both);
        assert_eq!(phone_and_lid(&lid, None), (None, both.1));
    }
}
