//! What a message is and what it says: WhatsApp's protobuf reduced to a kind and a text.

use whatsapp_rust::buffa::{Message as _, MessageField};
use whatsapp_rust::proto_helpers::MessageExt;
use whatsapp_rust::waproto::whatsapp::Message;
use whatsapp_rust::waproto::whatsapp::message::ProtocolMessage;
use whatsapp_rust::waproto::whatsapp::message::protocol_message::Type;

/// A message's kind and text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Content {
    /// `chat`, `image`, `video`, `audio`, `ptt`, `document`, `sticker`, `location`, `vcard`, `reaction`, `revoked`,
    /// `edited` …; `unknown` for what has no word here.
    pub kind: &'static str,
    /// The text, or the caption of media; the emoji of a reaction.
    pub text: String,
}

/// What `message` is; `None` when it is not for people (key shares, settings, sync).
#[must_use]
pub fn content(message: &Message) -> Option<Content> {
    let base = message.get_base_message();
    if let Some(protocol) = base.protocol_message.as_option() {
        return protocol_content(protocol);
    }
    let kind = text_kind(base).or_else(|| media_kind(base)).or_else(|| other_kind(base));
    let kind = match kind {
        Some(kind) => kind,
        None if carries_nothing(base) => return None,
        None => "unknown",
    };
    Some(Content { kind, text: text(base) })
}

fn protocol_content(protocol: &ProtocolMessage) -> Option<Content> {
    match protocol.r#type {
        Some(Type::REVOKE) => Some(Content { kind: "revoked", text: String::new() }),
        Some(Type::MESSAGE_EDIT) => {
            let edited = protocol.edited_message.as_option()?;
            Some(Content { kind: "edited", text: text(edited.get_base_message()) })
        }
        _ => None,
    }
}

fn text_kind(message: &Message) -> Option<&'static str> {
    let said = message.conversation.is_some() || message.extended_text_message.is_set();
    said.then_some("chat")
}

fn media_kind(message: &Message) -> Option<&'static str> {
    if let Some(audio) = message.audio_message.as_option() {
        return Some(if audio.ptt == Some(true) { "ptt" } else { "audio" });
    }
    first_set([
        (message.image_message.is_set(), "image"),
        (message.video_message.is_set(), "video"),
        (message.ptv_message.is_set(), "video"),
        (message.document_message.is_set(), "document"),
        (message.sticker_message.is_set(), "sticker"),
        (message.lottie_sticker_message.is_set(), "sticker"),
    ])
}

fn other_kind(message: &Message) -> Option<&'static str> {
    let poll = message.poll_creation_message.is_set()
        || message.poll_creation_message_v2.is_set()
        || message.poll_creation_message_v3.is_set();
    first_set([
        (message.location_message.is_set(), "location"),
        (message.live_location_message.is_set(), "live_location"),
        (message.contact_message.is_set(), "vcard"),
        (message.contacts_array_message.is_set(), "multi_vcard"),
        (poll, "poll_creation"),
        (message.poll_update_message.is_set(), "poll_vote"),
        (message.reaction_message.is_set(), "reaction"),
        (message.enc_reaction_message.is_set(), "reaction"),
        (message.buttons_response_message.is_set(), "buttons_response"),
        (message.template_button_reply_message.is_set(), "buttons_response"),
        (message.list_response_message.is_set(), "list_response"),
        (message.interactive_response_message.is_set(), "interactive_response"),
        (message.group_invite_message.is_set(), "group_invite"),
        (message.product_message.is_set(), "product"),
        (message.order_message.is_set(), "order"),
        (message.event_message.is_set(), "event"),
        (message.pin_in_chat_message.is_set(), "pin"),
        (message.call_log_messsage.is_set(), "call_log"),
    ])
}

