//! People: a phone number and a LID are one contact.

use async_trait::async_trait;
use prost::Message as _;
use sled::IVec;

use super::chats;
use super::codec::{self, Bad};
use super::engine::Engine;
use super::group::Group;
use super::records::cut;
use super::rows::Rows;
use super::shared::{ReadError, Shared};
use super::trees::{Tree, number, number_key};
use crate::model::{MAX_NAME_CHARS, PushName, Timestamp};
use crate::store::{AddressBook, Contact, StoreError};

/// A name longer than this many bytes is cut.
pub const MAX_NAME: usize = 4 * MAX_NAME_CHARS;
/// Digits longer than this are nobody's.
const MAX_DIGITS: usize = 64;
/// So many rows are forgotten in one transaction.
const FORGOTTEN_AT_ONCE: usize = 1_000;

/// One person.
#[derive(Clone, PartialEq, prost::Message)]
pub struct ContactRecord {
    #[prost(string, optional, tag = "1")]
    pub phone: Option<String>,
    #[prost(string, optional, tag = "2")]
    pub lid: Option<String>,
    #[prost(string, optional, tag = "3")]
    pub push_name: Option<String>,
    #[prost(bool, tag = "4")]
    pub registered: bool,
    /// When `registered` was learnt; absent when it never was.
    #[prost(uint64, optional, tag = "5")]
    pub registered_at: Option<u64>,
    /// When `push_name` was said.
    #[prost(uint64, tag = "6")]
    pub named_at: u64,
    #[prost(uint64, optional, tag = "7")]
    pub wrote_at: Option<u64>,
}

#[async_trait]
impl AddressBook for Rows {
    async fn learn(&self, contacts: Vec<Contact>) -> Result<(), StoreError> {
        self.0.commit(move |group| contacts.into_iter().try_for_each(|learnt| learn(group, learnt).map(drop))).await
    }

    async fn by_phone(&self, phone: &str) -> Result<Option<Contact>, StoreError> {
        self.contact(Tree::ContactPhones, phone)
    }

    async fn by_lid(&self, lid: &str) -> Result<Option<Contact>, StoreError> {
        self.contact(Tree::ContactLids, lid)
    }

    async fn count(&self) -> Result<u64, StoreError> {
        Ok(*self.0.counters().rows_of(Tree::Contacts))
    }

    async fn forget_all(&self) -> Result<(), StoreError> {
        // Chats first, which name people. What an unreadable row left in the indexes goes last.
        for tree in [Tree::Chats, Tree::Contacts, Tree::ContactPhones, Tree::ContactLids] {
            while self.forget_some(tree).await? > 0 {}
        }
        Ok(())
    }
}

impl Rows {
    /// The person a row number names.
    pub(super) fn contact_at(&self, engine: &Engine, key: &[u8]) -> Result<Option<Contact>, ReadError> {
        let Some(record) = engine.tree(Tree::Contacts).get(key)? else { return Ok(None) };
        let contact = read(key, &record);
        Ok(Some(contact.map_err(|bad| self.0.set_aside(Tree::Contacts, key, &record, &bad))?))
    }

    /// Removes some rows of a tree, people with what points to them; how many.
    async fn forget_some(&self, tree: Tree) -> Result<usize, StoreError> {
        let find = move |_: &Shared, engine: &Engine| {
            Ok(engine.tree(tree).iter().take(FORGOTTEN_AT_ONCE).collect::<Result<Vec<_>, _>>()?)
        };
        let rows = self.0.read_many(find).await?;
        if rows.is_empty() {
            return Ok(0);
        }
        let work = move |group: &mut Group<'_>| {
            for (key, record) in &rows {
                if tree == Tree::Contacts
                    && let Ok(contact) = read(key, record)
                {
                    forget(group, key, &contact)?;
                } else if group.get(tree, key)?.is_some() {
                    group.remove(tree, key.clone());
                }
            }
            Ok(rows.len())
        };
        self.0.commit(work).await
    }

    fn contact(&self, index: Tree, digits: &str) -> Result<Option<Contact>, StoreError> {
        self.0.read(|engine| {
            let Some(key) = engine.tree(index).get(digits)? else { return Ok(None) };
            self.contact_at(engine, &key)
        })
    }
}

/// Reads a contact's record.
pub fn read(key: &[u8], record: &[u8]) -> Result<Contact, Bad> {
    decode(codec::unseal_inline(key, record)?)
}

/// Reads the payload of a contact's record.
pub fn decode(payload: &[u8]) -> Result<Contact, Bad> {
    let record = ContactRecord::decode(payload).map_err(|_| Bad::Content)?;
    let registered = record.registered_at.map(|at| (record.registered, Timestamp::from_millis(at)));
    let at = Timestamp::from_millis(record.named_at);
    let push_name = record.push_name.map(|text| PushName { text, at });
    let wrote_at = record.wrote_at.map(Timestamp::from_millis);
    Ok(Contact { phone: record.phone, lid: record.lid, push_name, registered, wrote_at })
}

