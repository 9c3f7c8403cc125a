//! An outgoing message in WhatsApp's own form. Pure: what has to be asked or uploaded was before.

use whatsapp_rust::Jid;
use whatsapp_rust::buffa::MessageField;
use whatsapp_rust::proto_helpers::{MessageExt, build_reaction_message};
use whatsapp_rust::waproto::codec::message_decode;
use whatsapp_rust::waproto::whatsapp::message::protocol_message::Type;
use whatsapp_rust::waproto::whatsapp::message::{
    ContactMessage, ExtendedTextMessage, LocationMessage, PollCreationMessage, ProtocolMessage, poll_creation_message,
};
use whatsapp_rust::waproto::whatsapp::{ContextInfo, Message, MessageContextInfo, MessageKey};

use super::{convert, upload};
use crate::model::{self, Body, ChatId, MediaKind};
use crate::session::{LinkPreview, Outgoing, SendError};

/// What a message is built for.
pub(super) struct Envelope<'a> {
    /// The chat, as the library addresses it.
    pub to: &'a Jid,
    /// The own account, by phone.
    pub me: &'a Jid,
    /// How long a message into this chat is to stay, when not for good, in seconds.
    pub disappears_after: Option<u32>,
    /// Now, in milliseconds since the epoch.
    pub now: i64,
}

/// The message as WhatsApp wants it.
///
/// # Errors
/// [`SendError::Permanent`] when what was kept of it cannot be read any more.
pub(super) fn message(outgoing: &Outgoing, envelope: &Envelope<'_>) -> Result<Message, SendError> {
    let Outgoing { text, content, .. } = outgoing;
    let key = |key: &model::MessageKey| message_key(key, envelope.to);
    let mut message = match &content.body {
        Body::Text => said(text, outgoing.preview.as_ref(), context(outgoing, envelope)),
        Body::Media(attachment) => return media(outgoing, attachment.kind, envelope),
        Body::Remote(_) => return Err(unreadable("its file was not fetched")),
        Body::Location(location) => placed(location),
        Body::Contact(contact) => card(contact),
        Body::Poll(poll) => asked(text, poll),
        Body::Reaction(target) => return Ok(build_reaction_message(key(target), text.as_str(), envelope.now)),
        Body::Edit(target) => {
            let said = said(text, None, context(outgoing, envelope));
            return Ok(protocol(Type::MESSAGE_EDIT, key(target), Some((said, envelope.now))));
        }
        Body::Revoke(target) => return Ok(protocol(Type::REVOKE, key(target), None)),
        Body::Forward(_) => return forwarded(outgoing, envelope),
    };
    if !content.body.is_text()
        && let Some(context) = context(outgoing, envelope)
    {
        message.set_context_info(context);
    }
    expire(&mut message, envelope);
    Ok(message)
}

fn unreadable(what: &str) -> SendError {
    SendError::Permanent(format!("it cannot be sent: {what}"))
}

fn expire(message: &mut Message, envelope: &Envelope<'_>) {
    if let Some(seconds) = envelope.disappears_after {
        message.set_ephemeral_expiration(seconds);
    }
}

/// A text; in its plain form where it is nothing more, since that is what the other clients send.
fn said(text: &str, preview: Option<&LinkPreview>, context: Option<ContextInfo>) -> Message {
    if preview.is_none() && context.is_none() {
        return Message { conversation: Some(text.to_owned()), ..Default::default() };
    }
    let mut said = ExtendedTextMessage { text: Some(text.to_owned()), ..Default::default() };
    said.context_info = context.map_or_else(MessageField::default, MessageField::some);
    if let Some(preview) = preview {
        said.matched_text = Some(preview.url.clone());
        said.title = Some(preview.title.clone());
        said.description.clone_from(&preview.description);
        said.jpeg_thumbnail.clone_from(&preview.thumbnail);
    }
    Message { extended_text_message: MessageField::some(said), ..Default::default() }
}

/// What the text is about: the message it answers, whom it names, and that it was forwarded.
fn context(outgoing: &Outgoing, envelope: &Envelope<'_>) -> Option<ContextInfo> {
    let content = &outgoing.content;
    if content.quoted.is_none() && content.mentions.is_empty() && !content.forwarded {
        return None;
    }
    let mut context = ContextInfo {
        mentioned_jid: content.mentions.iter().map(|chat| convert::jid(chat).to_string()).collect(),
        is_forwarded: content.forwarded.then_some(true),
        forwarding_score: content.forwarded.then_some(1),
        ..Default::default()
    };
    if let Some(quoted) = &content.quoted {
        let author = quoted.author.as_ref().map_or_else(|| envelope.me.clone(), convert::jid);
        let words = Message { conversation: Some(quoted.text.clone()), ..Default::default() };
        context.stanza_id = Some(quoted.id.clone());
        context.participant = Some(author.to_string());
        context.quoted_message = MessageField::some(words);
    }
    Some(context)
}

