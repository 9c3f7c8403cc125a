//! What only shows below the doors.

#![allow(clippy::unwrap_used)]

use std::os::unix::fs::PermissionsExt as _;
use std::time::Duration;

use super::testing::{World, incoming, memory};
use super::view::EventBodyView;
use super::{
    ApiError, Content, IdempotencyKey, ListRequest, PersonalMessage, Priority, Scopes, SendRequest, Special, WaitFor,
    What, ensure_key,
};
use crate::bus::BusEvent;
use crate::model::{
    Ack, Change, ChatId, EventBody, Incoming, Lane, LinkState, ListedChat, MessageId, PairingMethod, PushName, Source,
    Status, StatusChanged, Timestamp,
};
use crate::queue::By;
use crate::session::{SessionError, WhatsApp as _};
use crate::store::Contact;

fn one(number: &str, message: &str) -> SendRequest {
    let content = Content::One { number: number.to_owned(), message: message.into() };
    SendRequest { content, ..SendRequest::default() }
}

/// One key, and what the request's body was.
fn key(body: u8) -> IdempotencyKey {
    IdempotencyKey { key: "k".to_owned(), body: [body; 32] }
}

#[tokio::test]
async fn the_first_start_makes_a_key_that_later_ones_keep() {
    let (_, store) = memory();
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("api-key");
    let keys = ensure_key(store.values.clone(), dir.path()).await.unwrap();
    let key = std::fs::read_to_string(&path).unwrap();
    assert_eq!((key.len(), std::fs::metadata(&path).unwrap().permissions().mode() & 0o777), (65, 0o600));
    assert!(keys.find(key.trim_end().as_bytes()).is_some());
    assert!(keys.find(key.as_bytes()).is_none() && keys.find(b"").is_none());
    // It is told once: whoever removed the file keeps it removed.
    std::fs::remove_file(&path).unwrap();
    let keys = ensure_key(store.values.clone(), dir.path()).await.unwrap();
    assert!(keys.find(key.trim_end().as_bytes()).is_some() && !path.exists());
    // Only its hash is kept.
    for (_, value) in store.values.all("secrets").await.unwrap() {
        assert!(!value.windows(16).any(|part| part == &key.as_bytes()[..16]));
    }
}

#[tokio::test]
async fn further_keys_outlive_a_restart_and_not_their_revocation() {
    let world = World::new().await;
    let again = || ensure_key(world.store.values.clone(), world.data_dir.path());
    let (read, send) = (&["read".to_owned()], &["send".to_owned()]);
    let shop = world.api.create_key("shop", send).await.unwrap();
    let eyes = world.api.create_key("eyes", read).await.unwrap();
    assert_eq!(
        world.api.api_keys().keys.iter().map(|key| key.name.as_str()).collect::<Vec<_>>(),
        ["default", "eyes", "shop"]
    );
    let keys = again().await.unwrap();
    let found = keys.find(shop.api_key.as_bytes()).unwrap();
    assert_eq!((&*found.name, found.scopes), ("shop", Scopes::SEND));
    assert!(keys.find(world.key().as_bytes()).unwrap().is_default());
    // Only its hash is kept.
    for (_, value) in world.store.values.all("secrets").await.unwrap() {
        assert!(!value.windows(16).any(|part| part == &shop.api_key.as_bytes()[..16]));
    }
    world.api.revoke_key("shop").await.unwrap();
    let next = world.api.create_key("shop", send).await.unwrap();
    let keys = again().await.unwrap();
    assert!(keys.find(shop.api_key.as_bytes()).is_none() && keys.find(eyes.api_key.as_bytes()).is_some());
    assert_ne!(keys.find(next.api_key.as_bytes()).unwrap().identity(), found.identity());
    world.api.rotate_key().await.unwrap();
    assert!(world.api.find_key(next.api_key.as_bytes()).is_some());
}

