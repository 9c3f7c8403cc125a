//! Presence is passed to those who are there now; typing is kept for the others as long as somebody may still type.

use std::collections::{HashMap, HashSet};
use std::sync::Mutex;

use bytes::Bytes;
use whatsapp_rust::wacore_binary::builder::NodeBuilder;
use whatsapp_rust::wacore_binary::{Node, NodeRef, Server, marshal};

use super::group::namespace;
use super::{Namespace, canonical, jid_attr, text_attr};
use crate::emulator::session::Session;
use crate::emulator::state::device::Notice;
use crate::emulator::state::{Account, Device, State};
use crate::emulator::{Emulator, PresenceInfo, ensure_account, lock};

/// Who is available, and who wants to know about whom.
#[derive(Debug, Default)]
pub(crate) struct Presences {
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    available: HashSet<(String, u16)>,
    /// How often each phone's devices said that they are there, or not.
    said: HashMap<String, u64>,
    /// Watched phone → watching devices, each with the namespace it asked in.
    watchers: HashMap<String, HashMap<(String, u16), Namespace>>,
}

impl Presences {
    /// What this phone's devices say.
    pub(crate) fn of(&self, phone: &str) -> PresenceInfo {
        let inner = lock::mutex(&self.inner);
        PresenceInfo {
            available: inner.available.iter().any(|(known, _)| known == phone),
            said: inner.said.get(phone).copied().unwrap_or_default(),
        }
    }

    fn count(&self, phone: &str) {
        *lock::mutex(&self.inner).said.entry(phone.to_owned()).or_default() += 1;
    }
}

/// Takes a presence stanza: the own state, or the wish to know somebody else's.
pub(crate) fn take(session: &Session, phone: &str, device: u16, node: &NodeRef<'_>) {
    let emulator = &session.emulator;
    let mut state = emulator.state();
    match text_attr(node, "type").as_deref() {
        Some("subscribe") => subscribe(session, &state, phone, device, node),
        Some("unavailable") => {
            left(emulator, &state, phone, device);
            emulator.presences().count(phone);
        }
        _ => {
            let name = text_attr(node, "name").unwrap_or_default();
            if let Err(error) = ensure_account(&mut state, phone, &name) {
                tracing::error!(%error, "cannot keep the name");
            }
            let fresh = lock::mutex(&emulator.presences().inner).available.insert((phone.to_owned(), device));
            if fresh {
                tell_watchers(emulator, &state, phone, true);
            }
            emulator.presences().count(phone);
        }
    }
}

/// A device went away or said so.
pub(crate) fn left(emulator: &Emulator, state: &State, phone: &str, device: u16) {
    let mut inner = lock::mutex(&emulator.presences().inner);
    let was = inner.available.remove(&(phone.to_owned(), device));
    let still = inner.available.iter().any(|(known, _)| known == phone);
    drop(inner);
    if was && !still {
        tell_watchers(emulator, state, phone, false);
    }
}

fn subscribe(session: &Session, state: &State, phone: &str, device: u16, node: &NodeRef<'_>) {
    let Some(whom) = jid_attr(node, "to") else { return };
    let Some(account) = state.account_of(&whom) else { return };
    let namespace = Namespace::of(&whom);
    let mut inner = lock::mutex(&session.emulator.presences().inner);
    let watchers = inner.watchers.entry(account.phone().to_owned()).or_default();
    watchers.insert((phone.to_owned(), device), namespace);
    let there = inner.available.iter().any(|(known, _)| known == account.phone());
    if there && account.shows("online") && !account.blocks(phone) {
        session.connection.send_node(&presence(account, namespace, true, state.now()));
    }
}

fn tell_watchers(emulator: &Emulator, state: &State, phone: &str, available: bool) {
    let Some(account) = state.accounts.get(phone) else { return };
    let inner = lock::mutex(&emulator.presences().inner);
    let Some(watchers) = inner.watchers.get(phone).filter(|_| account.shows("online")) else { return };
    for ((watcher, device), namespace) in watchers.iter().filter(|((watcher, _), _)| !account.blocks(watcher)) {
        if let Some(connection) = state.device(watcher, *device).and_then(Device::live) {
            connection.send_node(&presence(account, *namespace, available, state.now()));
        }
    }
}

fn presence(account: &Account, namespace: Namespace, available: bool, at: i64) -> Node {
    let node = NodeBuilder::new("presence").attr("from", namespace.user(account));
    if available {
        return node.build();
    }
    let node = node.attr("type", "unavailable");
    if account.shows("last") { node.attr("last", at).build() } else { node.attr("last", "deny").build() }
}

/// Takes a typing notice and passes it to the devices of the person addressed. It is the person who types, whichever
/// device on.
pub(crate) fn take_chatstate(session: &Session, phone: &str, node: &NodeRef<'_>) {
    let Some(to) = jid_attr(node, "to") else { return };
    let mut state = session.emulator.state();
    let Some(sender) = state.accounts.get(phone) else { return };
    let notice =
        NodeBuilder::new("chatstate").children(node.children().unwrap_or_default().iter().map(NodeRef::to_owned));
    let (hearers, notice) =
        if let Some(group) = state.groups.get(to.user.as_str()).filter(|_| to.server == Server::Group) {
            let participant = namespace(session.emulator.config().pn_only).user(sender);
            let others = group.record.members.iter().filter(|member| *member != phone).cloned().collect();
            (others, notice.attr("from", &to).attr("participant", participant))
        } else if let Some(account) = state.account_of(&to).filter(|account| !account.blocks(phone)) {
            (vec![account.phone().to_owned()], notice.attr("from", Namespace::of(&to).user(sender)))
        } else {
            return;
        };
    let Ok(stanza) = marshal(&notice.build()).map(Bytes::from) else { return };
    let notice = Notice { from: (canonical(&state, &to), phone.to_owned()), at: state.now(), stanza };
    for hearer in hearers {
        let Some(account) = state.accounts.get_mut(&hearer) else { continue };
        account.devices.values_mut().for_each(|device| device.hear(notice.clone()));
    }
}
