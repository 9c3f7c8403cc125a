//! What a decrypted message is to its reader: kind, text, caption, media and what it answers.
//!
//! Pure. Messages that only serve the protocol (key shares, sync notices, bare sender keys) have no
//! content and never show in an inbox.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};
use whatsapp_rust::prelude::{MessageExt, wa};
use whatsapp_rust::waproto::buffa::MessageField;
use whatsapp_rust::waproto::codec;

/// A message as its reader sees it. The text stands in exactly one of `text` and `caption`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Content {
    /// `text`, `image`, `video`, `gif`, `audio`, `voice`, `document`, `sticker`, `location`,
    /// `contact`, `poll`, `vote`, `reaction`, `edited`, `revoked` or `other`.
    pub kind: String,
    /// The text; of a reaction the emoji, of a poll its question, of an edit the new text.
    pub text: Option<String>,
    /// The text under an image, a video or a document.
    pub caption: Option<String>,
    /// What the attached file is.
    pub media: Option<Media>,
    /// The id of the message this one answers, reacts to, edits or revokes.
    pub quoted: Option<String>,
    /// What a link in the text shows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub preview: Option<Preview>,
}

/// What a link shows, as its sender describes it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Preview {
    /// The link, as it stands in the text.
    pub url: String,
    /// The page's title.
    pub title: String,
}

/// An attached file, as its sender describes it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Media {
    /// MIME type.
    pub mimetype: Option<String>,
    /// File name, of documents only.
    pub filename: Option<String>,
    /// Bytes.
    pub size: Option<u64>,
    /// Of a picture, a video or a sticker: pixels.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub width: Option<u32>,
    /// As `width`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub height: Option<u32>,
    /// How long a video or a sound plays.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seconds: Option<u32>,
    /// Of a document.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pages: Option<u32>,
    /// The small JPEG that is shown before the file is loaded, in base64.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub thumbnail: Option<String>,
    /// The message that names it, encoded, in base64: what its reader's client loads it by. Not shown.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub named_by: Option<String>,
}

/// Reads a decrypted message; `None` when it only serves the protocol.
pub fn describe(message: &wa::Message) -> Option<Content> {
    let base = message.get_base_message();
    changed(base).or_else(|| with_file(base)).or_else(|| spoken(base)).or_else(|| other(base))
}

/// Plain words, and the small kinds without a file.
fn spoken(base: &wa::Message) -> Option<Content> {
    if let Some(text) = base.text_content() {
        let context = base.extended_text_message.as_option().map(|text| &text.context_info);
        let quoted = context.and_then(quoted);
        let preview = base.extended_text_message.as_option().and_then(preview);
        return Some(Content { quoted, preview, ..plain("text", Some(text)) });
    }
    if let Some(reaction) = base.reaction_message.as_option() {
        let quoted = key(&reaction.key);
        return Some(Content { quoted, ..plain("reaction", reaction.text.as_deref()) });
    }
    if let Some(location) = base.location_message.as_option() {
        let place = location.name.as_deref().or(location.address.as_deref());
        return Some(plain("location", place));
    }
    if let Some(contact) = base.contact_message.as_option() {
        return Some(plain("contact", contact.display_name.as_deref()));
    }
    if let Some(contacts) = base.contacts_array_message.as_option() {
        return Some(plain("contact", contacts.display_name.as_deref()));
    }
    let polls = [&base.poll_creation_message, &base.poll_creation_message_v2, &base.poll_creation_message_v3];
    if let Some(poll) = polls.into_iter().find_map(MessageField::as_option) {
        return Some(plain("poll", poll.name.as_deref()));
    }
    let vote = base.poll_update_message.as_option()?;
    Some(Content { quoted: key(&vote.poll_creation_message_key), ..plain("vote", None) })
}

fn preview(text: &wa::message::ExtendedTextMessage) -> Option<Preview> {
    Some(Preview { url: text.matched_text.clone()?, title: text.title.clone()? })
}

/// Messages with a file. Empty captions count as none.
fn with_file(base: &wa::Message) -> Option<Content> {
    let (kind, context, media) = file(base)?;
    let named_by = Some(STANDARD.encode(codec::message_to_vec(base)));
    Some(Content {
        caption: base.get_caption().filter(|text| !text.is_empty()).map(str::to_owned),
        media: Some(Media { named_by, ..media }),
        quoted: quoted(context),
        ..plain(kind, None)
    })
}

