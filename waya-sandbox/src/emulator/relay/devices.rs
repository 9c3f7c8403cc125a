//! Changes of an account's linked devices, and who is told: its other devices, with the whole list, and everybody who
//! ever asked for its devices and now encrypts for that list. Both can check what they know by a hash of the list.

use whatsapp_rust::wacore::messages::MessageUtils;
use whatsapp_rust::wacore_binary::builder::NodeBuilder;
use whatsapp_rust::wacore_binary::{Jid, Node};

use super::{Namespace, account, queue_for};
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
    let now = state.now();
    let (list, stanza) = (own_list(account, now), notification(account, number, (what, key_index), now));
    let others = account
        .known_by
        .iter()
        .filter_map(|watcher| state.accounts.get(watcher))
        .flat_map(|watcher| watcher.devices.keys().map(|device| watcher.key(*device)));
    let others = others.collect();
    account::tell_devices(state, &key.phone, number, list);
    queue_for(state, others, "notification", &stanza);
}

/// The devices of an account, as its other devices are told.
fn own_list(account: &Account, now: i64) -> Node {
    let device = |number| NodeBuilder::new("device").attr("jid", Namespace::Pn.device(account, number));
    let linked =
        account.devices.iter().map(|(number, known)| device(*number).attr("key-index", known.record.key_index));
    let devices = std::iter::once(device(0)).chain(linked).map(NodeBuilder::build);
    let children: Vec<_> = devices.chain([signed_list(account, now)]).collect();
    let list = NodeBuilder::new("devices");
    match hash(account, Namespace::Pn) {
        Some(hash) => list.attr("dhash", hash).children(children).build(),
        None => list.children(children).build(),
    }
}

fn signed_list(account: &Account, now: i64) -> Node {
    let list = NodeBuilder::new("key-index-list").attr("ts", now);
    match key_index_list(account, now) {
        Some(signed) => list.bytes(signed).build(),
        None => list.build(),
    }
}

/// By which who knows a list of devices sees whether it is the right one.
fn hash(account: &Account, namespace: Namespace) -> Option<String> {
    let linked = account.devices.keys().map(|number| namespace.device(account, *number));
    let devices: Vec<_> = std::iter::once(namespace.user(account)).chain(linked).collect();
    MessageUtils::participant_list_hash(&devices).ok()
}

fn notification(account: &Account, number: u16, (what, key_index): (&'static str, Option<u32>), now: i64) -> Node {
    let mut device = NodeBuilder::new("device")
        .attr("jid", Namespace::Pn.device(account, number))
        .attr("lid", Namespace::Lid.device(account, number));
    if let Some(index) = key_index {
        device = device.attr("key-index", index);
    }
    let mut change = NodeBuilder::new_dynamic(what.to_owned());
    for (name, namespace) in [("device_hash", Namespace::Pn), ("device_lid_hash", Namespace::Lid)] {
        if let Some(hash) = hash(account, namespace) {
            change = change.attr(name, hash);
        }
    }
    NodeBuilder::new("notification")
        .attr("from", Jid::pn(account.phone()))
        .attr("lid", Namespace::Lid.user(account))
        .attr("type", "devices")
        .attr("id", format!("devices-{:016x}", rand::random::<u64>()))
        .attr("t", now)
        .children([change.children([device.build(), signed_list(account, now)]).build()])
        .build()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::emulator::session::trial::{ANI, BUDI, sessions, told_by};

    fn text(node: &Node, name: &str) -> String {
        node.attrs.get(name).unwrap_or_else(|| panic!("no {name}: {node:?}")).as_str().into_owned()
    }

    #[tokio::test]
    async fn a_change_is_told_with_the_hash_of_the_list_it_leads_to() {
        let mut trial = sessions().await;
        trial.go_live();
        let (_budi, mut budi) = trial.another(BUDI, 1);
        remember(&mut trial.emulator.state(), BUDI, vec![ANI.to_owned()]);
        let (_second, mut second) = trial.another(ANI, 2);
        let hash = |numbers: &[u16]| {
            let devices: Vec<_> = numbers.iter().map(|number| Jid::pn_device(ANI, *number)).collect();
            MessageUtils::participant_list_hash(&devices).unwrap()
        };

        let (others, own) = (told_by(&mut budi), trial.told(0));
        let add = others.last().unwrap().get_optional_child("add").unwrap();
        assert_eq!(text(add, "device_hash"), hash(&[0, 1, 2]));
        assert_ne!(text(add, "device_lid_hash"), text(add, "device_hash"));
        let told = own.last().unwrap();
        assert_eq!((text(told, "type"), text(told, "from")), ("account_sync".into(), format!("{ANI}@s.whatsapp.net")));
        let list = told.get_optional_child("devices").unwrap();
        assert_eq!(text(list, "dhash"), hash(&[0, 1, 2]));
        assert_eq!(list.children().unwrap().iter().filter(|node| node.tag == "device").count(), 3);
        assert!(own.iter().all(|told| text(told, "type") != "devices"), "the whole list is enough");

        let key = DeviceKey { phone: ANI.to_owned(), device: 1 };
        unlink(&mut trial.emulator.state(), &key).unwrap();
        let remove = told_by(&mut budi).remove(0);
        let remove = remove.get_optional_child("remove").unwrap();
        assert_eq!(text(remove, "device_hash"), hash(&[0, 2]));
        let list = told_by(&mut second).remove(0);
        assert_eq!(text(list.get_optional_child("devices").unwrap(), "dhash"), hash(&[0, 2]));
    }
}
