//! Presence is passed to those who are there now and asked for it; typing is kept for the others as long as somebody may
//! still type.
//!
//! Who asked is told for a time, as long as its connection lasts. In memory only.

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

/// Seconds for which somebody is told of another's presence without asking again.
const WATCHED: i64 = 3_600;

/// A device: phone and number.
type Place = (String, u16);

/// Who is available, and who wants to know about whom.
#[derive(Debug, Default)]
pub(crate) struct Presences {
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    available: HashSet<Place>,
    /// How often each phone's devices said that they are there, or not.
    said: HashMap<String, u64>,
    /// Watched phone → watching devices.
    watchers: HashMap<String, HashMap<Place, Watch>>,
}

/// A wish to be told of somebody's presence.
#[derive(Debug, Clone, Copy)]
struct Watch {
    /// How the one watched was named.
    namespace: Namespace,
    /// Unix seconds.
    until: i64,
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

    /// Nobody is there any more, and nobody asked.
    pub(crate) fn forget(&self) {
        let mut inner = lock::mutex(&self.inner);
        inner.available.clear();
        inner.watchers.clear();
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
        Some("unsubscribe") => unsubscribe(emulator, &state, phone, device, node),
        Some("unavailable") => {
            left(emulator, &state, phone, device);
            emulator.presences().count(phone);
        }
        None | Some("available") => {
            let name = text_attr(node, "name").unwrap_or_default();
            if let Err(error) = ensure_account(&mut state, phone, &name) {
                tracing::error!(%error, "cannot keep the name");
            }
            let fresh = lock::mutex(&emulator.presences().inner).available.insert((phone.to_owned(), device));
            if fresh {
                tell_watchers(emulator, &state, phone, true);
                tell_of_watched(session, &state, phone, device);
            }
            emulator.presences().count(phone);
        }
        Some(other) => tracing::debug!(kind = other, "a presence of a kind nobody knows"),
    }
}

/// A device's connection ended: it is not there, and is not told of others.
pub(crate) fn ended(emulator: &Emulator, state: &State, phone: &str, device: u16) {
    let own = (phone.to_owned(), device);
    lock::mutex(&emulator.presences().inner).watchers.retain(|_, watchers| {
        watchers.remove(&own);
        !watchers.is_empty()
    });
    left(emulator, state, phone, device);
}

/// A device says that it is not there.
fn left(emulator: &Emulator, state: &State, phone: &str, device: u16) {
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
    let own = (phone.to_owned(), device);
    let watch = Watch { namespace: Namespace::of(&whom), until: state.now() + WATCHED };
    let mut inner = lock::mutex(&session.emulator.presences().inner);
    inner.watchers.entry(account.phone().to_owned()).or_default().insert(own.clone(), watch);
    if inner.available.contains(&own) {
        tell_of(session, &inner, (account, watch), phone, state.now());
    }
}

fn unsubscribe(emulator: &Emulator, state: &State, phone: &str, device: u16, node: &NodeRef<'_>) {
    let whom = jid_attr(node, "to").and_then(|whom| Some(state.account_of(&whom)?.phone().to_owned()));
    let Some(whom) = whom else { return };
    if let Some(watchers) = lock::mutex(&emulator.presences().inner).watchers.get_mut(&whom) {
        watchers.remove(&(phone.to_owned(), device));
    }
}

/// Who comes is told of those that it asked about and that are there.
fn tell_of_watched(session: &Session, state: &State, phone: &str, device: u16) {
    let own = (phone.to_owned(), device);
    let now = state.now();
    let inner = lock::mutex(&session.emulator.presences().inner);
    for (watched, watchers) in &inner.watchers {
        let watch = watchers.get(&own).filter(|watch| watch.until > now);
        if let (Some(account), Some(watch)) = (state.accounts.get(watched), watch) {
            tell_of(session, &inner, (account, *watch), phone, now);
        }
    }
}

/// Tells one who asked that somebody is there, if so.
fn tell_of(session: &Session, inner: &Inner, (account, watch): (&Account, Watch), asker: &str, now: i64) {
    let there = inner.available.iter().any(|(known, _)| known == account.phone());
    if there && account.shows("online") && !account.blocks(asker) {
        session.connection.send_node(&presence(account, watch.namespace, true, now));
    }
}