#[tokio::test]
async fn a_rotation_that_was_cut_short_is_finished_or_undone() {
    let (memory, store) = memory();
    let dir = tempfile::tempdir().unwrap();
    let (file, next) = (dir.path().join("api-key"), dir.path().join("api-key.new"));
    let keys = ensure_key(store.values.clone(), dir.path()).await.unwrap();
    let old = std::fs::read_to_string(&file).unwrap();

    memory.set_down(true);
    assert!(matches!(keys.rotate().await, Err(ApiError::Store(_))));
    memory.set_down(false);
    assert!(next.exists() && keys.find(old.trim_end().as_bytes()).is_some());
    let keys = ensure_key(store.values.clone(), dir.path()).await.unwrap();
    assert!(!next.exists() && keys.find(old.trim_end().as_bytes()).is_some());

    let new = keys.rotate().await.unwrap();
    // As if the power had gone between the store's word and the file's new name.
    std::fs::rename(&file, &next).unwrap();
    std::fs::write(&file, &old).unwrap();
    let keys = ensure_key(store.values.clone(), dir.path()).await.unwrap();
    assert_eq!(std::fs::read_to_string(&file).unwrap().trim_end(), new);
    assert!(keys.find(new.as_bytes()).is_some() && keys.find(old.trim_end().as_bytes()).is_none());
}

#[tokio::test]
async fn a_person_by_lid_is_the_contact_of_their_phone() {
    let world = World::new().await;
    let contact =
        Contact { phone: Some("6281200000002".to_owned()), lid: Some("991234567".to_owned()), ..Contact::default() };
    world.store.contacts.learn(vec![contact]).await.unwrap();
    world.settings.set("allowed_numbers", Some("6281200000002")).await.unwrap();
    let content = Content::Many {
        recipients: vec!["6281200000002".to_owned(), "991234567@lid".to_owned()],
        message: "Halo".into(),
    };
    let answer = world.api.send(SendRequest { content, ..SendRequest::default() }, Source::Cli).await.unwrap();
    assert_eq!((answer.messages.len(), answer.duplicates), (1, vec!["991234567@lid".to_owned()]));
    let refused = world.api.send(one("881234567@lid", "Halo"), Source::Cli).await.unwrap_err();
    assert_eq!((refused.code(), refused.field()), ("recipient_not_allowed", Some("number")));
}

#[tokio::test]
async fn who_brought_no_name_is_named_as_the_phone_knows_them() {
    let world = World::new().await;
    let name = PushName { text: "Budi".to_owned(), at: Timestamp::default() };
    let contact = Contact {
        phone: Some("6281200000002".to_owned()),
        lid: Some("991".to_owned()),
        push_name: Some(name),
        ..Contact::default()
    };
    world.store.contacts.learn(vec![contact]).await.unwrap();
    world.store.chats.learn(vec![ListedChat::new(ChatId::group("1203"))]).await.unwrap();
    let known = world.api.status().await.unwrap().known;
    assert_eq!((known.people, known.chats), (1, 1));

    let from = |id: &str, sender: ChatId, push_name: Option<&str>| Incoming {
        sender,
        push_name: push_name.map(str::to_owned),
        ..incoming(id, "Halo")
    };
    let by_phone = from("A", ChatId::phone("6281200000002"), None);
    let by_lid = from("B", ChatId::lid("991"), None);
    let said = from("C", ChatId::lid("991"), Some("Budi S."));
    let own = Incoming { from_me: true, ..by_phone.clone() };
    let stranger = from("D", ChatId::lid("55"), None);
    world.store.journal.record_incoming(vec![by_phone, by_lid, said, own, stranger]).await.unwrap();
    let events = world.api.events("0", 10, Duration::ZERO).await.unwrap().events;
    let names: Vec<_> = events
        .into_iter()
        .map(|event| match event.body {
            EventBodyView::Message { message } => message.sender_name,
            other => panic!("{other:?}"),
        })
        .collect();
    let names: Vec<_> = names.iter().map(Option::as_deref).collect();
    assert_eq!(names, [Some("Budi"), Some("Budi"), Some("Budi S."), None, None]);
}

