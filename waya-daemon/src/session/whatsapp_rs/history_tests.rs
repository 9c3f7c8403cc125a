//! Chunks of history as a phone sends them, and as one must not break on.
#![allow(clippy::unwrap_used)]

use std::io::Write as _;

use flate2::Compression;
use flate2::write::ZlibEncoder;
use whatsapp_rust::buffa::{Message as _, MessageField};
use whatsapp_rust::waproto::whatsapp as wa;

use super::*;

fn zlib(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = ZlibEncoder::new(Vec::new(), Compression::default());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

fn chunk(bytes: &[u8]) -> LazyHistorySync {
    LazyHistorySync::new(zlib(bytes).into(), bytes.len(), 0, None, None)
}

fn conversation(id: &str, name: Option<&str>) -> wa::Conversation {
    wa::Conversation { id: id.to_owned(), name: name.map(str::to_owned), ..Default::default() }
}

fn named(id: &str, name: &str) -> wa::Pushname {
    wa::Pushname { id: Some(id.to_owned()), pushname: Some(name.to_owned()) }
}

fn rows(history: &wa::HistorySync) -> Read {
    read(&chunk(&history.encode_to_vec())).unwrap()
}

#[test]
fn chats_are_taken_as_they_are_given_and_without_what_was_said() {
    let secret = "a text that nobody may keep";
    let message = wa::Message { conversation: Some(secret.to_owned()), ..Default::default() };
    let message = wa::WebMessageInfo { message: MessageField::some(message), ..Default::default() };
    let message = wa::HistorySyncMsg { message: MessageField::some(message), ..Default::default() };
    let private = wa::Conversation {
        messages: vec![message],
        last_msg_timestamp: Some(1_790_000_000),
        conversation_timestamp: Some(1_790_000_005),
        archived: Some(true),
        ephemeral_expiration: Some(0),
        pinned: Some(0),
        lid_jid: Some("999@lid".to_owned()),
        ..conversation("6281200000002@s.whatsapp.net", Some("Bud\u{7}i"))
    };
    let group = wa::Conversation {
        pinned: Some(1_790_000_001),
        mute_end_time: Some(u64::MAX),
        ephemeral_expiration: Some(604_800),
        display_name: Some("Keluarga".to_owned()),
        ..conversation("120363041234567890@g.us", Some(""))
    };
    let by_lid = wa::Conversation {
        pn_jid: Some("6281200000003@s.whatsapp.net".to_owned()),
        mute_end_time: Some(1_790_000_000_123),
        ..conversation("888@lid", None)
    };
    let read = rows(&wa::HistorySync { conversations: vec![private, group, by_lid], ..Default::default() });
    assert_eq!(read.timers, [(ChatId::group("120363041234567890"), 604_800)]);
    let seconds = |seconds: u64| Some(Timestamp::from_millis(seconds * 1_000));
    let expected = [
        ListedChat {
            lid: Some("999".to_owned()),
            name: Some("Budi".to_owned()),
            last_activity: seconds(1_790_000_005),
            archived: Some(true),
            pinned_at: seconds(0),
            ..ListedChat::new(ChatId::phone("6281200000002"))
        },
        ListedChat {
            name: Some("Keluarga".to_owned()),
            pinned_at: seconds(1_790_000_001),
            muted_until: Some(Timestamp::from_millis(u64::MAX)),
            ..ListedChat::new(ChatId::group("120363041234567890"))
        },
        ListedChat {
            lid: Some("888".to_owned()),
            muted_until: Some(Timestamp::from_millis(1_790_000_000_123)),
            ..ListedChat::new(ChatId::phone("6281200000003"))
        },
    ];
    assert!(read.chats == expected, "{:?}", read.chats);
}

#[test]
fn what_is_no_chat_of_the_list_is_left_out() {
    let ids = ["status@broadcast", "1700000000@broadcast", "867051314767696@bot", "nonsense", "", "x@g.us"];
    let conversations = ids.map(|id| conversation(id, None)).to_vec();
    assert!(rows(&wa::HistorySync { conversations, ..Default::default() }).chats.is_empty());
}

#[test]
fn names_and_pairs_are_taken_and_names_are_cleaned() {
    let pair = wa::PhoneNumberToLIDMapping {
        pn_jid: Some("6281200000002@s.whatsapp.net".to_owned()),
        lid_jid: Some("999@lid".to_owned()),
    };
    let pushnames = vec![
        named("6281200000002@s.whatsapp.net", " Budi\n"),
        named("888@lid", "Siti"),
        named("777@lid", "\u{200b}"),
        named("120363041234567890@g.us", "no person"),
    ];
    let history = wa::HistorySync { pushnames, phone_number_to_lid_mappings: vec![pair], ..Default::default() };
    let undated = |name: &str| Some(PushName { text: name.to_owned(), at: Timestamp::default() });
    let text = |text: &str| Some(text.to_owned());
    let expected = [
        Person { phone: text("6281200000002"), lid: text("999"), push_name: None },
        Person { phone: text("6281200000002"), lid: None, push_name: undated("Budi") },
        Person { phone: None, lid: text("888"), push_name: undated("Siti") },
    ];
    assert!(rows(&history).people == expected);
}

#[test]
fn of_too_many_rows_the_first_are_taken() {
    let pushnames = (0..MAX_ROWS + 3).map(|n| named(&format!("{n}@lid"), "x")).collect();
    let conversations = (0..MAX_ROWS + 2).map(|n| conversation(&format!("{n}@lid"), None)).collect();
    let read = rows(&wa::HistorySync { pushnames, conversations, ..Default::default() });
    assert_eq!((read.people.len(), read.chats.len(), read.left_out), (MAX_ROWS, MAX_ROWS, 5));
}

#[test]
fn one_garbled_chat_costs_that_chat_and_a_garbled_chunk_gives_nothing() {
    let good = wa::HistorySync { conversations: vec![conversation("999@lid", None)], ..Default::default() };
    let good = good.encode_to_vec();
    // A second conversation whose address is no text.
    let garbled = [&good[..], &[0x12, 4, 0x0a, 2, 0xff, 0xfe]].concat();
    let told = read(&chunk(&garbled)).unwrap();
    assert_eq!((told.chats.len(), told.unreadable), (1, 1));

    // A push name whose text is none.
    let garbled = [&good[..], &[0x3a, 4, 0x12, 2, 0xff, 0xfe]].concat();
    assert!(read(&chunk(&garbled)).is_err());
    let short = zlib(&good);
    let short = LazyHistorySync::new(short[..short.len() - 5].to_vec().into(), good.len(), 0, None, None);
    assert!(read(&short).is_err());
    // More than was announced: somebody wants the memory.
    assert!(read(&LazyHistorySync::new(zlib(&good).into(), good.len() - 1, 0, None, None)).is_err());
}
