//! What retention must do.

use std::time::Duration;

use super::{at, enqueued, incoming, message, new_id};
use crate::model::{Change, ChatId, Cursor, Incoming, MessageId, NewMessage, Status};
use crate::store::{Batch, Counts, Enqueued, Idempotency, Keep, Known, ListFilter, Store};

const fn keep(seconds: u64, newest: usize) -> Keep {
    Keep { age: Duration::from_secs(seconds), newest }
}

async fn prune_all(store: &Store, keep: Keep, seconds: u64) -> usize {
    let mut removed = 0;
    loop {
        match store.outbox.prune(keep, at(seconds)).await.unwrap() {
            0 => return removed,
            more => removed += more,
        }
    }
}

async fn left(store: &Store) -> Vec<MessageId> {
    let filter = ListFilter { limit: 1_000, ..ListFilter::default() };
    let mut ids: Vec<_> = store.outbox.list(filter).await.unwrap().into_iter().map(|message| message.id).collect();
    ids.reverse();
    ids
}

/// Six messages: the first stays open, the others finish at once, but the second only at 50 s.
async fn six(store: &Store) -> Vec<MessageId> {
    let mut ids = Vec::new();
    for n in 0..6 {
        ids.push(enqueued(store, message("x", at(n))).await);
    }
    for id in &ids[2..] {
        store.outbox.change(*id, Change::Cancel, at(6)).await.unwrap();
    }
    store.outbox.change(ids[1], Change::Cancel, at(50)).await.unwrap();
    ids
}

pub async fn what_is_young_or_among_the_newest_stays(store: &Store) {
    let ids = six(store).await;
    assert_eq!(prune_all(store, keep(100, 0), 60).await, 0, "all is young");
    assert_eq!(prune_all(store, keep(20, 5), 60).await, 0, "all is among the newest");
    assert_eq!(prune_all(store, keep(20, 2), 60).await, 2);
    assert_eq!(left(store).await, [ids[0], ids[1], ids[4], ids[5]], "one open, one young, two newest");
    assert_eq!(prune_all(store, keep(0, 0), 1_000).await, 3);
    assert_eq!(left(store).await, [ids[0]]);
    let counts = store.outbox.counts().await.unwrap();
    assert_eq!((counts.pending, counts.cancelled), (1, 0));
}

pub async fn what_is_open_holds_nothing_back(store: &Store) {
    let scheduled = (0..12_000).map(|_| message("x", at(1))).collect();
    store.outbox.enqueue(Batch { messages: scheduled, idempotency: None }).await.unwrap();
    let id = enqueued(store, message("x", at(2))).await;
    store.outbox.change(id, Change::Cancel, at(3)).await.unwrap();
    assert_eq!(prune_all(store, keep(0, 0), 60).await, 1);
    assert_eq!(store.outbox.message(id).await, Ok(None));
    assert_eq!(store.outbox.counts().await.unwrap().pending, 12_000);
}

pub async fn forgotten_requests_go(store: &Store) {
    let keep_for = Duration::from_secs(10);
    let asked = Idempotency { key: [1; 32], body: [1; 32], at: at(1), keep: keep_for, positions: vec![1] };
    let batch = Batch { messages: vec![message("x", at(1))], idempotency: Some(asked.clone()) };
    assert_eq!(store.outbox.enqueue(batch).await, Ok(Enqueued::Fresh));
    assert_eq!(prune_all(store, keep(1_000, 1_000), 5).await, 0);
    assert_eq!(prune_all(store, keep(1_000, 1_000), 12).await, 1);
    let batch = Batch { messages: vec![message("x", at(2))], idempotency: Some(asked) };
    assert_eq!(store.outbox.enqueue(batch).await, Ok(Enqueued::Fresh), "it is forgotten, whatever the clock says");
}

