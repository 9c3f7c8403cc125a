//! Addresses and messages of the client library in the words of the domain, and back.

use std::sync::Arc;

use whatsapp_rust::types::events::InboundMessage;
use whatsapp_rust::types::message::{MessageCategory, MessageInfo};
use whatsapp_rust::waproto::codec::message_to_vec;
use whatsapp_rust::{Client, Jid, Server};

use super::kind;
use crate::model::{ChatId, ChatKind, Incoming, Timestamp, clean_name};

/// The user of the status chat, on the server it shares with broadcast lists.
const STATUS: &str = "status";

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

/// An incoming message for the journal; `None` for what people do not see, for status posts, and (with a word in the
/// log) for what comes from no address there is a chat for.
pub async fn incoming(client: &Client, message: &InboundMessage, now: Timestamp) -> Option<Incoming> {
    let info = &message.info;
    if info.category == MessageCategory::Peer || is_status(&info.source.chat) {
        return None;
    }
    let content = kind::content(&message.message)?;
    let (Some(sender), Some(chat)) = (sender(client, info).await, chat_of(client, info).await) else {
        let (chat, sender) = (masked(&info.source.chat), masked(&info.source.sender));
        tracing::warn!(
            id = info.id,
            chat,
            sender,
            "a message from a kind of address that waya does not know is left out"
        );
        return None;
    };
    Some(Incoming {
        id: info.id.clone(),
        chat: chat.chat,
        chat_lid: chat.lid,
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

/// The chat a message stands in. In a private chat it is named after the other side; what comes by a broadcast list
/// stands in the chat with its sender, because nobody else is shown it there.
pub async fn chat_of(client: &Client, info: &MessageInfo) -> Option<Address> {
    let source = &info.source;
    if is_broadcast_list(&source.chat) {
        return sender(client, info).await;
    }
    let other = if source.is_from_me { &source.recipient_alt } else { &source.sender_alt };
    address(client, &source.chat, other.as_ref()).await
}

fn is_status(chat: &Jid) -> bool {
    chat.server == Server::Broadcast && chat.user == STATUS
}

/// Somebody's list of people who all get the same message, each in private.
pub fn is_broadcast_list(chat: &Jid) -> bool {
    chat.server == Server::Broadcast && chat.user != STATUS
}

/// An address for the log.
fn masked(jid: &Jid) -> String {
    match (jid.user.get(..4), jid.user.get(jid.user.len().saturating_sub(2)..)) {
        (Some(head), Some(tail)) if jid.user.len() > 7 => format!("{head}…{tail}@{}", jid.server.as_str()),
        _ => format!("…@{}", jid.server.as_str()),
    }
}

async fn sender(client: &Client, info: &MessageInfo) -> Option<Address> {
    if info.source.is_from_me {
        let lid = client.lid();
        return address(client, &client.pn()?, lid.as_ref()).await;
    }
    address(client, &info.source.sender, info.source.sender_alt.as_ref()).await
}

/// The sender's own name for itself, else the name a business was verified under; fit to be shown.
#[must_use]
pub fn push_name(info: &MessageInfo) -> Option<String> {
    let verified = || info.verified_name.as_ref().and_then(|verified| verified.name.as_deref());
    clean_name(&info.push_name).or_else(|| verified().and_then(clean_name))
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
    use crate::session::whatsapp_rs::tests::driver_at;
    use whatsapp_rust::types::message::MessageSource;
    use whatsapp_rust::waproto::whatsapp::Message;

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

    /// A text from `sender` in `chat`.
    fn text(chat: &str, sender: &str, alternative: Option<&str>) -> InboundMessage {
        let source = MessageSource {
            chat: chat.parse().unwrap(),
            sender: sender.parse().unwrap(),
            sender_alt: alternative.map(|jid| jid.parse().unwrap()),
            ..MessageSource::default()
        };
        let info = MessageInfo { source, id: "3EB0".to_owned(), ..MessageInfo::default() };
        let message = Message { conversation: Some("Halo".to_owned()), ..Message::default() };
        InboundMessage::builder().message(Arc::new(message)).info(Arc::new(info)).build()
    }

    /// Chat and sender in the journal, after `message` came to a client that knows nobody.
    async fn journalled(message: InboundMessage) -> Option<(String, String)> {
        let folder = tempfile::tempdir().unwrap();
        let driver = driver_at(folder.path());
        let client = driver.client().await.unwrap();
        let incoming = incoming(&client, &message, Timestamp::from_millis(1)).await;
        incoming.map(|incoming| (incoming.chat.to_string(), incoming.sender.to_string()))
    }

    #[tokio::test]
    async fn a_broadcast_list_is_the_private_chat_with_its_sender() {
        let sender = "123456789012345:7@lid";
        let alternative = Some("6281200000002@s.whatsapp.net");
        let by_phone = "6281200000002@c.us".to_owned();
        let message = text("1700000000@broadcast", sender, alternative);
        assert_eq!(journalled(message).await, Some((by_phone.clone(), by_phone)));
        let by_lid = "123456789012345@lid".to_owned();
        assert_eq!(journalled(text("1700000000@broadcast", sender, None)).await, Some((by_lid.clone(), by_lid)));
        assert_eq!(journalled(text("status@broadcast", sender, alternative)).await, None, "status posts are left out");
    }

    #[tokio::test]
    async fn what_has_no_address_here_is_left_out() {
        for chat in ["867051314767696@bot", "1234567890123@interop", "1234567890123@msgr"] {
            assert_eq!(journalled(text(chat, chat, None)).await, None, "{chat}");
        }
        assert_eq!(masked(&"867051314767696@bot".parse().unwrap()), "8670…96@bot");
        assert_eq!(masked(&"13@bot".parse().unwrap()), "…@bot");
    }
}
