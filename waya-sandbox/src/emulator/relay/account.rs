//! What people set for their own account, and who is told.

use whatsapp_rust::wacore_binary::builder::NodeBuilder;
use whatsapp_rust::wacore_binary::{Jid, Node};

use super::queue_for;
use crate::emulator::state::record::{AccountRecord, Change, DeviceKey, Picture};
use crate::emulator::state::{Account, NotWritten, State};

/// Keeps a changed account. Its devices but the one that made the change are told.
pub(crate) fn change(state: &mut State, record: AccountRecord, by: u16, what: Node) -> Result<(), NotWritten> {
    let phone = record.phone.clone();
    state.commit(Change::Account(record))?;
    tell_devices(state, &phone, by, what);
    Ok(())
}

/// Tells the devices of an account, but the one that is concerned, of a change.
pub(crate) fn tell_devices(state: &mut State, phone: &str, by: u16, what: Node) {
    let stanza = NodeBuilder::new("notification")
        .attr("from", Jid::pn(phone))
        .attr("type", "account_sync")
        .attr("id", format!("account-{:016x}", rand::random::<u64>()))
        .attr("t", state.now())
        .children([what])
        .build();
    let Some(account) = state.accounts.get(phone) else { return };
    let keys = account.devices.keys().filter(|device| **device != by).map(|device| account.key(*device)).collect();
    queue_for(state, keys, "notification", &stanza);
}

/// Keeps an account whose owner says something else about himself, and tells everybody who knows it.
pub(crate) fn change_about(state: &mut State, record: AccountRecord) -> Result<(), NotWritten> {
    let (phone, about) = (record.phone.clone(), record.about.clone().unwrap_or_default());
    state.commit(Change::Account(record))?;
    let Some(account) = state.accounts.get(&phone) else { return Ok(()) };
    let keys = hearers(state, account, "status");
    let stanza = NodeBuilder::new("notification")
        .attr("from", Jid::pn(phone.as_str()))
        .attr("type", "status")
        .attr("id", format!("about-{:016x}", rand::random::<u64>()))
        .attr("t", about.at)
        .attr("notify", account.record.name.as_str())
        .children([NodeBuilder::new("set").bytes(about.text.into_bytes()).build()])
        .build();
    queue_for(state, keys, "notification", &stanza);
    Ok(())
}

/// Keeps an account whose owner shows another picture of himself, or none, and tells everybody who knows it.
pub(crate) fn change_picture(state: &mut State, record: AccountRecord) -> Result<(), NotWritten> {
    let (phone, picture) = (record.phone.clone(), record.picture.clone());
    state.commit(Change::Account(record))?;
    let Some(account) = state.accounts.get(&phone) else { return Ok(()) };
    let keys = hearers(state, account, "profile");
    let (owner, at) = (Jid::pn(phone.as_str()), state.now());
    queue_for(state, keys, "notification", &pictured(&owner, &owner, picture.as_ref(), at));
    Ok(())
}

/// What is told of a picture that was changed or taken away.
pub(crate) fn pictured(whose: &Jid, author: &Jid, picture: Option<&Picture>, at: i64) -> Node {
    let what = match picture {
        Some(picture) => NodeBuilder::new("set").attr("id", picture.id.as_str()),
        None => NodeBuilder::new("delete"),
    };
    NodeBuilder::new("notification")
        .attr("from", whose)
        .attr("type", "picture")
        .attr("id", format!("picture-{:016x}", rand::random::<u64>()))
        .attr("t", at)
        .children([what.attr("jid", whose).attr("author", author).build()])
        .build()
}

/// The devices of everybody who knows an account and may see this of it, and its own.
fn hearers(state: &State, account: &Account, category: &str) -> Vec<DeviceKey> {
    let phone = account.phone().to_owned();
    let hearers = account.known_by.iter().filter(|_| account.shows(category)).chain([&phone]);
    hearers
        .filter(|hearer| !account.blocks(hearer))
        .filter_map(|hearer| state.accounts.get(hearer))
        .flat_map(|hearer| hearer.devices.keys().map(|device| hearer.key(*device)))
        .collect()
}
