//! The wrapper whose n-th call fails, over the real engine.

use super::fresh;
use crate::store::conformance::{at, message};
use crate::store::failing::{When, failing};
use crate::store::{Batch, Enqueued, StoreError};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_the_chosen_call_fails_before_or_after_it_was_done() {
    let (store, _keep) = fresh();
    let (store, failures) = failing(store);
    let enqueue = async || {
        let batch = Batch { messages: vec![message("x", at(1))], idempotency: None };
        store.outbox.enqueue(batch).await
    };
    for (when, there) in [(When::Before, 1), (When::After, 4)] {
        failures.fail(2, when);
        assert_eq!(enqueue().await, Ok(Enqueued::Fresh));
        assert!(matches!(enqueue().await, Err(StoreError::Unavailable(_))));
        if when == When::Before {
            assert_eq!(store.outbox.counts().await.unwrap().pending, there);
            assert_eq!(enqueue().await, Ok(Enqueued::Fresh));
        } else {
            assert_eq!(store.outbox.counts().await.unwrap().pending, there, "it was done");
        }
    }
    assert_eq!(failures.calls(), 7);
}
