//! Every kind of message, from one real client to another.

#![allow(clippy::unwrap_used)]

mod support;

use support::https::Https;
use support::{Person, World};
use waya_sandbox::emulator::EmulatorConfig;
use whatsapp_rust::buffa::MessageField;
use whatsapp_rust::download::MediaType;
use whatsapp_rust::features::StatusSendOptions;
use whatsapp_rust::upload::UploadOptions;
use whatsapp_rust::wacore::proto_helpers::MessageExt as _;
use whatsapp_rust::wacore_binary::{Jid, Server};
use whatsapp_rust::waproto::whatsapp as wa;
use whatsapp_rust::waproto::whatsapp::message::protocol_message::Type;
use whatsapp_rust::waproto::whatsapp::message::{
    AudioMessage, ContactMessage, DocumentMessage, ExtendedTextMessage, ImageMessage, LocationMessage, StickerMessage,
    VideoMessage,
};
use whatsapp_rust::{NodeFilter, RevokeType, SendOptions};

const ANI: &str = "6281200000001";
const BUDI: &str = "6281200000002";

async fn two(pn_only: bool) -> (World, Person, Person) {
    let world = World::with(EmulatorConfig { pn_only, ..support::config() }).await;
    let ani = world.link(ANI, "Ani").await;
    let budi = world.link(BUDI, "Budi").await;
    (world, ani, budi)
}

/// The chat between the two, and a group of both.
fn chats(world: &World) -> [Jid; 2] {
    let group = world.emulator.ensure_group("Team", &[ANI.to_owned(), BUDI.to_owned()]);
    [Jid::pn(BUDI), group.jid.parse().unwrap()]
}

fn is_group(chat: &Jid) -> bool {
    chat.server == Server::Group
}