#[tokio::test]
async fn a_phone_that_is_learnt_later_is_shown_wherever_the_lid_was() {
    let world = World::new().await;
    let (lid, phone) = (ChatId::lid("991234567"), ChatId::phone("6281200000002"));
    let sent = world.api.send(one(lid.as_str(), "Halo"), Source::Cli).await.unwrap();
    let id = sent.id.unwrap();
    let group = Incoming { sender: lid.clone(), ..incoming("A", "in a group") };
    let private = Incoming { chat: lid.clone(), sender: lid.clone(), ..incoming("B", "in private") };
    let stranger = Incoming { chat: ChatId::lid("55"), sender: ChatId::lid("55"), ..incoming("C", "unknown") };
    world.store.journal.record_incoming(vec![group, private, stranger]).await.unwrap();
    let status = StatusChanged {
        id,
        reference_id: None,
        chat: lid.clone(),
        status: Status::Sent,
        ack: Ack::Server,
        error: None,
        before: Some(Ack::None),
    };
    world.store.journal.append(EventBody::Status(status), world.clock.now()).await.unwrap();

    assert_eq!(addresses(&world, id).await, vec![lid.to_string(); 10]);
    let mut changes = world.api.message_changes();
    let contact =
        Contact { phone: Some("6281200000002".to_owned()), lid: Some("991234567".to_owned()), ..Contact::default() };
    world.store.contacts.learn(vec![contact]).await.unwrap();
    let mut shown = vec![phone.to_string(); 10];
    (shown[1], shown[3], shown[9]) = (phone.user().to_owned(), phone.user().to_owned(), phone.user().to_owned());
    assert_eq!(addresses(&world, id).await, shown);
    world.change(id, Change::Claim).await;
    assert_eq!(changes.next().await.unwrap().chat_id, phone);
    let cancelled = world.api.cancel(&id.to_string()).await;
    assert!(matches!(cancelled, Err(ApiError::NotCancellable(Status::Sending))), "{cancelled:?}");

    let EventBodyView::Message { message } =
        world.api.events("0", 10, Duration::ZERO).await.unwrap().events[2].body.clone()
    else {
        panic!("not a message")
    };
    assert_eq!(message.chat_id, ChatId::lid("55"), "nobody knows more");
    assert_eq!(world.store.outbox.message(id).await.unwrap().unwrap().chat, lid, "rows stay as they were written");
}

/// Every address that is shown of a message to a person, and of three events that name the person.
async fn addresses(world: &World, id: MessageId) -> Vec<String> {
    let message = world.api.message(&id.to_string()).await.unwrap();
    let list = world.api.queue_list(ListRequest::default()).await.unwrap().messages.remove(0);
    let mut shown = vec![message.chat_id.to_string(), message.number, list.chat_id.to_string(), list.number];
    let events = world.api.events("0", 10, Duration::ZERO).await.unwrap().events;
    let [group, private, _, status] = <[_; 4]>::try_from(events).unwrap().map(|event| event.body);
    let (EventBodyView::Message { message: group }, EventBodyView::Message { message: private }) = (group, private)
    else {
        panic!("no messages")
    };
    let EventBodyView::Status { status } = status else { panic!("no status") };
    shown.extend([group.author.unwrap(), group.sender, private.from, private.chat_id].map(String::from));
    shown.extend([status.chat_id.to_string(), status.number]);
    shown
}