/// Only those who are there themselves are told.
fn tell_watchers(emulator: &Emulator, state: &State, phone: &str, available: bool) {
    let Some(account) = state.accounts.get(phone) else { return };
    let now = state.now();
    let mut inner = lock::mutex(&emulator.presences().inner);
    let Inner { available: there, watchers, .. } = &mut *inner;
    let Some(watchers) = watchers.get_mut(phone) else { return };
    watchers.retain(|_, watch| watch.until > now);
    if !account.shows("online") {
        return;
    }
    for (place, watch) in watchers.iter().filter(|(place, _)| there.contains(*place)) {
        let (watcher, device) = place;
        let connection = state.device(watcher, *device).and_then(Device::live);
        if let Some(connection) = connection.filter(|_| !account.blocks(watcher)) {
            connection.send_node(&presence(account, watch.namespace, available, now));
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

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use tokio::sync::mpsc::UnboundedReceiver;

    use super::*;
    use crate::emulator::session::trial::{ANI, BUDI, Trial, sessions, told_by};
    use crate::emulator::wire::Outgoing;

    fn say(kind: &'static str) -> Node {
        NodeBuilder::new("presence").attr("type", kind).build()
    }

    fn about(kind: &'static str, whom: &str) -> Node {
        NodeBuilder::new("presence").attr("type", kind).attr("to", whatsapp_rust::wacore_binary::Jid::pn(whom)).build()
    }

    /// What Budi is told of Ani: there, or not.
    fn told(budi: &mut UnboundedReceiver<Outgoing>) -> Vec<bool> {
        let told = told_by(budi).into_iter().filter(|node| node.tag == "presence");
        told.map(|node| node.attrs.get("type").is_none()).collect()
    }

    async fn two() -> (Trial, Session, UnboundedReceiver<Outgoing>) {
        let trial = sessions().await;
        trial.go_live();
        let (budi, told) = trial.another(BUDI, 1);
        (trial, budi, told)
    }

    #[tokio::test]
    async fn only_who_is_there_is_told_and_who_comes_is_told_at_once() {
        let (trial, budi, mut hears) = two().await;
        let ani = &trial.sessions[0];
        budi.hand(&about("subscribe", ANI));
        ani.hand(&say("available"));
        assert_eq!(told(&mut hears), [] as [bool; 0], "Budi is not there");
        budi.hand(&say("available"));
        assert_eq!(told(&mut hears), [true]);
        ani.hand(&say("unavailable"));
        ani.hand(&say("available"));
        assert_eq!(told(&mut hears), [false, true]);
    }

    #[tokio::test]
    async fn who_asks_no_more_is_told_no_more_and_is_not_there_by_that() {
        let (trial, budi, mut hears) = two().await;
        let ani = &trial.sessions[0];
        for kind in ["unsubscribe", "probe"] {
            budi.hand(&about(kind, ANI));
            assert!(!trial.emulator.presence(BUDI).available, "{kind}");
        }
        budi.hand(&say("available"));
        budi.hand(&about("subscribe", ANI));
        budi.hand(&about("unsubscribe", ANI));
        ani.hand(&say("available"));
        assert_eq!(told(&mut hears), [] as [bool; 0]);
    }

    #[tokio::test]
    async fn a_wish_to_be_told_ends_by_time_and_with_its_connection() {
        let (trial, budi, mut hears) = two().await;
        let ani = &trial.sessions[0];
        budi.hand(&say("available"));
        budi.hand(&about("subscribe", ANI));
        trial.emulator.clock().set_ahead((WATCHED + 1) * 1_000);
        ani.hand(&say("available"));
        assert_eq!(told(&mut hears), [] as [bool; 0], "asked too long ago");
        budi.hand(&about("subscribe", ANI));
        assert_eq!(told(&mut hears), [true]);
        budi.end();
        assert!(lock::mutex(&trial.emulator.presences().inner).watchers.is_empty());
    }

    #[tokio::test]
    async fn who_is_unlinked_or_cut_off_is_not_there_any_more() {
        for unlinked in [false, true] {
            let (trial, budi, mut hears) = two().await;
            let ani = &trial.sessions[0];
            budi.hand(&say("available"));
            budi.hand(&about("subscribe", ANI));
            ani.hand(&say("available"));
            if unlinked {
                assert_eq!(trial.emulator.unlink(ANI), 1);
            }
            ani.end();
            assert_eq!(told(&mut hears), [true, false], "unlinked: {unlinked}");
            assert!(!trial.emulator.presence(ANI).available);
        }
    }
}
