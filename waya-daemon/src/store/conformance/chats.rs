//! What the chat list must do.

use super::at;
use crate::model::{ChatId, ListedChat, PushName};
use crate::store::{Contact, Store};

fn phone() -> ChatId {
    ChatId::phone("62812")
}

fn person(phone: Option<&str>, lid: Option<&str>) -> Contact {
    Contact { phone: phone.map(str::to_owned), lid: lid.map(str::to_owned), ..Contact::default() }
}

fn named(id: ChatId, name: &str) -> ListedChat {
    ListedChat { name: Some(name.to_owned()), ..ListedChat::new(id) }
}

async fn learn(store: &Store, chats: impl IntoIterator<Item = ListedChat>) {
    store.chats.learn(chats.into_iter().collect()).await.unwrap();
}

pub async fn a_chat_comes_back_whole(store: &Store) {
    let group = ListedChat {
        last_activity: Some(at(5)),
        archived: Some(false),
        pinned_at: Some(at(4)),
        muted_until: Some(at(9)),
        ..named(ChatId::group("1203"), "Keluarga")
    };
    learn(store, [group.clone(), ListedChat::new(phone())]).await;
    assert_eq!(store.chats.chat(&group.id).await, Ok(Some(group)));
    assert_eq!(store.chats.chat(&phone()).await, Ok(Some(ListedChat::new(phone()))));
    assert_eq!(store.chats.chat(&ChatId::phone("62813")).await, Ok(None));
    assert_eq!(store.chats.count().await, Ok(2));
}

pub async fn what_is_not_told_again_stays(store: &Store) {
    let first = ListedChat { last_activity: Some(at(5)), archived: Some(true), ..named(phone(), "Budi") };
    let second = ListedChat { last_activity: Some(at(3)), pinned_at: Some(at(3)), ..ListedChat::new(phone()) };
    let third = ListedChat { archived: Some(false), ..named(phone(), "Budi S.") };
    learn(store, [first, second]).await;
    learn(store, [third]).await;
    let now = ListedChat {
        last_activity: Some(at(5)),
        archived: Some(false),
        pinned_at: Some(at(3)),
        ..named(phone(), "Budi S.")
    };
    assert_eq!(store.chats.chat(&phone()).await, Ok(Some(now)));
}

pub async fn the_chats_of_phone_and_lid_are_one(store: &Store) {
    let lid = ChatId::lid("999");
    learn(store, [named(lid.clone(), "Budi")]).await;
    assert_eq!(store.chats.chat(&lid).await.unwrap().map(|chat| chat.id), Some(lid.clone()));
    learn(store, [ListedChat { lid: Some("999".to_owned()), archived: Some(true), ..ListedChat::new(phone()) }]).await;
    let one = ListedChat { lid: Some("999".to_owned()), archived: Some(true), ..named(phone(), "Budi") };
    assert_eq!(store.chats.chat(&phone()).await, Ok(Some(one.clone())));
    assert_eq!(store.chats.chat(&lid).await, Ok(Some(one)));
    assert_eq!(store.chats.count().await, Ok(1));
}

pub async fn chats_become_one_when_their_people_do(store: &Store) {
    let by_lid = ListedChat { last_activity: Some(at(7)), ..named(ChatId::lid("999"), "Budi") };
    learn(store, [ListedChat { archived: Some(true), ..ListedChat::new(phone()) }, by_lid]).await;
    assert_eq!(store.chats.count().await, Ok(2));
    store.contacts.learn(vec![person(Some("62812"), Some("999"))]).await.unwrap();
    let one = ListedChat {
        lid: Some("999".to_owned()),
        last_activity: Some(at(7)),
        archived: Some(true),
        ..named(phone(), "Budi")
    };
    assert_eq!(store.chats.chat(&phone()).await, Ok(Some(one)));
    assert_eq!(store.chats.count().await, Ok(1));
    assert_eq!(store.contacts.count().await, Ok(1));
}

pub async fn nothing_is_left_of_a_forgotten_account(store: &Store) {
    let many = (0..2_500).map(|n| named(ChatId::phone(&format!("62812{n:05}")), "Budi"));
    learn(store, many.chain([named(ChatId::group("1203"), "Keluarga")])).await;
    let name = PushName { text: "Siti".to_owned(), at: at(1) };
    store.contacts.learn(vec![Contact { push_name: Some(name), ..person(None, Some("999")) }]).await.unwrap();
    assert_eq!((store.contacts.count().await, store.chats.count().await), (Ok(2_501), Ok(2_501)));
    store.contacts.forget_all().await.unwrap();
    assert_eq!((store.contacts.count().await, store.chats.count().await), (Ok(0), Ok(0)));
    assert_eq!(store.contacts.by_lid("999").await, Ok(None));
    assert_eq!(store.contacts.by_phone("6281202499").await, Ok(None));
    assert_eq!(store.chats.chat(&ChatId::group("1203")).await, Ok(None));

    learn(store, [ListedChat::new(ChatId::phone("6281200001"))]).await;
    let fresh = store.chats.chat(&ChatId::phone("6281200001")).await.unwrap();
    assert_eq!(fresh.and_then(|chat| chat.name), None, "nothing of the old row comes back");
}
