//! Who wrote before that was kept on people's rows: read once from the journal, behind everything else.
//!
//! Woken once, at the start; a run that was broken off is begun again by the next one.

use crate::model::{Cursor, EventBody};
use crate::store::{Contact, Store, StoreError};

/// So many events are read at once.
const AT_ONCE: usize = 500;
/// Where the store says that it has been done.
const DONE: (&str, &str) = ("marks", "contacts.writers_read");

/// Reads the journal of an older store, once it can be read.
pub async fn learn(store: Store) {
    while let Err(error) = read(&store).await {
        if matches!(error, StoreError::Damaged(_)) {
            tracing::warn!(%error, "who wrote before is not known");
            return;
        }
        store.come_back().await;
    }
}

async fn read(store: &Store) -> Result<(), StoreError> {
    if store.values.get(DONE.0, DONE.1).await?.is_some() {
        return Ok(());
    }
    let mut cursor = Cursor(0);
    loop {
        let page = store.journal.after(cursor, AT_ONCE).await?;
        if page.next == cursor {
            break;
        }
        let writers = page.events.iter().filter_map(|event| match &event.body {
            EventBody::Message(incoming) => Contact::of_writer(incoming),
            EventBody::Status(_) | EventBody::Link(_) => None,
        });
        store.contacts.learn(writers.collect()).await?;
        cursor = page.next;
    }
    store.values.put(DONE.0, DONE.1, Some(b"1".to_vec())).await
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::testing::{incoming, memory};
    use crate::model::{ChatId, Incoming, LinkState, Timestamp};

    #[tokio::test]
    async fn an_older_journal_is_read_once() {
        let (_memory, store) = memory();
        let budi = ChatId::phone("6281200000002");
        let said = Incoming { chat: budi.clone(), sender: budi, ..incoming("A", "Halo") };
        let at = Timestamp::from_millis(1);
        store.journal.append(EventBody::Link(LinkState::Connected), at).await.unwrap();
        store.journal.append(EventBody::Message(Box::new(said)), at).await.unwrap();
        let wrote = async || store.contacts.by_phone("6281200000002").await.unwrap().and_then(|one| one.wrote_at);
        assert_eq!(wrote().await, None);
        learn(store.clone()).await;
        assert!(wrote().await.is_some());
        // People belong to an account; its journal is not read for the next one.
        store.contacts.forget_all().await.unwrap();
        learn(store.clone()).await;
        assert_eq!(wrote().await, None);
    }
}
