//! Every kind of message, as the other side's client reads it.

use super::*;
use crate::model::{Attachment, Contact, Content, Location, MediaHash, Poll, Quoted, WhatsAppId};
use crate::session::Uploaded;
use whatsapp_rust::waproto::codec::message_to_vec;
use whatsapp_rust::waproto::whatsapp::message::{DocumentMessage, ImageMessage};

fn built(text: &str, content: Content, uploaded: Option<Message>) -> Result<Message, SendError> {
    let (to, me) = (Jid::pn("6281200000002"), Jid::pn("6281200000001"));
    let outgoing = Outgoing {
        whatsapp_id: WhatsAppId::from_random([1; 9]),
        chat: ChatId::phone("6281200000002"),
        text: text.to_owned(),
        content,
        uploaded: uploaded.map(|message| Uploaded(message_to_vec(&message))),
        preview: None,
    };
    message(&outgoing, &Envelope { to: &to, me: &me, disappears_after: Some(60), now: 7 })
}

fn plain(text: &str, body: Body) -> Message {
    built(text, body.into(), None).unwrap()
}

fn key() -> model::MessageKey {
    model::MessageKey { id: "3EB0AA".to_owned(), from_me: false, author: Some(ChatId::phone("6281200000003")) }
}

fn attachment(kind: MediaKind) -> Attachment {
    Attachment {
        hash: MediaHash([1; 32]),
        size: 3,
        kind,
        mimetype: "image/png".to_owned(),
        filename: None,
        width: None,
        height: None,
        seconds: None,
        pages: None,
    }
}

#[test]
fn a_text_stays_plain_until_it_says_more() {
    let plain = built("Halo", Content::default(), None).unwrap();
    assert_eq!((plain.text_content(), plain.get_ephemeral_expiration()), (Some("Halo"), Some(60)));

    let content = Content {
        quoted: Some(Quoted { id: "3EB0AA".to_owned(), author: None, text: "Apa?".to_owned() }),
        mentions: vec![ChatId::phone("6281200000003"), ChatId::lid("991")],
        ..Content::default()
    };
    let message = built("@6281200000003 ya", content, None).unwrap();
    let said = message.extended_text_message.as_option().unwrap();
    let context = said.context_info.as_option().unwrap();
    assert_eq!(said.text.as_deref(), Some("@6281200000003 ya"));
    assert_eq!(context.stanza_id.as_deref(), Some("3EB0AA"));
    assert_eq!(context.participant.as_deref(), Some("6281200000001@s.whatsapp.net"), "our own message was quoted");
    assert_eq!(context.mentioned_jid, ["6281200000003@s.whatsapp.net", "991@lid"]);
    assert_eq!(context.quoted_message.as_option().unwrap().text_content(), Some("Apa?"));
    assert_eq!(message.get_ephemeral_expiration(), Some(60));
}

#[test]
fn a_place_a_card_and_a_poll_are_what_they_are() {
    let place = Location::from_degrees(-6.175_392_4, 106.827_152_8).unwrap();
    let message = plain("", Body::Location(Location { name: Some("Monas".to_owned()), ..place }));
    let place = message.location_message.as_option().unwrap();
    assert_eq!((place.degrees_latitude, place.name.as_deref()), (Some(-6.175_392_4), Some("Monas")));

    let card = Contact { name: "Budi; PT, \\Jaya\nTbk".to_owned(), phone: "6281200000002".to_owned() };
    let message = plain("", Body::Contact(card));
    let vcard = message.contact_message.as_option().unwrap().vcard.clone().unwrap();
    assert!(vcard.contains("FN:Budi\\; PT\\, \\\\Jaya\\nTbk\n"), "{vcard}");
    assert!(vcard.contains("waid=6281200000002:+6281200000002"), "{vcard}");

    let poll = |selectable| Poll { options: vec!["Ya".to_owned(), "Tidak".to_owned()], selectable, secret: [9; 32] };
    let one = plain("Jadi?", Body::Poll(poll(1)));
    assert_eq!(one.poll_creation_message_v3.as_option().unwrap().name.as_deref(), Some("Jadi?"));
    let several = plain("Jadi?", Body::Poll(poll(2)));
    assert_eq!(several.poll_creation_message.as_option().unwrap().selectable_options_count, Some(2));
    let secret = several.message_context_info.as_option().unwrap().message_secret.clone();
    assert_eq!(secret, Some(vec![9; 32]));
}

