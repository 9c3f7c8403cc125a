//! How history comes to a device: inside messages, in files, and more of it when it asks.

#![allow(clippy::unwrap_used)]

mod support;

use std::path::Path;

use support::https::Https;
use support::{Person, World, until};
use waya_sandbox::emulator::HISTORY_TEXT;
use whatsapp_rust::buffa::Message as _;
use whatsapp_rust::wacore::types::events::Event;
use whatsapp_rust::wacore_binary::Jid;
use whatsapp_rust::waproto::whatsapp as wa;
use whatsapp_rust::waproto::whatsapp::device_props::HistorySyncConfig;
use whatsapp_rust::waproto::whatsapp::history_sync::HistorySyncType;

const ANI: &str = "6281200000001";
const BUDI: &str = "6281200000002";

fn taking(inside: bool) -> HistorySyncConfig {
    HistorySyncConfig { inline_initial_payload_in_e2_ee_msg: Some(inside), ..HistorySyncConfig::default() }
}

/// The next piece of history, and the request that it answers.
async fn piece(person: &mut Person) -> (wa::HistorySync, Option<String>) {
    person
        .wait("a piece of history", |event| match event {
            Event::HistorySync(piece) => {
                let asked = piece.peer_data_request_session_id().map(str::to_owned);
                Some((piece.get().expect("it is whole").clone(), asked))
            }
            _ => None,
        })
        .await
}

/// Everything that a device is told at first: names, and chats with what was said in them.
async fn history(person: &mut Person) -> (Vec<String>, Vec<(String, String)>) {
    let (mut names, mut chats) = (Vec::new(), Vec::new());
    while names.is_empty() || chats.is_empty() {
        let (piece, asked) = piece(person).await;
        assert_eq!(asked, None, "nobody asked");
        names.extend(piece.pushnames.into_iter().filter_map(|name| name.pushname));
        chats.extend(piece.conversations.iter().map(|chat| (chat.name.clone().unwrap(), texts(chat).join(", "))));
    }
    (names, chats)
}

fn texts(chat: &wa::Conversation) -> Vec<String> {
    let messages = chat.messages.iter().filter_map(|message| message.message.as_option());
    messages.filter_map(|message| message.message.as_option()?.conversation.clone()).collect()
}

/// Files on the media servers; the certificate lies beside them.
fn files(folder: &Path) -> usize {
    let entries = std::fs::read_dir(folder.join("media")).unwrap();
    entries.filter(|entry| entry.as_ref().is_ok_and(|entry| entry.path().extension().is_none())).count()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn history_comes_inside_messages_or_in_files_as_the_client_says() {
    let folder = tempfile::tempdir().unwrap();
    let world = World::in_folder(folder.path(), None).await;
    world.emulator.ensure_account(ANI, "Ani");
    world.emulator.ensure_account(BUDI, "Budi");
    world.emulator.ensure_group("Team", &[ANI.to_owned(), BUDI.to_owned()]);
    let url = world.emulator.whatsapp_url();
    let all = || {
        let chats = ["Team", "Budi"].map(|chat| (chat.to_owned(), HISTORY_TEXT.to_owned()));
        (vec!["Budi".to_owned()], chats.to_vec())
    };

    let mut inside = Person::with_history(&url, "Ani", taking(true), None).await;
    inside.scan(&world.emulator, Some(ANI)).await;
    assert_eq!(history(&mut inside).await, all());
    assert_eq!(files(folder.path()), 0, "it came inside messages");

    let mut apart = Person::with_history(&url, "Ani", taking(false), Some(Https::new(&world))).await;
    apart.scan(&world.emulator, Some(ANI)).await;
    assert_eq!(history(&mut apart).await, all());
    assert_eq!(files(folder.path()), 2, "a file for each piece");
    until("everything to be confirmed", || world.emulator.stats().queued == 0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_large_piece_is_a_file_for_everybody() {
    let folder = tempfile::tempdir().unwrap();
    let world = World::in_folder(folder.path(), None).await;
    world.emulator.ensure_account(ANI, "Ani");
    let url = world.emulator.whatsapp_url();
    let mut ani = Person::with_history(&url, "Ani", taking(true), Some(Https::new(&world))).await;
    ani.scan(&world.emulator, Some(ANI)).await;
    ani.connected().await;
    for (length, kept) in [(1_000, 0), (100_000, 1)] {
        let name = wa::Pushname { id: Some("123@lid".to_owned()), pushname: Some("x".repeat(length)) };
        let large = wa::HistorySync {
            sync_type: HistorySyncType::PUSH_NAME,
            pushnames: vec![name],
            chunk_order: Some(7),
            ..wa::HistorySync::default()
        };
        assert_eq!(world.emulator.hand_history(ANI, &large.encode_to_vec()), 1);
        let came = loop {
            let (came, _) = piece(&mut ani).await;
            if came.chunk_order == Some(7) {
                break came;
            }
        };
        assert_eq!((came.pushnames, files(folder.path())), (large.pushnames, kept), "{length} bytes");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_phone_gives_more_of_a_chat_when_it_is_asked() {
    let world = World::start().await;
    let mut ani = world.link(ANI, "Ani").await;
    let url = world.emulator.whatsapp_url();
    world.emulator.ensure_account(BUDI, "Budi");
    let mut budi = Person::with_history(&url, "Budi", taking(true), None).await;
    budi.scan(&world.emulator, Some(BUDI)).await;
    budi.connected().await;
    world.emulator.set_handset_online(BUDI, true);
    let group = world.emulator.ensure_group("Team", &[ANI.to_owned(), BUDI.to_owned()]).jid;
    for to in [BUDI, &group] {
        let mut ids = Vec::new();
        for text in ["one", "two"] {
            ids.push(ani.say(to, text).await);
            budi.text().await;
        }
        let chat = if to == BUDI { ANI } else { to };
        ids.push(budi.say(chat, "three").await);
        ani.text().await;
        ids.push(ani.say(to, "four").await);
        let chat: Jid = budi.text().await.chat.parse().unwrap();

        for (oldest, own, count, wanted, end) in [
            (3, false, 2, &["three", "two"][..], false),
            (2, true, 50, &["two", "one"], true),
            (0, false, 50, &[], true),
            // Nothing of his own has that id.
            (3, true, 50, &["four", "three", "two", "one"], true),
        ] {
            let asked = budi.client.fetch_message_history(&chat, &ids[oldest], own, 0, count).await.unwrap();
            let (given, answers) = loop {
                let (given, answers) = piece(&mut budi).await;
                // What came when it was linked.
                if given.sync_type == HistorySyncType::ON_DEMAND {
                    break (given, answers);
                }
            };
            assert_eq!(answers, Some(asked));
            let known = &given.conversations[0];
            assert_eq!(
                (known.id.as_str(), texts(known)),
                (&*chat.to_string(), wanted.iter().map(|text| (*text).to_owned()).collect())
            );
            assert_eq!(known.end_of_history_transfer, Some(end), "{wanted:?}");
            let by_own = known.messages.iter().filter_map(|message| message.message.as_option()?.key.as_option());
            let by_own: Vec<_> = by_own.map(|key| key.from_me.unwrap()).collect();
            assert_eq!(by_own, wanted.iter().map(|text| *text == "three").collect::<Vec<_>>());
        }
    }
}