fn write(key: &[u8], contact: &Contact) -> IVec {
    let record = ContactRecord {
        phone: contact.phone.clone(),
        lid: contact.lid.clone(),
        push_name: contact.push_name.clone().map(|name| name.text),
        registered: contact.registered.is_some_and(|(registered, _)| registered),
        registered_at: contact.registered.map(|(_, at)| at.as_millis()),
        named_at: contact.push_name.as_ref().map_or(0, |name| name.at.as_millis()),
        wrote_at: contact.wrote_at.map(Timestamp::as_millis),
    };
    codec::seal(key, &record.encode_to_vec())
}

/// In the committer: the row of the contact, unless it is nobody.
pub fn learn(group: &mut Group<'_>, mut learnt: Contact) -> Result<Option<IVec>, StoreError> {
    let usable = |digits: &Option<String>| digits.as_ref().is_none_or(|d| !d.is_empty() && d.len() <= MAX_DIGITS);
    if (learnt.phone.is_none() && learnt.lid.is_none()) || !usable(&learnt.phone) || !usable(&learnt.lid) {
        return Ok(None);
    }
    learnt.push_name = learnt.push_name.map(|name| PushName { text: cut(name.text, MAX_NAME), ..name });
    let of_phone = row_of(group, Tree::ContactPhones, learnt.phone.as_deref())?;
    let of_lid = row_of(group, Tree::ContactLids, learnt.lid.as_deref())?;
    let (key, there, known) = match (of_phone, of_lid) {
        (Some((key, contact)), Some((other, more))) if key != other => {
            forget(group, &other, &more)?;
            chats::moved(group, &other, &key)?;
            (key, contact.clone(), merged(contact, more))
        }
        (Some((key, contact)), _) | (None, Some((key, contact))) => (key, contact.clone(), contact),
        (None, None) => {
            group.counters.last_contact += 1;
            (number_key(group.counters.last_contact), Contact::default(), Contact::default())
        }
    };
    let contact = merged(known, learnt);
    let row = write(&key, &contact);
    match group.get(Tree::Contacts, &key)? {
        Some(same) if same == row => return Ok(Some(key)),
        Some(_) => group.update(Tree::Contacts, key.clone(), row)?,
        None => group.insert(Tree::Contacts, key.clone(), row)?,
    }
    point(group, Tree::ContactPhones, there.phone.as_deref(), contact.phone.as_deref(), &key)?;
    point(group, Tree::ContactLids, there.lid.as_deref(), contact.lid.as_deref(), &key)?;
    Ok(Some(key))
}

/// What both know; the later word wins.
fn merged(known: Contact, learnt: Contact) -> Contact {
    let newer = |a: (bool, Timestamp), b: (bool, Timestamp)| if b.1 >= a.1 { b } else { a };
    Contact {
        phone: learnt.phone.or(known.phone),
        lid: learnt.lid.or(known.lid),
        push_name: PushName::newer(known.push_name, learnt.push_name),
        registered: match (known.registered, learnt.registered) {
            (Some(known), Some(learnt)) => Some(newer(known, learnt)),
            (known, learnt) => learnt.or(known),
        },
        wrote_at: known.wrote_at.into_iter().chain(learnt.wrote_at).min(),
    }
}

fn row_of(group: &mut Group<'_>, index: Tree, digits: Option<&str>) -> Result<Option<(IVec, Contact)>, StoreError> {
    let Some(digits) = digits else { return Ok(None) };
    let Some(key) = group.get(index, digits.as_bytes())? else { return Ok(None) };
    let record = group.get(Tree::Contacts, &key)?;
    // A row that cannot be read is written anew with what is learnt now.
    let contact = record.and_then(|record| read(&key, &record).ok()).unwrap_or_default();
    Ok(number(&key).map(|_| (key, contact)))
}

/// Removes a contact and what points to it.
fn forget(group: &mut Group<'_>, key: &IVec, contact: &Contact) -> Result<(), StoreError> {
    for (index, digits) in [(Tree::ContactPhones, &contact.phone), (Tree::ContactLids, &contact.lid)] {
        point(group, index, digits.as_deref(), None, key)?;
    }
    if group.get(Tree::Contacts, key)?.is_some() {
        group.remove(Tree::Contacts, key.clone());
    }
    Ok(())
}

/// Points an index from the new digits, no longer from the old ones, to a row.
fn point(
    group: &mut Group<'_>,
    index: Tree,
    old: Option<&str>,
    new: Option<&str>,
    key: &IVec,
) -> Result<(), StoreError> {
    if let Some(old) = old.filter(|old| Some(*old) != new)
        && group.get(index, old.as_bytes())?.as_ref() == Some(key)
    {
        group.remove(index, IVec::from(old.as_bytes()));
    }
    let Some(new) = new else { return Ok(()) };
    match group.get(index, new.as_bytes())? {
        None => group.insert(index, IVec::from(new.as_bytes()), key.clone()),
        Some(there) if there == *key => Ok(()),
        Some(_) => group.update(index, IVec::from(new.as_bytes()), key.clone()),
    }
}
