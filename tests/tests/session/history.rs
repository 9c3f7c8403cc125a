//! What the phone knows of people and chats, handed over when an account is linked.

use std::collections::BTreeSet;

use waya_daemon::model::{ChatId, PairingMethod, Timestamp};
use waya_daemon::session::{History, Person, WaEvent};
use waya_sandbox::emulator::{Fault, FaultLimit, FaultTarget, HISTORY_TEXT};

use crate::world::{World, pn_only};

fn history(event: &WaEvent) -> Option<History> {
    match event {
        WaEvent::History(history) => Some(history.clone()),
        _ => None,
    }
}

/// The name that a message of this person brought.
async fn name_of(world: &mut World, phone: &str, text: &str) -> Timestamp {
    let told = world.event(|event| match event {
        WaEvent::Person(Person { phone: Some(known), push_name: Some(name), .. })
            if known == phone && name.text == text =>
        {
            Some(name.at)
        }
        _ => None,
    });
    told.await
}

#[tokio::test(flavor = "multi_thread")]
async fn names_and_chats_come_with_the_link_and_messages_do_not() {
    let mut world = World::connected(3).await;
    let group: ChatId = world.emulator().groups()[0].jid.parse().unwrap();
    // The client library reads small pieces sooner than large ones: they come in either order.
    let (first, second) = (world.event(history).await, world.event(history).await);
    let (chats, names) = if first.chats.is_empty() { (second, first) } else { (first, second) };
    let told: Vec<_> = names.people.iter().filter_map(|person| person.push_name.clone()).collect();
    for (who, person) in world.sandbox.people().all().iter().enumerate() {
        let name = &person.profile().name;
        assert!(told.iter().any(|told| told.text == *name && told.at == Timestamp::default()), "{name}");
        let chat = chats.chats.iter().find(|chat| chat.id == world.chat(who)).expect(name);
        assert_eq!(chat.name.as_ref(), Some(name));
        assert!(chat.last_activity.is_some() && chat.archived == Some(false));
        assert_eq!(chat.lid.is_some(), !pn_only(), "a phone from before LIDs tells of none");
        let pair = chats.people.iter().find(|pair| pair.phone.as_deref() == Some(&world.phone(who)));
        assert_eq!(pair.and_then(|pair| pair.lid.clone()), chat.lid, "phone and LID belong together");
    }
    let group = chats.chats.iter().find(|chat| chat.id == group).expect("the group");
    assert_eq!(group.name.as_deref(), Some("Keluarga"));
    assert_eq!(group.muted_until, Some(Timestamp::from_millis(u64::MAX)));
    assert!(group.pinned_at > Some(Timestamp::default()));
    world.nothing_queued().await;

    let keys = world.folder.path().to_owned();
    world.end().await;
    for file in ["whatsapp.db", "whatsapp.db-wal"] {
        let bytes = std::fs::read(keys.join(file)).unwrap_or_default();
        let text = HISTORY_TEXT.as_bytes();
        assert!(!bytes.windows(text.len()).any(|part| part == text), "{file} keeps what was said");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_with_another_name_renames_and_a_new_link_tells_again() {
    let mut world = World::connected(1).await;
    let (phone, before) = (world.phone(0), Timestamp::from_millis(1));
    world.say(0, "Halo", None).await;
    let name = world.sandbox.people().all()[0].profile().name.clone();
    assert!(name_of(&mut world, &phone, &name).await > before);
    assert!(world.emulator().rename(&phone, "Bud\u{202e}i \n Baru"));
    world.say(0, "Halo lagi", None).await;
    name_of(&mut world, &phone, "Budi Baru").await;
    assert_eq!(world.journal.rows(2).await[1].push_name.as_deref(), Some("Budi Baru"));

    world.session.logout().await.unwrap();
    let forgotten = |event: &WaEvent| matches!(event, WaEvent::Forgotten).then_some(());
    world.event(forgotten).await;
    let _ = world.untaken();
    world.session.pair(PairingMethod::Qr).await.unwrap();
    world.scan().await;
    world.until("connected").await;
    world.say(0, "Halo lagi", None).await;
    name_of(&mut world, &phone, "Budi Baru").await;
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_garbled_piece_is_dropped_and_the_next_one_is_read() {
    let mut world = World::connected(1).await;
    let (first, second) = (world.event(history).await, world.event(history).await);
    assert!(first.chats.len() + second.chats.len() > 0);
    let own = world.sandbox.own_phone().to_owned();
    // No protobuf at all; then a push name whose text is none, which the client library does not look at.
    for piece in [&b"\xff\xff\xff\xff"[..], &[8, 3, 0x3a, 4, 0x12, 2, 0xff, 0xfe]] {
        assert_eq!(world.emulator().hand_history(&own, piece), 1);
    }
    let good = [&[8, 3, 0x3a, 16][..], &[0x0a, 7], b"123@lid", &[0x12, 5], b"Siapa"].concat();
    assert_eq!(world.emulator().hand_history(&own, &good), 1);
    let told = world.event(history).await;
    let names: Vec<_> = told.people.iter().filter_map(|person| person.push_name.as_ref()).collect();
    assert_eq!(names.iter().map(|name| name.text.as_str()).collect::<Vec<_>>(), ["Siapa"]);

    world.say(0, "Halo", None).await;
    assert_eq!(world.journal.rows(1).await[0].text, "Halo");
    world.nothing_queued().await;
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn pieces_that_cannot_be_read_at_first_come_again_until_all_are_there() {
    let mut world = World::unpaired(8).await;
    let own = world.sandbox.own_phone().to_owned();
    let everybody: Vec<_> = std::iter::once(own.clone()).chain((0..8).map(|who| world.phone(who))).collect();
    let group: ChatId = world.emulator().ensure_group("Semua", &everybody).jid.parse().unwrap();
    // The keys of the app state, and every piece behind them.
    let strikes = FaultLimit::times(5);
    world.emulator().set_limited_fault(Fault::Garble, FaultTarget::Phone(own), strikes).unwrap();
    world.session.pair(PairingMethod::Qr).await.unwrap();
    world.scan().await;
    world.until("connected").await;
    let (mut chats, mut names, mut pieces) = (BTreeSet::new(), BTreeSet::new(), 0);
    while chats.len() < 10 || names.len() < 8 {
        let piece = world.event(history).await;
        pieces += 1;
        chats.extend(piece.chats.into_iter().map(|chat| chat.id.to_string()));
        names.extend(piece.people.into_iter().filter_map(|person| Some(person.push_name?.text)));
    }
    assert!(pieces > 3, "it came in {pieces} pieces");
    assert!(chats.contains(&group.to_string()));
    assert!(world.emulator().faults().is_empty(), "not everything was garbled");
    world.nothing_queued().await;
    world.end().await;
}