fn message_key(key: &model::MessageKey, chat: &Jid) -> MessageKey {
    MessageKey {
        remote_jid: Some(chat.to_string()),
        from_me: Some(key.from_me),
        id: Some(key.id.clone()),
        participant: key.author.as_ref().map(|author: &ChatId| convert::jid(author).to_string()),
    }
}

fn protocol(kind: Type, key: MessageKey, edited: Option<(Message, i64)>) -> Message {
    let (edited, at) = edited.unzip();
    let protocol = ProtocolMessage {
        key: MessageField::some(key),
        r#type: Some(kind),
        edited_message: edited.map_or_else(MessageField::default, MessageField::some),
        timestamp_ms: at,
        ..Default::default()
    };
    Message { protocol_message: MessageField::some(protocol), ..Default::default() }
}

fn placed(location: &model::Location) -> Message {
    let (latitude, longitude) = location.degrees();
    let place = LocationMessage {
        degrees_latitude: Some(latitude),
        degrees_longitude: Some(longitude),
        name: location.name.clone(),
        address: location.address.clone(),
        ..Default::default()
    };
    Message { location_message: MessageField::some(place), ..Default::default() }
}

fn card(contact: &model::Contact) -> Message {
    let card =
        ContactMessage { display_name: Some(contact.name.clone()), vcard: Some(vcard(contact)), ..Default::default() };
    Message { contact_message: MessageField::some(card), ..Default::default() }
}

/// A vCard 3.0 (RFC 2426) with WhatsApp's own `waid`, by which phones know the account.
fn vcard(contact: &model::Contact) -> String {
    let name = escaped(&contact.name);
    let phone = &contact.phone;
    format!("BEGIN:VCARD\nVERSION:3.0\nN:;{name};;;\nFN:{name}\nTEL;type=CELL;waid={phone}:+{phone}\nEND:VCARD")
}

/// What means something in a vCard is escaped (RFC 2426, section 5).
fn escaped(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '\\' | ',' | ';' => escaped.extend(['\\', c]),
            '\n' => escaped.push_str("\\n"),
            '\r' => {}
            c => escaped.push(c),
        }
    }
    escaped
}

/// One choice only is version 3 of a poll, several are version 1: what WhatsApp Web sends.
fn asked(question: &str, poll: &model::Poll) -> Message {
    let option =
        |name: &String| poll_creation_message::Option { option_name: Some(name.clone()), ..Default::default() };
    let asked = PollCreationMessage {
        name: Some(question.to_owned()),
        options: poll.options.iter().map(option).collect(),
        selectable_options_count: Some(poll.selectable),
        ..Default::default()
    };
    let mut message = Message::default();
    if poll.selectable == 1 {
        message.poll_creation_message_v3 = MessageField::some(asked);
    } else {
        message.poll_creation_message = MessageField::some(asked);
    }
    let secret = MessageContextInfo { message_secret: Some(poll.secret.to_vec()), ..Default::default() };
    message.message_context_info = MessageField::some(secret);
    message
}

/// What the upload gave, with this message's caption.
fn media(outgoing: &Outgoing, kind: MediaKind, envelope: &Envelope<'_>) -> Result<Message, SendError> {
    let uploaded = outgoing.uploaded.as_ref().ok_or_else(|| unreadable("its file was not uploaded"))?;
    let mut message =
        message_decode(&uploaded.0).map_err(|_| unreadable("what is known of its file cannot be read"))?;
    if kind.has_caption() && !outgoing.text.is_empty() {
        caption(&mut message, &outgoing.text);
    }
    if let Some(context) = context(outgoing, envelope) {
        message.set_context_info(context);
    }
    expire(&mut message, envelope);
    Ok(upload::wrap_captioned_document(message))
}

fn caption(message: &mut Message, text: &str) {
    let caption = Some(text.to_owned());
    if let Some(image) = message.image_message.as_option_mut() {
        image.caption = caption;
    } else if let Some(video) = message.video_message.as_option_mut() {
        video.caption = caption;
    } else if let Some(document) = message.document_message.as_option_mut() {
        document.caption = caption;
    }
}

/// A message that came in, as it came, without what it answered and whom it named.
fn forwarded(outgoing: &Outgoing, envelope: &Envelope<'_>) -> Result<Message, SendError> {
    let uploaded = outgoing.uploaded.as_ref().ok_or_else(|| unreadable("the message it passes on is not there"))?;
    let original = message_decode(&uploaded.0).map_err(|_| unreadable("the message it passes on cannot be read"))?;
    let mut message = *original.prepare_for_forward();
    expire(&mut message, envelope);
    Ok(message)
}

#[cfg(test)]
#[path = "outgoing_tests.rs"]
mod tests;
