//! Closing, opening again, and what is checked then.

use super::{fresh, options};
use crate::model::{Change, Cursor, EventBody, LinkState, Status};
use crate::store::conformance::{at, enqueued, message};
use crate::store::sled::{OpenError, Opened, open};
use crate::store::{Batch, Contact, StoreError, StoreHealth};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn everything_is_there_again_and_sending_rows_are_left_alone() {
    let (store, (handle, dir)) = fresh();
    let id = enqueued(&store, message(&"long ".repeat(10_000), at(1))).await;
    store.outbox.change(id, Change::Claim, at(2)).await.unwrap();
    store.values.put("settings", "a", Some(b"1".to_vec())).await.unwrap();
    let cursor = store.journal.append(EventBody::Link(LinkState::Connected), at(3)).await.unwrap();
    let contact = Contact { phone: Some("62812".to_owned()), ..Contact::default() };
    store.contacts.learn(vec![contact.clone()]).await.unwrap();
    let before = store.outbox.message(id).await.unwrap();
    handle.close();
    assert!(matches!(store.outbox.message(id).await, Err(StoreError::Unavailable(_))));
    assert!(matches!(*store.health.borrow(), StoreHealth::Down(_)));

    let Opened { store, handle: _handle } = open(options(dir.path())).unwrap();
    let after = store.outbox.message(id).await.unwrap();
    assert_eq!(after, before);
    assert_eq!(after.unwrap().status, Status::Sending);
    assert_eq!(store.values.get("settings", "a").await, Ok(Some(b"1".to_vec())));
    assert_eq!(*store.journal.newest().borrow(), cursor);
    assert_eq!(store.journal.after(Cursor(0), 10).await.unwrap().events.len(), 1);
    assert_eq!(store.contacts.by_phone("62812").await, Ok(Some(contact)));
    assert_eq!(*store.health.borrow(), StoreHealth::Ready);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_asked_before_the_close_is_answered() {
    let (store, (handle, _dir)) = fresh();
    let mut asking = tokio::task::JoinSet::new();
    for _ in 0..200 {
        let outbox = std::sync::Arc::clone(&store.outbox);
        let batch = Batch { messages: vec![message("x", at(1))], idempotency: None };
        asking.spawn(async move { outbox.enqueue(batch).await });
    }
    tokio::task::spawn_blocking(move || handle.close()).await.unwrap();
    for answer in asking.join_all().await {
        assert!(matches!(answer, Ok(_) | Err(StoreError::Unavailable(_))), "{answer:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_second_opening_of_the_same_folder_is_refused() {
    let (_store, (_handle, dir)) = fresh();
    let refused = open(options(dir.path())).unwrap_err();
    assert!(matches!(refused, OpenError::Io { .. }), "{refused}");
}

/// 10,000 messages must be no matter at the start.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_thousand_messages_open_fast() {
    let (store, (handle, dir)) = fresh();
    for _ in 0..10 {
        let messages: Vec<_> = (0..1_000).map(|_| message(&"x".repeat(200), at(1))).collect();
        store.outbox.enqueue(Batch { messages, idempotency: None }).await.unwrap();
    }
    handle.close();
    let mut best = std::time::Duration::MAX;
    for _ in 0..5 {
        let begun = std::time::Instant::now();
        let opened = open(options(dir.path())).unwrap();
        best = best.min(begun.elapsed());
        assert_eq!(opened.store.outbox.counts().await.unwrap().pending, 10_000);
    }
    // Generous, for a build without optimisation on a busy machine; it is a few tens of milliseconds.
    assert!(best < std::time::Duration::from_secs(1), "{best:?}");
}