#[tokio::test]
async fn a_repeat_hears_the_first_answer_though_the_message_is_gone_from_the_queue() {
    let world = World::new().await;
    let request = || SendRequest { idempotency: Some(key(1)), ..one("6281200000002", "Halo") };
    world.api.send(one("6281200000003", "before"), Source::Cli).await.unwrap();
    let first = world.api.send(request(), Source::Cli).await.unwrap();
    assert_eq!(first.messages[0].position, 2);
    let id = first.id.unwrap();
    world.change(id, Change::Claim).await;
    world.change(id, Change::Acked).await;
    assert_eq!(world.api.send(request(), Source::Cli).await.unwrap(), first);
    // A repeat is no new message: the allow-list has no say in it.
    world.settings.set("allowed_numbers", Some("6281200000009")).await.unwrap();
    assert_eq!(world.api.send(request(), Source::Cli).await.unwrap(), first);
    let refused = world.api.send(one("6281200000002", "Halo"), Source::Cli).await.unwrap_err();
    assert_eq!(refused.code(), "recipient_not_allowed");
    let other = SendRequest { idempotency: Some(key(2)), ..request() };
    assert!(matches!(world.api.send(other.clone(), Source::Cli).await, Err(ApiError::IdempotencyConflict)));
    world.settings.set("allowed_numbers", None).await.unwrap();
    assert!(matches!(world.api.send(other, Source::Cli).await, Err(ApiError::IdempotencyConflict)));
    // The same key at the other door is another one.
    assert_ne!(world.api.send(request(), Source::Api).await.unwrap().id, first.id);
}

#[tokio::test]
async fn what_is_cleared_is_found_by_nobody_and_a_repeat_hears_the_first_answer() {
    let world = World::new().await;
    let each = |number: &str| PersonalMessage {
        number: number.to_owned(),
        message: "Halo".into(),
        reference_id: Some(format!("for {number}")),
    };
    let request = || SendRequest {
        content: Content::Each(vec![each("6281200000002"), each("6281200000003"), each("6281200000004")]),
        idempotency: Some(key(1)),
        ..SendRequest::default()
    };
    let first = world.api.send(request(), Source::Api).await.unwrap();
    let ids: Vec<_> = first.messages.iter().map(|message| message.id.unwrap()).collect();
    for id in &ids[..2] {
        world.change(*id, Change::Claim).await;
        world.change(*id, Change::Acked).await;
    }
    for (status, cleared) in [(Status::Failed, 0), (Status::Sent, 2), (Status::Pending, 1), (Status::Cancelled, 1)] {
        assert_eq!(world.api.clear(status).await.unwrap().cleared, cleared, "{status:?}");
    }
    assert_eq!(world.api.clear(Status::Sending).await.unwrap_err().field(), Some("status"));
    for id in [ids[0].to_string(), "for 6281200000002".to_owned()] {
        assert_eq!(world.api.message(&id).await.unwrap_err().code(), "not_found");
    }
    assert_eq!(world.api.queue_list(ListRequest::default()).await.unwrap().messages, Vec::new());
    assert_eq!(world.api.send(request(), Source::Api).await.unwrap(), first);
    assert_eq!(world.memory.count(), 0);
}

#[tokio::test(start_paused = true)]
async fn all_messages_of_a_reference_are_told_as_they_stand_after_the_wait() {
    let world = World::new().await;
    let each = (0..150).map(|n| PersonalMessage {
        number: format!("62812000{n:05}"),
        message: "Halo".into(),
        reference_id: Some("blast".to_owned()),
    });
    let request = SendRequest { content: Content::Each(each.collect()), ..SendRequest::default() };
    let sent = world.api.send(request, Source::Cli).await.unwrap();
    let all = world.api.message("blast").await.unwrap();
    assert_eq!((all.messages.len(), all.total), (150, Some(150)));
    assert!(all.messages.iter().all(|message| message.hold.as_ref().is_some_and(|hold| hold.reason == "offline")));
    let ids: Vec<_> = sent.messages.iter().rev().map(|message| message.id.unwrap()).collect();
    assert!(all.messages.iter().map(|message| message.id).eq(ids.iter().copied()));

    let waiting = world.api.wait_message("blast", WaitFor::Sent, Duration::from_secs(100));
    let doing = async {
        tokio::task::yield_now().await;
        // One with the same reference that came later is listed, and not the one that was waited for.
        let mut later = one("6281200000002", "later");
        later.reference_id = Some("blast".to_owned());
        world.api.send(later, Source::Cli).await.unwrap();
        for id in [ids[149], ids[0]] {
            world.change(id, Change::Claim).await;
            world.change(id, Change::Acked).await;
        }
    };
    let (view, ()) = tokio::join!(waiting, doing);
    let view = view.unwrap();
    assert_eq!((view.id, view.status, view.total), (ids[0], Status::Sent, Some(151)));
    let now_sent = view.messages.iter().filter(|message| message.status == Status::Sent).map(|message| message.id);
    assert!(now_sent.eq([ids[0], ids[149]]));
    // A single one is no list.
    let alone = world.api.message(&ids[0].to_string()).await.unwrap();
    assert_eq!((alone.messages.len(), alone.total), (0, None));
}

