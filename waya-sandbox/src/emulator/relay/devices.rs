//! Changes of an account's linked devices, and who is told: its other devices, and everybody who
//! ever asked for its devices and now encrypts for that list.

use whatsapp_rust::wacore_binary::builder::NodeBuilder;
use whatsapp_rust::wacore_binary::{Jid, Node};

use super::{Namespace, queue_for};
use crate::emulator::handset::adv::key_index_list;
use crate::emulator::state::record::{Change, DeviceKey, DeviceRecord, KnowsRecord};
use crate::emulator::state::{Account, NotWritten, State};

/// Adds a device to its account.
pub(crate) fn link(state: &mut State, record: DeviceRecord) -> Result<(), NotWritten> {
    let (key, key_index) = (record.key.clone(), record.key_index);
    state.commit(Change::Device(record))?;
    announce(state, &key, "add", Some(key_index));
    Ok(())
}

/// Takes a device from its account, with everything kept for it.
pub(crate) fn unlink(state: &mut State, key: &DeviceKey) -> Result<(), NotWritten> {
    state.commit(Change::DeviceGone(key.clone()))?;
    announce(state, key, "remove", None);
    Ok(())
}

/// Remembers that `watcher` holds the device lists of these accounts.
pub(crate) fn remember(state: &mut State, watcher: &str, phones: Vec<String>) {
    for phone in phones {
        let known = state.accounts.get(&phone).is_none_or(|account| account.known_by.contains(watcher));
        if !known && phone != watcher {
            let record = KnowsRecord { phone, watcher: watcher.to_owned() };
            // Not written: the watcher asks again some day.
            let _ = state.commit(Change::Knows(record));
        }
    }
}

/// Gives the account another push name and tells its devices. `false` when there is no such account.
pub(crate) fn rename(state: &mut State, phone: &str, push_name: &str) -> bool {
    let Some(account) = state.accounts.get(phone) else { return false };
    let mut record = account.record.clone();
    push_name.clone_into(&mut record.name);
    let keys = account.devices.keys().map(|device| account.key(*device)).collect();
    let stanza = NodeBuilder::new("notification")
        .attr("from", Jid::pn(account.phone()))
        .attr("type", "account_sync")
        .attr("id", format!("name-{:016x}", rand::random::<u64>()))
        .attr("t", state.now())
        .attr("pushname", push_name)
        .build();
    if state.commit(Change::Account(record)).is_err() {
        return false;
    }
    queue_for(state, keys, "notification", &stanza);
    true
}

fn announce(state: &mut State, key: &DeviceKey, what: &'static str, key_index: Option<u32>) {
    let Some(account) = state.accounts.get(&key.phone) else { return };
    let Ok(number) = u16::try_from(key.device) else { return };
    let stanza = notification(account, number, (what, key_index), state.now());
    let own = account.devices.keys().filter(|own| **own != number).map(|own| account.key(*own));
    let others = account
        .known_by
        .iter()
        .filter_map(|watcher| state.accounts.get(watcher))
        .flat_map(|watcher| watcher.devices.keys().map(|device| watcher.key(*device)));
    let keys = own.chain(others).collect();
    queue_for(state, keys, "notification", &stanza);
}

fn notification(account: &Account, number: u16, (what, key_index): (&'static str, Option<u32>), now: i64) -> Node {
    let mut device = NodeBuilder::new("device")
        .attr("jid", Namespace::Pn.device(account, number))
        .attr("lid", Namespace::Lid.device(account, number));
    if let Some(index) = key_index {
        device = device.attr("key-index", index);
    }
    let mut list = NodeBuilder::new("key-index-list").attr("ts", now);
    if let Some(signed) = key_index_list(account, now) {
        list = list.bytes(signed);
    }
    let change = NodeBuilder::new_dynamic(what.to_owned()).children([device.build(), list.build()]);
    NodeBuilder::new("notification")
        .attr("from", Jid::pn(account.phone()))
        .attr("lid", Namespace::Lid.user(account))
        .attr("type", "devices")
        .attr("id", format!("devices-{:016x}", rand::random::<u64>()))
        .attr("t", now)
        .children([change.build()])
        .build()
}
