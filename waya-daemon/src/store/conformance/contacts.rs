//! What the address book must do.

use super::{at, chat, incoming};
use crate::model::{ChatId, Incoming, PushName};
use crate::store::{Contact, Store};

fn contact(phone: Option<&str>, lid: Option<&str>, push_name: Option<&str>) -> Contact {
    let text = |text: Option<&str>| text.map(str::to_owned);
    let push_name = push_name.map(|name| said(name, 1));
    Contact { phone: text(phone), lid: text(lid), push_name, ..Contact::default() }
}

fn said(name: &str, seconds: u64) -> PushName {
    PushName { text: name.to_owned(), at: at(seconds) }
}

async fn learn(store: &Store, contacts: impl IntoIterator<Item = Contact>) {
    store.contacts.learn(contacts.into_iter().collect()).await.unwrap();
}

pub async fn nobody_is_nobody(store: &Store) {
    learn(store, [contact(None, None, Some("nobody"))]).await;
    assert_eq!(store.contacts.by_phone("62812").await, Ok(None));
    assert_eq!(store.contacts.by_lid("62812").await, Ok(None));
}

pub async fn phone_and_lid_become_one(store: &Store) {
    learn(store, [contact(Some("62812"), None, Some("Budi"))]).await;
    learn(store, [contact(Some("62812"), Some("999"), None)]).await;
    let both = contact(Some("62812"), Some("999"), Some("Budi"));
    assert_eq!(store.contacts.by_phone("62812").await, Ok(Some(both.clone())));
    assert_eq!(store.contacts.by_lid("999").await, Ok(Some(both)));
    assert_eq!(store.contacts.by_phone("999").await, Ok(None), "a LID is no phone");
}

pub async fn two_rows_become_one(store: &Store) {
    let by_phone = Contact { registered: Some((true, at(5))), ..contact(Some("62812"), None, None) };
    let by_lid = contact(None, Some("999"), Some("Budi"));
    learn(store, [by_phone, by_lid, contact(Some("62812"), Some("999"), None)]).await;
    let one = Contact { registered: Some((true, at(5))), ..contact(Some("62812"), Some("999"), Some("Budi")) };
    assert_eq!(store.contacts.by_phone("62812").await, Ok(Some(one.clone())));
    assert_eq!(store.contacts.by_lid("999").await, Ok(Some(one)));
}

pub async fn a_new_lid_replaces_the_old_one(store: &Store) {
    learn(store, [contact(Some("62812"), Some("999"), Some("Budi"))]).await;
    learn(store, [contact(Some("62812"), Some("777"), None)]).await;
    let now = contact(Some("62812"), Some("777"), Some("Budi"));
    assert_eq!(store.contacts.by_phone("62812").await, Ok(Some(now.clone())));
    assert_eq!(store.contacts.by_lid("777").await, Ok(Some(now)));
    assert_eq!(store.contacts.by_lid("999").await, Ok(None));
}

pub async fn a_merge_leaves_no_old_lid_behind(store: &Store) {
    let rows = [contact(None, Some("333"), Some("Budi")), contact(Some("62812"), Some("222"), None)];
    learn(store, rows).await;
    learn(store, [contact(Some("62812"), Some("333"), None)]).await;
    assert_eq!(store.contacts.by_lid("222").await, Ok(None));
    assert_eq!(store.contacts.by_lid("333").await, Ok(Some(contact(Some("62812"), Some("333"), Some("Budi")))));
}

pub async fn the_later_word_on_registration_wins(store: &Store) {
    let said = |yes, seconds| Contact { registered: Some((yes, at(seconds))), ..contact(Some("62812"), None, None) };
    learn(store, [said(true, 10), said(false, 5)]).await;
    assert_eq!(store.contacts.by_phone("62812").await.unwrap().unwrap().registered, Some((true, at(10))));
    learn(store, [said(false, 11)]).await;
    assert_eq!(store.contacts.by_phone("62812").await.unwrap().unwrap().registered, Some((false, at(11))));
}

pub async fn the_newest_name_wins(store: &Store) {
    let named = |name, seconds| Contact { push_name: Some(said(name, seconds)), ..contact(Some("62812"), None, None) };
    let now = async || store.contacts.by_phone("62812").await.unwrap().unwrap().push_name;
    learn(store, [named("Budi", 10), named("Budi S.", 12), named("Bud", 11)]).await;
    assert_eq!(now().await, Some(said("Budi S.", 12)));
    learn(store, [contact(Some("62812"), Some("999"), None), contact(None, Some("888"), Some("old"))]).await;
    learn(store, [contact(Some("62812"), Some("888"), None)]).await;
    assert_eq!(now().await, Some(said("Budi S.", 12)), "an older name of a row that is merged does not count");
    assert_eq!(store.contacts.count().await, Ok(1));
}

pub async fn who_wrote_in_private_is_known(store: &Store) {
    let first = Incoming { timestamp: at(7), ..incoming("A", "Halo", at(8)) };
    let later = incoming("B", "Halo?", at(9));
    let by_lid = Incoming { chat: ChatId::lid("99"), sender: ChatId::lid("99"), ..incoming("C", "Halo", at(3)) };
    let own = Incoming { chat: chat(3), from_me: true, ..incoming("D", "Halo", at(1)) };
    let in_group = Incoming { chat: ChatId::group("120363"), sender: chat(4), ..incoming("E", "Halo", at(1)) };
    store.journal.record_incoming(vec![later, first, by_lid, own, in_group]).await.unwrap();
    let wrote =
        async |phone: ChatId| store.contacts.by_phone(phone.user()).await.unwrap().and_then(|contact| contact.wrote_at);
    assert_eq!(wrote(chat(2)).await, Some(at(7)));
    assert_eq!((wrote(chat(3)).await, wrote(chat(4)).await), (None, None));
    learn(store, [contact(Some(chat(3).user()), Some("99"), Some("Siti"))]).await;
    assert_eq!(wrote(chat(3)).await, Some(at(3)), "phone and LID are one person");
}