fn first_set<const N: usize>(kinds: [(bool, &'static str); N]) -> Option<&'static str> {
    kinds.into_iter().find_map(|(set, kind)| set.then_some(kind))
}

fn text(message: &Message) -> String {
    let said = message.text_content().or_else(|| message.get_caption());
    said.or_else(|| chosen(message)).unwrap_or_default().to_owned()
}

/// What somebody chose instead of typing.
fn chosen(message: &Message) -> Option<&str> {
    let reaction = message.reaction_message.as_option().and_then(|reaction| reaction.text.as_deref());
    let reply = message.template_button_reply_message.as_option();
    let list = message.list_response_message.as_option();
    reaction
        .or_else(|| reply.and_then(|reply| reply.selected_display_text.as_deref()))
        .or_else(|| list.and_then(|list| list.title.as_deref()))
}

/// Nothing but what the encryption needs.
fn carries_nothing(message: &Message) -> bool {
    let mut rest = message.clone();
    rest.sender_key_distribution_message = MessageField::default();
    rest.fast_ratchet_key_sender_key_distribution_message = MessageField::default();
    rest.message_context_info = MessageField::default();
    rest.encode_to_vec().is_empty()
}

#[cfg(test)]
mod tests {
    use whatsapp_rust::waproto::whatsapp as wa;

    use super::*;

    fn seen(message: &Message) -> Option<(&'static str, String)> {
        content(message).map(|content| (content.kind, content.text))
    }

    fn captioned(caption: &str) -> Message {
        let image = wa::message::ImageMessage { caption: Some(caption.to_owned()), ..Default::default() };
        Message { image_message: MessageField::some(image), ..Default::default() }
    }

    #[test]
    fn text_is_kept_byte_for_byte_in_either_shape() {
        let said = " Halo\n\u{200b}dunia ";
        let short = Message { conversation: Some(said.to_owned()), ..Default::default() };
        assert_eq!(seen(&short), Some(("chat", said.to_owned())));

        let extended = wa::message::ExtendedTextMessage { text: Some(said.to_owned()), ..Default::default() };
        let extended = Message { extended_text_message: MessageField::some(extended), ..Default::default() };
        assert_eq!(seen(&extended), Some(("chat", said.to_owned())));
    }

    #[test]
    fn captions_and_wrappers_are_seen_through() {
        let wrapped = wa::message::FutureProofMessage { message: MessageField::some(captioned("foto")) };
        let wrapped = Message { ephemeral_message: MessageField::some(wrapped), ..Default::default() };
        assert_eq!(seen(&wrapped), Some(("image", "foto".to_owned())));
    }

    #[test]
    fn a_voice_note_is_not_any_sound() {
        for (ptt, kind) in [(Some(true), "ptt"), (Some(false), "audio"), (None, "audio")] {
            let audio = wa::message::AudioMessage { ptt, ..Default::default() };
            let message = Message { audio_message: MessageField::some(audio), ..Default::default() };
            assert_eq!(seen(&message), Some((kind, String::new())));
        }
    }

    #[test]
    fn what_the_encryption_and_the_account_need_is_not_for_people() {
        let share = ProtocolMessage { r#type: Some(Type::APP_STATE_SYNC_KEY_SHARE), ..Default::default() };
        let share = Message { protocol_message: MessageField::some(share), ..Default::default() };
        let keys = wa::message::SenderKeyDistributionMessage { group_id: Some("g".to_owned()), ..Default::default() };
        let keys = Message { sender_key_distribution_message: MessageField::some(keys), ..Default::default() };
        for message in [Message::default(), share, keys] {
            assert_eq!(seen(&message), None);
        }
    }

    #[test]
    fn a_message_taken_back_and_one_edited_are_told() {
        let revoke = ProtocolMessage { r#type: Some(Type::REVOKE), ..Default::default() };
        let revoke = Message { protocol_message: MessageField::some(revoke), ..Default::default() };
        assert_eq!(seen(&revoke), Some(("revoked", String::new())));

        let edit = ProtocolMessage {
            r#type: Some(Type::MESSAGE_EDIT),
            edited_message: MessageField::some(captioned("baru")),
            ..Default::default()
        };
        let edit = Message { protocol_message: MessageField::some(edit), ..Default::default() };
        assert_eq!(seen(&edit), Some(("edited", "baru".to_owned())));
    }

    #[test]
    fn what_has_no_word_is_still_kept() {
        let invoice = MessageField::some(wa::message::InvoiceMessage::default());
        let invoice = Message { invoice_message: invoice, ..Default::default() };
        assert_eq!(seen(&invoice).map(|(kind, _)| kind), Some("unknown"));
    }
}
