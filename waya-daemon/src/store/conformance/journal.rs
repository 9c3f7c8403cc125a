//! What the journal must do.

use std::time::Duration;

use super::{at, chat, enqueued, incoming, message};
use crate::model::{Ack, Change, ChatId, Cursor, EventBody, Incoming, LinkState, OfflineReason, ReceiptKind, Status};
use crate::store::{Contact, Keep, Store};

async fn bodies(store: &Store, cursor: Cursor) -> Vec<EventBody> {
    store.journal.after(cursor, 1000).await.unwrap().events.into_iter().map(|event| event.body).collect()
}

pub async fn incoming_is_recorded_once(store: &Store) {
    let a = incoming("A", "Halo", at(1));
    let batch = vec![a.clone(), incoming("B", "Hai", at(1)), a.clone()];
    assert_eq!(store.journal.record_incoming(batch).await, Ok(vec![true, true, false]));
    let elsewhere = Incoming { chat: chat(3), chat_lid: Some("3".to_owned()), ..a.clone() };
    let from_another = Incoming { sender: chat(4), sender_lid: Some("4".to_owned()), ..a.clone() };
    let batch = vec![a, elsewhere, from_another];
    assert_eq!(store.journal.record_incoming(batch).await, Ok(vec![false, true, true]));
    assert_eq!(bodies(store, Cursor(0)).await.len(), 4);
    assert_eq!(store.journal.record_incoming(Vec::new()).await, Ok(Vec::new()));
}

pub async fn an_incoming_message_is_found_by_its_id(store: &Store) {
    let first = incoming("A", "Halo", at(1));
    let second =
        Incoming { sender: chat(4), sender_lid: Some("4".to_owned()), text: "Hai".to_owned(), ..first.clone() };
    let other = incoming("AB", &"x".repeat(20_000), at(1));
    store.journal.record_incoming(vec![first, second.clone(), other.clone()]).await.unwrap();
    assert_eq!(store.journal.incoming("A").await, Ok(Some(second)), "the newest");
    assert_eq!(store.journal.incoming("AB").await, Ok(Some(other)));
    assert_eq!(store.journal.incoming("B").await, Ok(None));
    let keep = Keep { age: Duration::ZERO, newest: 0 };
    store.journal.prune_events(keep, at(1_000)).await.unwrap();
    assert_eq!(store.journal.incoming("A").await, Ok(None));
}

/// It came by LID, and comes again when the phone behind that is known; or the other way round.
pub async fn a_learnt_phone_makes_no_second_message(store: &Store) {
    let lid = || Some("1234567890".to_owned());
    let by_phone = incoming("A", "Halo", at(1));
    let unknown = ChatId::lid("1234567890");
    let by_lid = Incoming { chat: unknown.clone(), sender: unknown.clone(), ..by_phone.clone() };
    let bare = Incoming { chat_lid: None, sender_lid: None, ..by_phone.clone() };
    let in_group = |sender: &ChatId| Incoming {
        chat: ChatId::group("1203"),
        chat_lid: None,
        sender: sender.clone(),
        ..by_phone.clone()
    };
    let typed = |there: ChatId| Incoming {
        chat: there,
        chat_lid: lid(),
        sender: chat(9),
        sender_lid: Some("99".to_owned()),
        from_me: true,
        ..by_phone.clone()
    };
    let pairs = [
        (by_lid.clone(), by_phone.clone()),
        (by_phone.clone(), by_lid.clone()),
        (bare, by_phone.clone()),
        (in_group(&unknown), in_group(&chat(2))),
        (typed(unknown.clone()), typed(chat(2))),
    ];
    for (n, (first, again)) in pairs.into_iter().enumerate() {
        let (first, again) = (Incoming { id: n.to_string(), ..first }, Incoming { id: n.to_string(), ..again });
        assert_eq!(store.journal.record_incoming(vec![first]).await, Ok(vec![true]), "pair {n}");
        let contact = Contact { phone: chat(2).phone_number().map(str::to_owned), lid: lid(), ..Contact::default() };
        store.contacts.learn(vec![contact]).await.unwrap();
        assert_eq!(store.journal.record_incoming(vec![again.clone(), again]).await, Ok(vec![false, false]), "pair {n}");
        assert_eq!(bodies(store, Cursor(0)).await.len(), n + 1);
    }
}