pub async fn old_events_go_and_cursors_go_on(store: &Store) {
    for n in 0..6 {
        store.journal.record_incoming(vec![incoming(&n.to_string(), "x", at(n))]).await.unwrap();
    }
    assert_eq!(store.journal.prune_events(keep(100, 0), at(6)).await, Ok(0), "all is young");
    assert_eq!(store.journal.prune_events(keep(0, 6), at(60)).await, Ok(0), "all is among the newest");
    assert_eq!(store.journal.prune_events(keep(0, 2), at(60)).await, Ok(4));
    let page = store.journal.after(Cursor(0), 10).await.unwrap();
    assert_eq!(page.events.iter().map(|event| event.at).collect::<Vec<_>>(), [at(4), at(5)]);
    assert_eq!(store.journal.prune_events(keep(0, 0), at(60)).await, Ok(2));
    let newest = *store.journal.newest().borrow();
    assert_eq!(newest, page.next);
    store.journal.record_incoming(vec![incoming("later", "x", at(70))]).await.unwrap();
    let page = store.journal.after(newest, 10).await.unwrap();
    assert_eq!(page.events.len(), 1, "a cursor is never given out twice");
}

pub async fn what_was_pruned_leaves_nothing_behind(store: &Store) {
    let new = NewMessage { reference_id: Some("r".to_owned()), ..message(&"x".repeat(20_000), at(1)) };
    let whatsapp_id = new.whatsapp_id.clone();
    let id = enqueued(store, new).await;
    for change in [Change::Claim, Change::Acked] {
        store.outbox.change(id, change, at(2)).await.unwrap();
    }
    assert_eq!(prune_all(store, keep(0, 0), 60).await, 1);
    assert_eq!(store.outbox.message(id).await, Ok(None));
    assert_eq!(store.outbox.by_reference("r", 10).await, Ok(Vec::new()));
    assert_eq!(store.outbox.by_whatsapp_id(&whatsapp_id).await, Ok(None));
    let first = incoming("A", "x", at(1));
    let by_lid = ChatId::lid("1234567890");
    let by_lid = Incoming { chat: by_lid.clone(), sender: by_lid, ..first.clone() };
    for again in [first.clone(), by_lid, first] {
        let recorded = store.journal.record_incoming(vec![again]).await;
        assert_eq!(recorded, Ok(vec![true]), "it is forgotten with its event, under either address");
        store.journal.prune_events(keep(0, 0), at(60)).await.unwrap();
    }
}

pub async fn what_is_cleared_goes_and_its_request_is_remembered(store: &Store) {
    let asked = |seconds| Idempotency {
        key: [1; 32],
        body: [1; 32],
        at: at(seconds),
        keep: Duration::from_secs(100),
        positions: vec![3, 4, 5],
    };
    let new = |text: &str| NewMessage { reference_id: Some("r".to_owned()), ..message(text, at(1)) };
    let messages = vec![new("sent"), new(&"x".repeat(20_000)), new("pending")];
    let known: Vec<Known> = messages.iter().zip(3..).map(|(one, position)| Known::new(one, position)).collect();
    let [sent, failed, pending] = [0, 1, 2].map(|nth: usize| messages[nth].id);
    let batch = Batch { messages, idempotency: Some(asked(1)) };
    assert_eq!(store.outbox.enqueue(batch).await, Ok(Enqueued::Fresh));
    for (id, change) in [
        (sent, Change::Claim),
        (sent, Change::Acked),
        (failed, Change::Failed { reason: "no".to_owned() }),
        (pending, Change::Claim),
    ] {
        store.outbox.change(id, change, at(2)).await.unwrap();
    }
    let events = store.journal.after(Cursor(0), 10).await.unwrap().events;
    let all = || vec![sent, failed, pending, new_id(at(3))];
    for (status, count) in [(Status::Sent, 1), (Status::Sent, 0), (Status::Failed, 1), (Status::Cancelled, 0)] {
        assert_eq!(store.outbox.remove(all(), status).await, Ok(count), "{status:?}");
    }
    assert_eq!(store.outbox.remove(all(), Status::Sending).await, Ok(0), "what is open stays, whatever is asked");
    assert_eq!(store.outbox.message(sent).await, Ok(None));
    let left: Vec<_> = store.outbox.by_reference("r", 10).await.unwrap().into_iter().map(|one| one.id).collect();
    assert_eq!(left, [pending]);
    assert_eq!(store.outbox.counts().await, Ok(Counts { sending: 1, ..Counts::default() }));
    assert_eq!(store.journal.after(Cursor(0), 10).await.unwrap().events, events);
    assert_eq!(store.outbox.known(&asked(3)).await, Ok(Some(Enqueued::Repeat(known))));
}