#[test]
fn other_messages_are_named_by_their_keys() {
    let message = plain("👍", Body::Reaction(key()));
    let reaction = message.reaction_message.as_option().unwrap();
    let named = reaction.key.as_option().unwrap();
    assert_eq!((reaction.text.as_deref(), named.id.as_deref()), (Some("👍"), Some("3EB0AA")));
    assert_eq!(named.participant.as_deref(), Some("6281200000003@s.whatsapp.net"));

    let own = model::MessageKey { from_me: true, author: None, ..key() };
    let edit = plain("baru", Body::Edit(own.clone()));
    let protocol = edit.protocol_message.as_option().unwrap();
    assert_eq!(protocol.r#type, Some(Type::MESSAGE_EDIT));
    assert_eq!(protocol.edited_message.as_option().unwrap().text_content(), Some("baru"));

    let revoke = plain("", Body::Revoke(own));
    let protocol = revoke.protocol_message.as_option().unwrap();
    assert_eq!((protocol.r#type, protocol.key.as_option().unwrap().from_me), (Some(Type::REVOKE), Some(true)));
}

#[test]
fn a_file_gets_the_words_of_its_own_message() {
    let image = ImageMessage { url: Some("https://x".to_owned()), ..Default::default() };
    let image = Message { image_message: MessageField::some(image), ..Default::default() };
    let sent = built("lihat", Body::Media(attachment(MediaKind::Image)).into(), Some(image.clone())).unwrap();
    let shown = sent.image_message.as_option().unwrap();
    assert_eq!((shown.caption.as_deref(), shown.url.as_deref()), (Some("lihat"), Some("https://x")));
    assert_eq!(sent.get_ephemeral_expiration(), Some(60));
    let bare = built("", Body::Media(attachment(MediaKind::Image)).into(), Some(image)).unwrap();
    assert_eq!(bare.image_message.as_option().unwrap().caption, None);

    let document = DocumentMessage { file_name: Some("nota.pdf".to_owned()), ..Default::default() };
    let document = Message { document_message: MessageField::some(document), ..Default::default() };
    let sent = built("isi", Body::Media(attachment(MediaKind::Document)).into(), Some(document)).unwrap();
    assert!(sent.document_with_caption_message.is_set());
    assert_eq!(sent.get_caption(), Some("isi"));
}

#[test]
fn what_is_passed_on_is_marked_and_has_lost_its_context() {
    let context = ContextInfo { stanza_id: Some("old".to_owned()), ..Default::default() };
    let said = ExtendedTextMessage {
        text: Some("kabar".to_owned()),
        context_info: MessageField::some(context),
        ..Default::default()
    };
    let original = Message { extended_text_message: MessageField::some(said), ..Default::default() };
    let forward = model::Forward { hash: MediaHash([1; 32]), what: "chat".to_owned() };
    let sent = built("", Body::Forward(forward).into(), Some(original)).unwrap();
    assert!(sent.is_forwarded());
    assert_eq!(sent.text_content(), Some("kabar"));
    let context = sent.extended_text_message.as_option().unwrap().context_info.as_option().unwrap();
    assert_eq!(context.stanza_id, None);
}

#[test]
fn without_its_file_a_message_fails_for_good() {
    for body in [
        Body::Media(attachment(MediaKind::Image)),
        Body::Forward(model::Forward { hash: MediaHash([1; 32]), what: "chat".to_owned() }),
    ] {
        assert!(matches!(built("", body.into(), None), Err(SendError::Permanent(_))));
    }
}