#[tokio::test(start_paused = true)]
async fn more_than_an_answer_lists_are_counted() {
    let world = World::new().await;
    for chunk in [10_000_u32, 5] {
        let each = (0..chunk).map(|n| PersonalMessage {
            number: format!("62812000{n:05}"),
            message: "Halo".into(),
            reference_id: Some("blast".to_owned()),
        });
        let request = SendRequest { content: Content::Each(each.collect()), ..SendRequest::default() };
        world.api.send(request, Source::Cli).await.unwrap();
    }
    let all = world.api.message("blast").await.unwrap();
    assert_eq!((all.messages.len(), all.total), (10_000, Some(10_005)));
}

#[tokio::test(start_paused = true)]
async fn a_waiter_looks_by_itself_when_the_bus_is_silent() {
    let world = World::new().await;
    let id = world.api.send(one("6281200000002", "Halo"), Source::Cli).await.unwrap().id.unwrap();
    let text = id.to_string();
    let waiting = world.api.wait_message(&text, WaitFor::Sent, Duration::from_secs(100));
    let doing = async {
        tokio::task::yield_now().await;
        for change in [Change::Claim, Change::Acked] {
            world.store.outbox.change(id, change, world.clock.now()).await.unwrap();
        }
    };
    let (view, ()) = tokio::join!(waiting, doing);
    assert_eq!(view.unwrap().status.as_str(), "sent");
}

#[tokio::test]
async fn changes_of_messages_are_told_as_they_come() {
    let world = World::new().await;
    let mut changes = world.api.message_changes();
    let id = world.api.send(one("6281200000002", "Halo"), Source::Cli).await.unwrap().id.unwrap();
    assert_eq!(changes.next().await.unwrap().status.as_str(), "pending");
    world.bus.publish(BusEvent::Link(LinkState::Connected));
    world.api.cancel(&id.to_string()).await.unwrap();
    assert_eq!(changes.next().await.unwrap().status.as_str(), "cancelled");
    world.shutdown.cancel();
    assert!(changes.next().await.is_none());
}

#[tokio::test]
async fn a_linking_is_told_to_its_end() {
    let world = World::new().await;
    world.whatsapp.logout().await.unwrap();
    let mut login = world.api.login(PairingMethod::Qr).await.unwrap();
    assert_eq!(login.next().await.unwrap().state, "pairing");
    let shown = LinkState::Pairing { qr: Some("2@x".to_owned()), code: None, expires_at: None };
    let (view, ()) = tokio::join!(login.next(), async { world.whatsapp.set_link(shown) });
    assert_eq!(view.unwrap().qr.unwrap().text, "2@x");
    world.whatsapp.set_link(LinkState::Connected);
    assert_eq!(login.next().await.unwrap().state, "connected");
    assert!(login.next().await.is_none());

    let refused = world.api.login(PairingMethod::Qr).await.unwrap_err();
    assert!(matches!(refused, ApiError::Session(SessionError::AlreadyLinked)));
    // Another client took over: the same word takes it back, without pairing again.
    world.whatsapp.set_link(LinkState::Replaced);
    let mut login = world.api.login(PairingMethod::Qr).await.unwrap();
    assert_eq!(login.next().await.unwrap().state, "connected");
    assert_eq!(world.whatsapp.paired().len(), 1);
}

