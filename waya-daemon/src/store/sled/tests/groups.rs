//! What holds for operations that are written together.

use std::sync::Arc;

use super::{fresh, options, until};
use crate::model::{Change, Incoming, NewMessage};
use crate::store::conformance::{at, enqueued, incoming, message};
use crate::store::sled::open;
use crate::store::{Batch, Enqueued, StoreError};

/// One bad operation among many at once: it alone fails.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_failing_operation_undoes_nothing_of_its_group() {
    let (store, _keep) = fresh();
    let taken = message("first", at(1));
    enqueued(&store, taken.clone()).await;
    let mut asking = tokio::task::JoinSet::new();
    for n in 0..200 {
        // Every fourth has a good row and then one whose id is taken: neither may stay.
        let good = NewMessage { reference_id: Some("good".to_owned()), ..message("x", at(2)) };
        let bad = n % 4 == 0;
        let messages = if bad {
            vec![NewMessage { reference_id: Some("bad".to_owned()), ..good }, taken.clone()]
        } else {
            vec![good]
        };
        let outbox = Arc::clone(&store.outbox);
        asking.spawn(async move { (bad, outbox.enqueue(Batch { messages, idempotency: None }).await) });
    }
    for (bad, answer) in asking.join_all().await {
        assert_eq!(answer.is_err(), bad, "{answer:?}");
    }
    assert_eq!(store.outbox.by_reference("good", 1_000).await.unwrap().len(), 150);
    assert_eq!(store.outbox.by_reference("bad", 1_000).await, Ok(Vec::new()));
    assert_eq!(store.outbox.counts().await.unwrap().pending, 151);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_operation_sees_the_earlier_ones_of_its_group() {
    let (store, _keep) = fresh();
    let id = enqueued(&store, message("x", at(1))).await;
    let mut asking = tokio::task::JoinSet::new();
    for _ in 0..64 {
        let outbox = Arc::clone(&store.outbox);
        asking.spawn(async move { outbox.change(id, Change::Claim, at(2)).await.unwrap() });
    }
    let claimed = asking.join_all().await;
    let won = claimed.iter().filter(|answer| matches!(answer, crate::store::Changed::Yes(_))).count();
    assert_eq!(won, 1);
    assert_eq!(store.outbox.message(id).await.unwrap().unwrap().attempts, 1);
}

/// sled never fsyncs its own blob files: nothing we write may end there.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_blob_file_of_sled_ever_appears() {
    let (store, (handle, dir)) = fresh();
    for n in 0..60_usize {
        let sizes = [8_000, 8_192, 10_000, 16_000, 65_536 * 4];
        let text = "x".repeat(sizes[n % sizes.len()] + n);
        let messages = (0..20).map(|_| message(&text, at(1))).collect();
        assert_eq!(store.outbox.enqueue(Batch { messages, idempotency: None }).await, Ok(Enqueued::Fresh));
        let raw = Incoming { raw: vec![7; 100_000], ..incoming(&n.to_string(), &text, at(1)) };
        store.journal.record_incoming(vec![raw]).await.unwrap();
        store.values.put("marks", &n.to_string(), Some(vec![1; 20_000])).await.unwrap();
    }
    let blobs = std::fs::read_dir(dir.path().join("store/db/blobs")).unwrap().count();
    assert_eq!(blobs, 0);
    drop((store, handle));
    let blobs = std::fs::read_dir(dir.path().join("store/db/blobs")).unwrap().count();
    assert_eq!(blobs, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_long_text_is_kept_once_and_goes_with_its_last_message() {
    let (store, (handle, dir)) = fresh();
    let files = || std::fs::read_dir(dir.path().join("store/bodies")).unwrap().count();
    let long = "x".repeat(65_536);
    let mut ids = Vec::new();
    for _ in 0..3 {
        ids.push(enqueued(&store, message(&long, at(1))).await);
    }
    assert_eq!(files(), 1);
    let nothing = crate::store::Keep { age: std::time::Duration::ZERO, newest: 0 };
    for (left, id) in ids.into_iter().enumerate().map(|(n, id)| (2 - n, id)) {
        store.outbox.change(id, Change::Cancel, at(2)).await.unwrap();
        assert_eq!(store.outbox.prune(nothing, at(60)).await, Ok(1));
        assert_eq!(files(), usize::from(left > 0), "{left} messages name it");
    }
    // A file that a crash left unnamed goes with the scrub of the next start.
    drop((store, handle));
    std::fs::write(dir.path().join("store/bodies").join("ab".repeat(32)), b"half").unwrap();
    let _opened = open(options(dir.path())).unwrap();
    until("the unnamed file is gone", async || files() == 0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn too_long_a_record_is_refused_alone() {
    let (store, _keep) = fresh();
    let new = NewMessage { reference_id: Some("r".repeat(20_000)), ..message("x", at(1)) };
    let answer = store.outbox.enqueue(Batch { messages: vec![new], idempotency: None }).await;
    assert!(matches!(answer, Err(StoreError::Damaged(_))), "{answer:?}");
    enqueued(&store, message("x", at(1))).await;
    assert_eq!(store.outbox.counts().await.unwrap().pending, 1);
}
