//! Who is on the do-not-send list, whatever is delivered again and whoever turns out to be one person.

use super::opt_outs::{By, OptOuts};
use crate::api::testing::memory;
use crate::model::{ChatId, Timestamp};
use crate::store::{Contact, Store};

const fn at(seconds: u64) -> Timestamp {
    Timestamp::from_millis(1_800_000_000_000 + seconds * 1_000)
}

fn budi() -> ChatId {
    ChatId::phone("6281200000002")
}

async fn open(store: &Store) -> OptOuts {
    OptOuts::open(store.clone()).await.unwrap()
}

#[tokio::test]
async fn the_last_word_counts_and_outlives_a_restart() {
    let (_memory, store) = memory();
    let list = open(&store).await;
    assert!(!list.has(&budi()).await.unwrap());
    assert!(list.said(&budi(), true, at(1), By::Person, false).await.unwrap());
    assert!(list.has(&budi()).await.unwrap() && open(&store).await.has(&budi()).await.unwrap());
    assert!(list.said(&budi(), false, at(2), By::Person, false).await.unwrap());
    // WhatsApp delivers the first one again.
    for list in [list, open(&store).await] {
        assert!(!list.said(&budi(), true, at(1), By::Person, true).await.unwrap());
        assert!(!list.has(&budi()).await.unwrap() && list.list().is_empty());
    }
}

#[tokio::test]
async fn within_one_second_the_order_of_coming_decides() {
    let (_memory, store) = memory();
    let list = open(&store).await;
    list.said(&budi(), true, at(1), By::Person, false).await.unwrap();
    list.said(&budi(), false, at(1), By::Person, false).await.unwrap();
    list.said(&budi(), true, at(1), By::Person, true).await.unwrap();
    assert!(!list.has(&budi()).await.unwrap());
}

#[tokio::test]
async fn what_was_written_since_may_be_answered_until_the_word_is_said_again() {
    let (_memory, store) = memory();
    let list = open(&store).await;
    assert!(!list.refuses(&budi(), None).await.unwrap());
    list.said(&budi(), true, at(2), By::Person, false).await.unwrap();
    for list in [&list, &open(&store).await] {
        assert!(list.refuses(&budi(), None).await.unwrap());
        assert!(list.refuses(&budi(), Some(at(2))).await.unwrap(), "the word itself is no question");
        assert!(!list.refuses(&budi(), Some(at(3))).await.unwrap());
    }
    list.said(&budi(), true, at(4), By::Person, false).await.unwrap();
    assert!(list.refuses(&budi(), Some(at(3))).await.unwrap() && list.refuses(&budi(), Some(at(4))).await.unwrap());
    assert!(!list.refuses(&budi(), Some(at(5))).await.unwrap());
    list.said(&budi(), false, at(6), By::Person, false).await.unwrap();
    assert!(!list.refuses(&budi(), None).await.unwrap());
}

#[tokio::test]
async fn phone_and_lid_are_one_person() {
    let (_memory, store) = memory();
    let (list, lid) = (open(&store).await, ChatId::lid("991"));
    list.said(&lid, true, at(1), By::Person, false).await.unwrap();
    assert!(!list.has(&budi()).await.unwrap(), "nobody knows yet");
    let pair = Contact { phone: Some("6281200000002".to_owned()), lid: Some("991".to_owned()), ..Contact::default() };
    store.contacts.learn(vec![pair]).await.unwrap();
    assert!(list.has(&budi()).await.unwrap() && list.has(&lid).await.unwrap());
    list.said(&budi(), false, at(2), By::Hand, false).await.unwrap();
    assert!(!list.has(&lid).await.unwrap());
    list.said(&lid, true, at(3), By::Person, false).await.unwrap();
    let listed: Vec<_> = open(&store).await.list().into_iter().map(|one| one.chat).collect();
    assert_eq!(listed, [budi()], "once");
}

#[tokio::test]
async fn what_the_store_did_not_take_was_not_said() {
    let (memory, store) = memory();
    let list = open(&store).await;
    memory.set_down(true);
    list.said(&budi(), true, at(1), By::Person, false).await.unwrap_err();
    memory.set_down(false);
    assert!(!list.has(&budi()).await.unwrap());
    assert!(!list.said(&budi(), false, at(1), By::Hand, false).await.unwrap(), "nobody was there");
    let group = ChatId::group("120363");
    assert!(!list.has(&group).await.unwrap());
}