#[tokio::test]
async fn a_code_that_nobody_scanned_ends_the_linking() {
    let world = World::new().await;
    world.whatsapp.logout().await.unwrap();
    let mut login = world.api.login(PairingMethod::Code("6281200000001".to_owned())).await.unwrap();
    assert_eq!(login.next().await.unwrap().state, "pairing");
    world.whatsapp.set_link(LinkState::Unpaired);
    assert_eq!(login.next().await.unwrap().state, "unpaired");
    assert!(login.next().await.is_none());
}

const BUDI: &str = "6281200000002";

/// So many seconds into the tale.
const fn second(count: u64) -> Timestamp {
    Timestamp::from_millis(1_800_000_000_000 + count * 1_000)
}

/// Budi asks about the price, wants no more messages, and asks about something else later.
async fn budi_opts_out_and_writes_again(world: &World) {
    let said = |id: &str, who: &str, at: u64| {
        let chat = ChatId::phone(who);
        Incoming { chat: chat.clone(), sender: chat, timestamp: second(at), raw: vec![1], ..incoming(id, "Halo") }
    };
    let typed = Incoming { from_me: true, ..said("TYPED", BUDI, 4) };
    let words = vec![said("PRICE", BUDI, 1), said("STOP", BUDI, 2), said("LATER", BUDI, 3), typed];
    world.store.journal.record_incoming(words).await.unwrap();
    world.store.journal.record_incoming(vec![said("OTHER", "6281200000003", 4)]).await.unwrap();
    let list = world.api.0.queue.opt_outs();
    list.said(&ChatId::phone(BUDI), true, second(2), By::Person, false).await.unwrap();
}

async fn opts_in_again(world: &World) {
    let list = world.api.0.queue.opt_outs();
    list.said(&ChatId::phone(BUDI), false, second(5), By::Person, false).await.unwrap();
}

fn quoting(id: &str) -> SendRequest {
    let message = What { text: "jam 8".to_owned(), quoted: Some(id.to_owned()), ..What::default() };
    SendRequest { content: Content::One { number: BUDI.to_owned(), message }, ..SendRequest::default() }
}

async fn lane_of(world: &World, id: MessageId) -> Lane {
    world.store.outbox.message(id).await.unwrap().unwrap().lane
}

/// One that was sent before anybody wanted anything.
async fn sent_before(world: &World) -> String {
    let id = world.accept(BUDI, "Promo").await;
    world.change(id, Change::Claim).await;
    world.change(id, Change::Acked).await;
    id.to_string()
}

#[tokio::test]
async fn who_wants_no_messages_gets_answers_to_what_they_wrote_since() {
    let world = World::new().await;
    let ours = sent_before(&world).await;
    budi_opts_out_and_writes_again(&world).await;
    for id in ["PRICE", "STOP", "TYPED", &ours] {
        let refused = world.api.send(quoting(id), Source::Api).await.unwrap_err();
        assert_eq!((refused.code(), refused.field()), ("recipient_opted_out", Some("number")), "{id}");
    }
    for id in ["OTHER", "no such"] {
        let refused = world.api.send(quoting(id), Source::Api).await.unwrap_err();
        assert_eq!((refused.code(), refused.field()), ("invalid_field", Some("quoted")), "{id}");
    }
    let place = Special::Location { latitude: -6.2, longitude: 106.8, name: None, address: None };
    let message = What { special: Some(place), quoted: Some("LATER".to_owned()), ..What::default() };
    let content = Content::One { number: BUDI.to_owned(), message };
    let refused = world.api.send(SendRequest { content, ..SendRequest::default() }, Source::Api).await.unwrap_err();
    assert_eq!(refused.code(), "recipient_opted_out", "a place quotes nothing");
    let low = SendRequest { priority: Priority::Low, ..quoting("LATER") };
    let answer = world.api.send(low, Source::Api).await.unwrap();
    assert_eq!(lane_of(&world, answer.id.unwrap()).await, Lane::Reply, "an answer, whatever its priority");
}