/// What kind of file a message brings, in what context, and what is said of it.
fn file(base: &wa::Message) -> Option<(&'static str, &MessageField<wa::ContextInfo>, Media)> {
    let media = |mimetype: &Option<String>, size| Media { mimetype: mimetype.clone(), size, ..Media::default() };
    if let Some(image) = base.image_message.as_option() {
        let media = Media {
            width: image.width,
            height: image.height,
            thumbnail: image.jpeg_thumbnail.as_ref().map(|jpeg| STANDARD.encode(jpeg)),
            ..media(&image.mimetype, image.file_length)
        };
        return Some(("image", &image.context_info, media));
    }
    if let Some(video) = base.video_message.as_option() {
        let kind = if video.gif_playback == Some(true) { "gif" } else { "video" };
        let media = Media {
            width: video.width,
            height: video.height,
            seconds: video.seconds,
            thumbnail: video.jpeg_thumbnail.as_ref().map(|jpeg| STANDARD.encode(jpeg)),
            ..media(&video.mimetype, video.file_length)
        };
        return Some((kind, &video.context_info, media));
    }
    if let Some(audio) = base.audio_message.as_option() {
        let kind = if audio.ptt == Some(true) { "voice" } else { "audio" };
        let media = Media { seconds: audio.seconds, ..media(&audio.mimetype, audio.file_length) };
        return Some((kind, &audio.context_info, media));
    }
    if let Some(document) = base.document_message.as_option() {
        let media = Media {
            filename: document.file_name.clone(),
            pages: document.page_count,
            thumbnail: document.jpeg_thumbnail.as_ref().map(|jpeg| STANDARD.encode(jpeg)),
            ..media(&document.mimetype, document.file_length)
        };
        return Some(("document", &document.context_info, media));
    }
    let sticker = base.sticker_message.as_option()?;
    let media = Media { width: sticker.width, height: sticker.height, ..media(&sticker.mimetype, sticker.file_length) };
    Some(("sticker", &sticker.context_info, media))
}

/// Edits and revocations; other protocol messages say nothing to a reader.
fn changed(base: &wa::Message) -> Option<Content> {
    use wa::message::protocol_message::Type;
    let change = base.protocol_message.as_option()?;
    match change.r#type? {
        Type::REVOKE => Some(Content { quoted: key(&change.key), ..plain("revoked", None) }),
        Type::MESSAGE_EDIT => {
            let text = change
                .edited_message
                .as_option()
                .and_then(|edited| edited.text_content().or_else(|| edited.get_caption()).map(str::to_owned));
            Some(Content { text, quoted: key(&change.key), ..plain("edited", None) })
        }
        _ => None,
    }
}

/// Whatever else has a body: shown as `other`, so that nothing a person received is hidden.
fn other(base: &wa::Message) -> Option<Content> {
    let mut rest = base.clone();
    rest.protocol_message = MessageField::default();
    rest.sender_key_distribution_message = MessageField::default();
    rest.fast_ratchet_key_sender_key_distribution_message = MessageField::default();
    rest.message_context_info = MessageField::default();
    // Not compared with the default: a part that is there but empty counts.
    (codec::message_encoded_len(&rest) > 0).then(|| plain("other", None))
}

fn plain(kind: &str, text: Option<&str>) -> Content {
    Content { kind: kind.to_owned(), text: text.map(str::to_owned), ..Content::default() }
}

fn quoted(context: &MessageField<wa::ContextInfo>) -> Option<String> {
    context.as_option()?.stanza_id.clone()
}

fn key(key: &MessageField<wa::MessageKey>) -> Option<String> {
    key.as_option()?.id.clone()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use wa::message::{ImageMessage, ProtocolMessage, protocol_message::Type};
    use whatsapp_rust::prelude::MessageBuilderExt;

    #[test]
    fn a_text_stands_in_text_alone() {
        let content = describe(&wa::Message::text("Halo")).unwrap();
        assert_eq!(content, plain("text", Some("Halo")));
    }

    #[test]
    fn an_answer_names_what_it_answers() {
        let context = wa::ContextInfo {
            stanza_id: Some("ABC".into()),
            quoted_message: MessageField::some(wa::Message::text("Halo?")),
            ..Default::default()
        };
        let content = describe(&wa::Message::text_with_context("Ya", context)).unwrap();
        assert_eq!(content.text.as_deref(), Some("Ya"));
        assert_eq!(content.quoted.as_deref(), Some("ABC"));
    }

    #[test]
    fn a_caption_is_no_text() {
        let message = wa::Message {
            image_message: MessageField::some(ImageMessage {
                caption: Some("Foto".into()),
                mimetype: Some("image/png".into()),
                file_length: Some(7),
                ..Default::default()
            }),
            ..Default::default()
        };
        let content = describe(&message).unwrap();
        assert_eq!((content.kind.as_str(), content.text), ("image", None));
        assert_eq!(content.caption.as_deref(), Some("Foto"));
        assert_eq!(content.media.unwrap().size, Some(7));
    }

    #[test]
    fn protocol_messages_have_no_content_but_revocations_do() {
        let protocol = |r#type| wa::Message {
            protocol_message: MessageField::some(ProtocolMessage {
                r#type: Some(r#type),
                key: MessageField::some(wa::MessageKey { id: Some("ABC".into()), ..Default::default() }),
                ..Default::default()
            }),
            ..Default::default()
        };
        assert_eq!(describe(&protocol(Type::APP_STATE_SYNC_KEY_SHARE)), None);
        assert_eq!(describe(&wa::Message::default()), None);
        let revoked = describe(&protocol(Type::REVOKE)).unwrap();
        assert_eq!(revoked.kind, "revoked");
        assert_eq!(revoked.quoted.unwrap(), "ABC");
    }

    #[test]
    fn an_unknown_kind_still_shows() {
        let message = wa::Message {
            group_invite_message: MessageField::some(wa::message::GroupInviteMessage::default()),
            ..Default::default()
        };
        assert_eq!(describe(&message).unwrap().kind, "other");
    }
}
