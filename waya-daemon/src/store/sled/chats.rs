//! The chat list. A private chat hangs on its person's row, so that phone and LID are one chat and the address shown
//! is always the newest; every other chat stands under its own address.

use async_trait::async_trait;
use prost::Message as _;
use sled::IVec;

use super::codec::{self, Bad};
use super::contacts::{self, MAX_NAME};
use super::group::Group;
use super::records::cut;
use super::rows::Rows;
use super::shared::ReadError;
use super::trees::Tree;
use crate::model::{ChatId, ChatKind, ListedChat, Timestamp};
use crate::store::{ChatList, Contact, StoreError};

/// What the keys of private chats begin with, before the row number …
const PERSON: u8 = b'p';
/// … and those of all others, before the address.
const OTHER: u8 = b'o';

/// One chat, without its address.
#[derive(Clone, PartialEq, prost::Message)]
struct ChatRecord {
    #[prost(string, optional, tag = "1")]
    name: Option<String>,
    #[prost(uint64, optional, tag = "2")]
    last_activity: Option<u64>,
    #[prost(bool, optional, tag = "3")]
    archived: Option<bool>,
    #[prost(uint64, optional, tag = "4")]
    pinned_at: Option<u64>,
    #[prost(uint64, optional, tag = "5")]
    muted_until: Option<u64>,
}

#[async_trait]
impl ChatList for Rows {
    async fn learn(&self, chats: Vec<ListedChat>) -> Result<(), StoreError> {
        self.0.commit(move |group| chats.into_iter().try_for_each(|learnt| learn(group, learnt))).await
    }

    async fn chat(&self, id: &ChatId) -> Result<Option<ListedChat>, StoreError> {
        self.0.read(|engine| {
            let (key, found) = match index_of(id) {
                None => (key(OTHER, id.as_str().as_bytes()), ListedChat::new(id.clone())),
                Some(index) => {
                    let Some(row) = engine.tree(index).get(id.user())? else { return Ok(None) };
                    let Some(person) = self.contact_at(engine, &row)? else { return Ok(None) };
                    (key(PERSON, &row), private(id, person))
                }
            };
            let Some(record) = engine.tree(Tree::Chats).get(&key)? else { return Ok(None) };
            let told = read(found, &key, &record).map_err(|bad| self.0.set_aside(Tree::Chats, &key, &record, &bad));
            Ok::<_, ReadError>(Some(told?))
        })
    }

    async fn count(&self) -> Result<u64, StoreError> {
        Ok(*self.0.counters().rows_of(Tree::Chats))
    }
}

/// Where a private chat's person is looked up.
fn index_of(id: &ChatId) -> Option<Tree> {
    match id.kind() {
        ChatKind::Phone => Some(Tree::ContactPhones),
        ChatKind::Lid => Some(Tree::ContactLids),
        ChatKind::Group | ChatKind::Status | ChatKind::Newsletter => None,
    }
}

/// A private chat is named after the person's phone, when that is known.
fn private(asked: &ChatId, person: Contact) -> ListedChat {
    let id = person.phone.map_or_else(|| asked.clone(), |phone| ChatId::phone(&phone));
    ListedChat { lid: person.lid, ..ListedChat::new(id) }
}

fn key(kind: u8, rest: &[u8]) -> IVec {
    let mut key = Vec::with_capacity(1 + rest.len());
    key.push(kind);
    key.extend_from_slice(rest);
    IVec::from(key)
}

/// Adds what the record tells to a chat's address.
fn read(chat: ListedChat, key: &[u8], record: &[u8]) -> Result<ListedChat, Bad> {
    let record = ChatRecord::decode(codec::unseal_inline(key, record)?).map_err(|_| Bad::Content)?;
    Ok(ListedChat {
        name: record.name,
        last_activity: record.last_activity.map(Timestamp::from_millis),
        archived: record.archived,
        pinned_at: record.pinned_at.map(Timestamp::from_millis),
        muted_until: record.muted_until.map(Timestamp::from_millis),
        ..chat
    })
}

/// Whether the payload of a chat's record makes sense.
pub fn decode(payload: &[u8]) -> Result<(), Bad> {
    ChatRecord::decode(payload).map(drop).map_err(|_| Bad::Content)
}

fn write(key: &[u8], chat: ListedChat) -> IVec {
    let record = ChatRecord {
        name: chat.name.map(|name| cut(name, MAX_NAME)),
        last_activity: chat.last_activity.map(Timestamp::as_millis),
        archived: chat.archived,
        pinned_at: chat.pinned_at.map(Timestamp::as_millis),
        muted_until: chat.muted_until.map(Timestamp::as_millis),
    };
    codec::seal(key, &record.encode_to_vec())
}

/// In the committer.
fn learn(group: &mut Group<'_>, learnt: ListedChat) -> Result<(), StoreError> {
    let key = match index_of(&learnt.id) {
        None => key(OTHER, learnt.id.as_str().as_bytes()),
        Some(index) => {
            let digits = |of: Tree| (index == of).then(|| learnt.id.user().to_owned());
            let lid = digits(Tree::ContactLids).or_else(|| learnt.lid.clone());
            let person = Contact { phone: digits(Tree::ContactPhones), lid, ..Contact::default() };
            let Some(row) = contacts::learn(group, person)? else { return Ok(()) };
            key(PERSON, &row)
        }
    };
    merge(group, key, learnt)
}

/// In the committer: two rows of people became one; the chat of the one that is gone goes to the other.
pub fn moved(group: &mut Group<'_>, from: &[u8], to: &[u8]) -> Result<(), StoreError> {
    let old = key(PERSON, from);
    let Some(record) = group.get(Tree::Chats, &old)? else { return Ok(()) };
    group.remove(Tree::Chats, old.clone());
    // One that cannot be read has nothing to give.
    let Ok(chat) = read(ListedChat::new(ChatId::lid("0")), &old, &record) else { return Ok(()) };
    merge(group, key(PERSON, to), chat)
}

fn merge(group: &mut Group<'_>, key: IVec, learnt: ListedChat) -> Result<(), StoreError> {
    let there = group.get(Tree::Chats, &key)?;
    let known = there.as_ref().and_then(|record| read(ListedChat::new(learnt.id.clone()), &key, record).ok());
    let chat = match known {
        Some(known) => known.merged(learnt),
        None => learnt,
    };
    let row = write(&key, chat);
    match there {
        Some(same) if same == row => Ok(()),
        Some(_) => group.update(Tree::Chats, key, row),
        None => group.insert(Tree::Chats, key, row),
    }
}