#[tokio::test]
async fn who_wants_no_messages_sees_nothing_done_but_what_takes_back_or_is_about_later_words() {
    let world = World::new().await;
    let ours = sent_before(&world).await;
    budi_opts_out_and_writes_again(&world).await;
    let answer = world.api.send(quoting("LATER"), Source::Api).await.unwrap().id.unwrap();
    world.change(answer, Change::Claim).await;
    let api = &world.api;
    let reaction = |id: &str, emoji: &str| {
        let special = Special::Reaction { message: id.to_owned(), emoji: emoji.to_owned() };
        let message = What { special: Some(special), ..What::default() };
        let content = Content::One { number: BUDI.to_owned(), message };
        api.send(SendRequest { content, ..SendRequest::default() }, Source::Api)
    };
    for (refused, field) in [
        (api.edit(&ours, "Promo!".to_owned(), Source::Cli).await, "id"),
        (api.react(&ours, "👍".to_owned(), Source::Cli).await, "id"),
        (api.react("PRICE", "👍".to_owned(), Source::Cli).await, "id"),
        (reaction("PRICE", "👍").await, "number"),
        (api.forward("LATER", vec![BUDI.to_owned()], Source::Cli).await, "recipients[0]"),
    ] {
        let refused = refused.unwrap_err();
        assert_eq!((refused.code(), refused.field()), ("recipient_opted_out", Some(field)));
    }
    for (accepted, lane) in [
        (api.react("LATER", "👍".to_owned(), Source::Cli).await, Lane::Reply),
        (reaction("LATER", "👍").await, Lane::Reply),
        (api.edit(&answer.to_string(), "jam 9".to_owned(), Source::Cli).await, Lane::Reply),
        (api.react("PRICE", String::new(), Source::Cli).await, Lane::Reply),
        (api.react(&ours, String::new(), Source::Cli).await, Lane::Reply),
        (reaction(&ours, "").await, Lane::Reply),
        (api.revoke(&ours, Source::Cli).await, Lane::Reply),
    ] {
        assert_eq!(lane_of(&world, accepted.unwrap().id.unwrap()).await, lane);
    }
    opts_in_again(&world).await;
    for edit in
        [api.edit(&ours, "Promo!".to_owned(), Source::Cli).await, api.react(&ours, "👍".to_owned(), Source::Cli).await]
    {
        assert_eq!(lane_of(&world, edit.unwrap().id.unwrap()).await, Lane::High);
    }
}

#[tokio::test]
async fn only_what_somebody_wrote_can_be_answered_and_no_limit_holds_that() {
    let world = World::new().await;
    budi_opts_out_and_writes_again(&world).await;
    opts_in_again(&world).await;
    for (setting, value) in [("queue.daily_cap", "1"), ("queue.delay", "0"), ("queue.jitter", "0")] {
        world.settings.set(setting, Some(value)).await.unwrap();
    }
    let one = |id: &str| {
        let Content::One { number, message } = quoting(id).content else { panic!("it is one") };
        PersonalMessage { number, message, reference_id: None }
    };
    let each = || Content::Each(["PRICE", "LATER", "TYPED", "TYPED"].map(one).into());
    let dry = SendRequest { content: each(), dry_run: true, ..SendRequest::default() };
    let fits = world.api.send(dry, Source::Api).await.unwrap().fits.unwrap();
    assert_eq!((fits.today, fits.later), (3, 1), "two answers, and one of the two others");
    let sent = world.api.send(SendRequest { content: each(), ..SendRequest::default() }, Source::Api).await.unwrap();
    for (message, lane) in sent.messages.iter().zip([Lane::Reply, Lane::Reply, Lane::Normal, Lane::Normal]) {
        assert_eq!(lane_of(&world, message.id.unwrap()).await, lane);
    }
}