async fn send(from: &Person, to: &Jid, message: wa::Message) -> String {
    from.client.send_message(to.clone(), message).await.unwrap().message_id
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_said_in_one_message_arrives_as_it_was_said() {
    for pn_only in [false, true] {
        let (world, ani, mut budi) = two(pn_only).await;
        let context = wa::ContextInfo {
            stanza_id: Some("3EB0AAAA".into()),
            participant: Some(format!("{BUDI}@s.whatsapp.net")),
            mentioned_jid: vec![format!("{BUDI}@s.whatsapp.net")],
            quoted_message: MessageField::some(wa::Message {
                conversation: Some("before".into()),
                ..Default::default()
            }),
            expiration: Some(86_400),
            ..Default::default()
        };
        let reply = ExtendedTextMessage {
            text: Some("@Budi, yes".into()),
            context_info: MessageField::some(context.clone()),
            ..Default::default()
        };
        let location = LocationMessage {
            degrees_latitude: Some(-6.2),
            degrees_longitude: Some(106.8),
            name: Some("Monas".into()),
            ..Default::default()
        };
        let card = ContactMessage {
            display_name: Some("Siti".into()),
            vcard: Some("BEGIN:VCARD\nEND:VCARD".into()),
            ..Default::default()
        };
        for chat in chats(&world) {
            let reply = wa::Message { extended_text_message: MessageField::some(reply.clone()), ..Default::default() };
            let place = wa::Message { location_message: MessageField::some(location.clone()), ..Default::default() };
            let contact = wa::Message { contact_message: MessageField::some(card.clone()), ..Default::default() };
            for message in [reply, place, contact] {
                send(&ani, &chat, message).await;
            }
            let text = budi.message(|message| message.extended_text_message.as_option().cloned()).await;
            assert_eq!(text.text.as_deref(), Some("@Budi, yes"));
            let told = text.context_info.as_option().unwrap();
            assert_eq!((&told.mentioned_jid, &told.stanza_id), (&context.mentioned_jid, &context.stanza_id));
            assert_eq!(told.expiration, context.expiration);
            assert_eq!(budi.message(|message| message.location_message.as_option().cloned()).await, location);
            assert_eq!(budi.message(|message| message.contact_message.as_option().cloned()).await, card);

            let options = SendOptions::default().with_ephemeral_expiration(604_800);
            let vanishes = wa::Message { conversation: Some("gone in a week".into()), ..Default::default() };
            ani.client.send_message_with_options(chat, vanishes, options).await.unwrap();
            let read = |message: &wa::Message| message.get_base_message().text_content().map(ToOwned::to_owned);
            assert_eq!(budi.message(read).await, "gone in a week");
        }
    }
}

/// A message with an uploaded file, and with what else such messages say.
macro_rules! with_file {
    ($kind:ident, $uploaded:expr, $($field:ident: $value:expr),* $(,)?) => {{
        let uploaded = $uploaded;
        $kind {
            url: Some(uploaded.url),
            direct_path: Some(uploaded.direct_path),
            media_key: Some(uploaded.media_key.to_vec()),
            file_enc_sha256: Some(uploaded.file_enc_sha256.to_vec()),
            file_sha256: Some(uploaded.file_sha256.to_vec()),
            file_length: Some(uploaded.file_length),
            $($field: Some($value),)*
            ..Default::default()
        }
    }};
}

/// Sends a message with a file; it arrives as it was sent, and the file with it.
macro_rules! passes {
    ($ani:expr, $budi:expr, $chat:expr, $content:expr, $field:ident: $message:expr) => {{
        let file = $message;
        let message = wa::Message { $field: MessageField::some(file.clone()), ..Default::default() };
        send(&$ani, $chat, message).await;
        let received = $budi.message(|message| message.get_base_message().$field.as_option().cloned()).await;
        assert_eq!(received, file, "{} in {}", stringify!($field), $chat);
        assert_eq!($budi.client.download(&received).await.unwrap(), $content);
    }};
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_kind_of_file_arrives_with_its_message_in_chats_and_groups() {
    for pn_only in [false, true] {
        let world = World::with(EmulatorConfig { pn_only, ..support::config() }).await;
        let http = Https::new(&world);
        let ani = world.link_with(ANI, "Ani", &http).await;
        let mut budi = world.link_with(BUDI, "Budi", &http).await;
        for (number, chat) in chats(&world).iter().enumerate() {
            let content =
                |kind: u8| -> Vec<u8> { (0..40_000).map(|at| (at % 251) as u8 ^ kind ^ number as u8).collect() };
            let upload = async |kind: u8, place: MediaType| {
                ani.client.upload(content(kind), place, UploadOptions::new()).await.unwrap()
            };
            let picture = upload(10, MediaType::Image).await;
            passes!(ani, budi, chat, content(10), image_message: with_file!(ImageMessage, picture,
                mimetype: "image/jpeg".into(), caption: "look".into(), height: 3, width: 4));
            let video = upload(20, MediaType::Video).await;
            passes!(ani, budi, chat, content(20), video_message: with_file!(VideoMessage, video,
                mimetype: "video/mp4".into(), caption: "it moves".into(), seconds: 7));
            let loops = upload(30, MediaType::Video).await;
            passes!(ani, budi, chat, content(30), video_message: with_file!(VideoMessage, loops,
                mimetype: "video/mp4".into(), gif_playback: true));
            let voice = upload(40, MediaType::Audio).await;
            passes!(ani, budi, chat, content(40), audio_message: with_file!(AudioMessage, voice,
                mimetype: "audio/ogg; codecs=opus".into(), ptt: true, seconds: 3, waveform: vec![1, 50, 99]));
            let report = upload(50, MediaType::Document).await;
            passes!(ani, budi, chat, content(50), document_message: with_file!(DocumentMessage, report,
                mimetype: "application/pdf".into(), file_name: "report.pdf".into(), title: "Report".into()));
            let sticker = upload(60, MediaType::Sticker).await;
            passes!(ani, budi, chat, content(60), sticker_message: with_file!(StickerMessage, sticker,
                mimetype: "image/webp".into(), is_animated: true, height: 512, width: 512));
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_done_to_a_message_reaches_the_one_who_has_it() {
    for pn_only in [false, true] {
        let (world, mut ani, mut budi) = two(pn_only).await;
        for chat in chats(&world) {
            what_is_done(&mut ani, &mut budi, &chat).await;
        }
    }
}

async fn what_is_done(ani: &mut Person, budi: &mut Person, chat: &Jid) {
    let id = ani.say(&chat.to_string(), "frist").await;
    let received = budi.text().await;
    let change = wa::Message { conversation: Some("first".into()), ..Default::default() };
    ani.client.edit_message(chat.clone(), id.clone(), change).await.unwrap();
    let of = |kind: Type| {
        move |message: &wa::Message| {
            let done = message.get_base_message().protocol_message.as_option();
            let done = done.or_else(|| message.protocol_message.as_option())?;
            (done.r#type == Some(kind)).then(|| done.key.as_option().and_then(|key| key.id.clone()))
        }
    };
    assert_eq!(budi.message(of(Type::MESSAGE_EDIT)).await, Some(id.clone()));

    let key = wa::MessageKey {
        remote_jid: Some(received.chat.clone()),
        from_me: Some(false),
        id: Some(id.clone()),
        participant: is_group(chat).then(|| received.sender.clone()),
    };
    budi.client.send_reaction(received.chat.parse::<Jid>().unwrap(), key, "\u{1f44d}").await.unwrap();
    let reaction = ani.message(|message| message.reaction_message.as_option().cloned()).await;
    assert_eq!(reaction.text.as_deref(), Some("\u{1f44d}"));
    assert_eq!(reaction.key.as_option().and_then(|key| key.id.clone()), Some(id.clone()));

    ani.client.revoke_message(chat.clone(), id.clone(), RevokeType::Sender).await.unwrap();
    assert_eq!(budi.message(of(Type::REVOKE)).await, Some(id));
    if !is_group(chat) {
        return;
    }
    // Who administers a group may take back what others said.
    let id = budi.say(&chat.to_string(), "out of place").await;
    let original_sender: Jid = ani.text().await.sender.parse().unwrap();
    let stanza = budi.client.wait_for_node(NodeFilter::tag("message").attr("edit", "8"));
    ani.client.revoke_message(chat.clone(), id.clone(), RevokeType::Admin { original_sender }).await.unwrap();
    assert_eq!(budi.message(of(Type::REVOKE)).await, Some(id));
    tokio::time::timeout(support::LIMIT, stanza).await.expect("it is no admin's revoke").unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_poll_is_voted_on() {
    let (world, mut ani, mut budi) = two(support::config().pn_only).await;
    for chat in chats(&world) {
        let options = ["tea", "coffee"].map(ToOwned::to_owned);
        let (sent, secret) = ani.client.polls().create(chat.clone(), "What?", &options, 1).await.unwrap();
        let asked = |message: &wa::Message| {
            let polls = [&message.poll_creation_message, &message.poll_creation_message_v3];
            polls.iter().find_map(|poll| poll.as_option().map(|poll| poll.options.len()))
        };
        assert_eq!(budi.message(asked).await, 2);
        let own = || if support::config().pn_only { ani.client.pn() } else { ani.client.lid() };
        let creator = own().unwrap().to_non_ad();
        let to = if is_group(&chat) { chat } else { creator.clone() };
        budi.client.polls().vote(to, &sent.message_id, &creator, &secret, &options[..1]).await.unwrap();
        let vote = ani.message(|message| message.poll_update_message.as_option().cloned()).await;
        let key = vote.poll_creation_message_key.as_option().and_then(|key| key.id.clone());
        assert_eq!(key, Some(sent.message_id));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_status_is_seen_and_its_author_hears_of_it_in_either_shape() {
    for bare_status_receipts in [false, true] {
        let world = World::with(EmulatorConfig { bare_status_receipts, ..support::config() }).await;
        let mut ani = world.link(ANI, "Ani").await;
        let mut budi = world.link(BUDI, "Budi").await;
        let lid = world.emulator.accounts()[1].lid.clone();
        let to = [Jid::lid(lid.as_str())];
        let font = wa::message::extended_text_message::FontType::default();
        let options = StatusSendOptions { message_id: Some("3EB0A57A705".into()), ..Default::default() };
        let receipt = ani.client.wait_for_node(NodeFilter::tag("receipt").attr("id", "3EB0A57A705"));
        ani.client.status().send_text("a fine day", 0xff00_0000, font, &to, options).await.unwrap();
        let seen = budi.message(|message| message.extended_text_message.as_option().cloned()).await;
        assert_eq!(seen.text.as_deref(), Some("a fine day"));
        ani.receipt("3EB0A57A705").await;
        let receipt = receipt.await.unwrap();
        let named = |name: &str| Some(receipt.get().get_attr(name)?.to_jid()?.to_non_ad());
        let (by_phone, by_lid) = (Jid::pn(BUDI), to[0].clone());
        let by = named("participant").unwrap();
        let other = if by == by_lid { ("participant_pn", by_phone) } else { ("participant_lid", by_lid) };
        assert_eq!(named(other.0), Some(other.1).filter(|_| !bare_status_receipts));
    }
}