pub async fn an_incoming_message_comes_back_whole(store: &Store) {
    let long = Incoming { raw: vec![7; 50_000], text: "é".repeat(5_000), ..incoming("A", "", at(1)) };
    let bare = Incoming {
        chat_lid: None,
        sender_lid: None,
        push_name: None,
        raw: vec![],
        from_me: true,
        ..incoming("B", "", at(2))
    };
    store.journal.record_incoming(vec![long.clone(), bare.clone()]).await.unwrap();
    let read = bodies(store, Cursor(0)).await;
    assert_eq!(read, [EventBody::Message(Box::new(long)), EventBody::Message(Box::new(bare))]);
    let page = store.journal.after(Cursor(0), 10).await.unwrap();
    assert_eq!(page.events.iter().map(|event| event.at).collect::<Vec<_>>(), [at(1), at(2)]);
}

pub async fn changes_are_journalled_but_claims_are_not(store: &Store) {
    let id = enqueued(store, message("Halo", at(1))).await;
    let receipt = |kind| Change::Receipt { kind, at: at(3) };
    let steps = [
        Change::Claim,
        Change::PutBack,
        Change::Claim,
        Change::Acked,
        Change::Acked,
        receipt(ReceiptKind::Delivered),
        receipt(ReceiptKind::Read),
        receipt(ReceiptKind::Read),
        Change::Claim,
    ];
    for step in steps {
        store.outbox.change(id, step, at(2)).await.unwrap();
    }
    let seen: Vec<(Status, Ack)> = bodies(store, Cursor(0))
        .await
        .into_iter()
        .map(|body| match body {
            EventBody::Status(changed) => {
                assert_eq!((changed.id, changed.chat), (id, chat(1)));
                (changed.status, changed.ack)
            }
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(seen, [(Status::Sent, Ack::Server), (Status::Sent, Ack::Device), (Status::Sent, Ack::Read)]);
}

pub async fn pages_go_on_where_they_stopped(store: &Store) {
    let mut all = Vec::new();
    for n in 0..7 {
        let state = LinkState::Offline { reason: OfflineReason(n.to_string()), retry_at: Some(at(n)) };
        all.push(EventBody::Link(state.clone()));
        store.journal.append(EventBody::Link(state), at(n)).await.unwrap();
    }
    let mut read = Vec::new();
    let mut cursor = Cursor(0);
    loop {
        let page = store.journal.after(cursor, 3).await.unwrap();
        assert!(page.events.is_sorted_by(|a, b| a.cursor < b.cursor));
        assert_eq!(page.next, page.events.last().map_or(cursor, |event| event.cursor));
        if page.events.is_empty() {
            break;
        }
        cursor = page.next;
        read.extend(page.events.into_iter().map(|event| event.body));
    }
    assert_eq!(read, all);
    let far = Cursor(cursor.0 + 1_000);
    assert_eq!(store.journal.after(far, 3).await.unwrap().next, far);
}

pub async fn newest_moves_with_appends(store: &Store) {
    let mut newest = store.journal.newest();
    let before = *newest.borrow_and_update();
    let cursor = store.journal.append(EventBody::Link(LinkState::Connected), at(1)).await.unwrap();
    assert!(cursor > before);
    newest.changed().await.unwrap();
    assert_eq!(*newest.borrow_and_update(), cursor);
    enqueued(store, message("x", at(1))).await;
    assert!(!newest.has_changed().unwrap(), "a message that only waits is no event");
}
