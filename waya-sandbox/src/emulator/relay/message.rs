//! Messages: from one device to every device it was encrypted for.
//!
//! The queue entries of all recipients and the sender's count are one journal record, written
//! before the ack leaves: an acked message is never lost, a lost one was never acked.

use bytes::Bytes;
use whatsapp_rust::wacore_binary::builder::NodeBuilder;
use whatsapp_rust::wacore_binary::{Jid, Node, NodeRef, Server, marshal};

use super::{Namespace, canonical, jid_attr, receipt, text_attr};
use crate::emulator::faults::AckFate;
use crate::emulator::session::Session;
use crate::emulator::state::record::{Change, DeviceKey, QueuedRecord, RelayedRecord};
use crate::emulator::state::{Account, State};
use crate::emulator::wire::ConnectionHandle;
use crate::emulator::{now, now_micros};

/// A message as its sender handed it over.
pub(super) struct Handed<'a> {
    pub(super) node: &'a NodeRef<'a>,
    pub(super) id: String,
    pub(super) to: Jid,
    /// Account and device of the sender.
    pub(super) phone: &'a str,
    pub(super) device: u16,
}

/// One device's copy.
struct Copy {
    key: DeviceKey,
    from: Jid,
    stanza: Node,
}

/// Takes a message from its sender, queues it for its recipients, and acks it.
pub(crate) fn take(session: &Session, phone: &str, device: u16, node: &NodeRef<'_>) {
    let (Some(id), Some(to)) = (text_attr(node, "id"), jid_attr(node, "to")) else {
        return tracing::debug!("a message without id or recipient");
    };
    let handed = Handed { node, id, to, phone, device };
    let emulator = &session.emulator;
    let counted = handed.is_counted();
    let fate = if counted { emulator.fault_rules().ack_fate(phone) } else { AckFate::Prompt };
    let mut state = emulator.state();
    if let AckFate::Refused(code) = fate {
        state.counts.of(phone).nacked += 1;
        session.connection.send_node(&handed.ack(Some(code)));
        return;
    }
    if let Some(code) = handed.refusal(&state) {
        session.connection.send_node(&handed.ack(Some(code)));
        return;
    }
    if relay(&mut state, &handed, counted).is_none() {
        return;
    }
    receipt::confirm_by_handsets(emulator, &mut state, &handed);
    if counted {
        state.counts.of(phone).in_flight += 1;
    }
    let ack = PendingAck { connection: session.connection.clone(), ack: handed.ack(None), counted };
    match fate {
        AckFate::After(delay) => {
            drop(state);
            let (emulator, phone) = (emulator.clone(), phone.to_owned());
            tokio::spawn(async move {
                let held = tokio::time::timeout(delay, ack.connection.gone()).await.is_err();
                ack.settle(&mut emulator.state(), &phone, held);
            });
        }
        AckFate::Lost => ack.settle(&mut state, phone, false),
        AckFate::Prompt | AckFate::Refused(_) => ack.settle(&mut state, phone, true),
    }
}

struct PendingAck {
    connection: ConnectionHandle,
    ack: Node,
    counted: bool,
}

impl PendingAck {
    fn settle(&self, state: &mut State, phone: &str, send: bool) {
        let sent = send && self.connection.send_node(&self.ack);
        if !self.counted {
            return;
        }
        let counts = state.counts.of(phone);
        counts.in_flight -= 1;
        if sent {
            counts.acked += 1;
        } else {
            counts.never_acked += 1;
        }
    }
}

/// Queues every copy; `None` if that could not be written down.
fn relay(state: &mut State, handed: &Handed<'_>, counted: bool) -> Option<()> {
    let copies = handed.copies(state)?;
    let mut entries = Vec::with_capacity(copies.len());
    for copy in copies {
        let from = canonical(state, &copy.from);
        let stanza = Bytes::from(marshal(&copy.stanza).ok()?);
        entries.push(state.entry(copy.key, "message", &handed.id, from, stanza));
    }
    let change = if counted {
        Change::Relayed(RelayedRecord {
            sender: handed.phone.to_owned(),
            id: handed.id.clone(),
            entries: entries.clone(),
        })
    } else {
        Change::Queued(QueuedRecord { entries: entries.clone() })
    };
    state.commit(change).ok()?;
    state.deliver(&entries);
    Some(())
}

impl Handed<'_> {
    /// Peer messages and resends for one device are part of the machinery, not messages.
    fn is_counted(&self) -> bool {
        !self.is_peer() && !self.is_resend()
    }

    fn is_peer(&self) -> bool {
        self.node.get_attr("category").is_some_and(|category| category == "peer")
    }

    fn is_resend(&self) -> bool {
        self.node.get_optional_child("enc").is_some_and(|enc| enc.get_attr("count").is_some())
    }

    fn is_group(&self) -> bool {
        self.to.server == Server::Group
    }

    /// Why this message is refused by itself, faults aside.
    fn refusal(&self, state: &State) -> Option<u16> {
        if !self.is_group() {
            return None;
        }
        match state.groups.get(self.to.user.as_str()) {
            None => Some(404),
            Some(group) if !group.has(self.phone) => Some(403),
            Some(_) => None,
        }
    }

    fn ack(&self, error: Option<u16>) -> Node {
        let mut ack = NodeBuilder::new("ack")
            .attr("class", "message")
            .attr("id", self.id.as_str())
            .attr("from", &self.to)
            .attr("t", now());
        if let Some(participant) = jid_attr(self.node, "participant") {
            ack = ack.attr("participant", participant);
        }
        if let Some(code) = error {
            ack = ack.attr("error", code);
        }
        ack.build()
    }

    fn copies(&self, state: &State) -> Option<Vec<Copy>> {
        let sender = state.accounts.get(self.phone)?;
        if let Some(participant) = jid_attr(self.node, "participant") {
            return Some(self.group_copies(state, sender, &[participant]));
        }
        Some(match self.to.server {
            Server::Group => {
                let group = state.groups.get(self.to.user.as_str())?;
                let users = group.record.members.iter();
                self.broadcast_copies(state, sender, users.map(String::as_str).collect())
            }
            Server::Broadcast => {
                let mut users: Vec<_> =
                    self.encrypted().filter_map(|(jid, _)| state.account_of(&jid).map(Account::phone)).collect();
                users.sort_unstable();
                users.dedup();
                self.broadcast_copies(state, sender, users)
            }
            _ => self.direct_copies(state, sender),
        })
    }

    /// Addresses and ciphertexts of `<participants>`.
    fn encrypted(&self) -> impl Iterator<Item = (Jid, Option<Node>)> {
        let list = self.node.get_optional_child("participants").and_then(NodeRef::children);
        list.unwrap_or_default()
            .iter()
            .filter_map(|to| Some((jid_attr(to, "jid")?, to.get_optional_child("enc").map(NodeRef::to_owned))))
    }

    fn direct_copies(&self, state: &State, sender: &Account) -> Vec<Copy> {
        let bare = self.node.get_optional_child("enc").map(|enc| (self.to.clone(), Some(enc.to_owned())));
        let namespace = Namespace::of(&self.to);
        self.encrypted()
            .chain(bare)
            .filter_map(|(jid, enc)| {
                let account = state.account_of(&jid)?;
                account.devices.contains_key(&jid.device).then_some(())?;
                let from = namespace.device(sender, self.device);
                let mut stanza = self.envelope(sender, &from, enc?);
                if account.phone() == self.phone {
                    let chat = jid_attr(self.node, "recipient").unwrap_or_else(|| self.to.to_non_ad());
                    if !self.is_peer() {
                        stanza.attrs.insert("recipient", chat);
                    }
                } else {
                    let (name, other) = alternative("sender", namespace, sender, self.device);
                    stanza.attrs.insert(name, other);
                }
                Some(Copy { key: account.key(jid.device), from, stanza })
            })
            .collect()
    }

    /// Copies for every device of these accounts but the sending one.
    fn broadcast_copies(&self, state: &State, sender: &Account, users: Vec<&str>) -> Vec<Copy> {
        let devices: Vec<_> = users
            .into_iter()
            .filter_map(|phone| state.accounts.get(phone))
            .flat_map(|account| account.devices.keys().map(|device| Namespace::Pn.device(account, *device)))
            .filter(|jid| jid.user != self.phone || jid.device != self.device)
            .collect();
        self.group_copies(state, sender, &devices)
    }

    fn group_copies(&self, state: &State, sender: &Account, devices: &[Jid]) -> Vec<Copy> {
        let namespace = self.group_namespace();
        let from = namespace.device(sender, self.device);
        let shared = self.node.get_optional_child("enc").map(NodeRef::to_owned);
        let own: Vec<_> =
            self.encrypted().filter_map(|(jid, enc)| Some((state.account_of(&jid)?.key(jid.device), enc?))).collect();
        devices
            .iter()
            .filter_map(|jid| {
                let account = state.account_of(jid)?;
                account.devices.contains_key(&jid.device).then_some(())?;
                let key = account.key(jid.device);
                let own = own.iter().find(|(owner, _)| *owner == key).map(|(_, enc)| enc.clone());
                let mut stanza = self.envelopes(sender, &self.to, own.into_iter().chain(shared.clone()));
                let (name, other) = alternative("participant", namespace, sender, self.device);
                stanza.attrs.insert("participant", &from);
                stanza.attrs.insert(name, other);
                if self.is_group() {
                    stanza.attrs.insert("addressing_mode", mode(namespace));
                }
                Some(Copy { key, from: self.to.clone(), stanza })
            })
            .collect()
    }

    /// The namespace a group's members are shown in: the one the sender used.
    fn group_namespace(&self) -> Namespace {
        match text_attr(self.node, "addressing_mode").as_deref() {
            Some("lid") => Namespace::Lid,
            Some(_) => Namespace::Pn,
            None => self.encrypted().next().map_or(Namespace::Pn, |(jid, _)| Namespace::of(&jid)),
        }
    }

    fn envelope(&self, sender: &Account, from: &Jid, enc: Node) -> Node {
        self.envelopes(sender, from, std::iter::once(enc))
    }

    /// The stanza with these ciphertexts and what else the sender put into it.
    fn envelopes(&self, sender: &Account, from: &Jid, encs: impl Iterator<Item = Node>) -> Node {
        let mut children: Vec<_> = encs.collect();
        let opens_session = children.iter().any(|enc| enc.attrs.get("type").is_some_and(|kind| kind == "pkmsg"));
        let rest = self.node.children().unwrap_or_default().iter();
        children.extend(
            rest.filter(|child| {
                !matches!(child.tag.as_ref(), "participants" | "enc" | "device-identity" | "tctoken" | "cstoken")
            })
            .map(NodeRef::to_owned),
        );
        if let Some(device) = sender.devices.get(&self.device).filter(|_| opens_session) {
            let identity = device.record.device_identity.to_vec();
            children.push(NodeBuilder::new("device-identity").bytes(identity).build());
        }
        let mut stanza = NodeBuilder::new("message")
            .attr("from", from)
            .attr("id", self.id.as_str())
            .attr("t", now())
            // Tells a stanza that is handed over again from a message that was sent again.
            .attr("sts", now_micros())
            .attr("notify", sender.record.name.as_str());
        for name in ["type", "edit", "category"] {
            if let Some(value) = text_attr(self.node, name) {
                stanza = stanza.attr(name, value);
            }
        }
        stanza.children(children).build()
    }
}

/// The attribute that names a device in the other namespace.
fn alternative(whom: &'static str, namespace: Namespace, account: &Account, device: u16) -> (&'static str, Jid) {
    let name = match (whom, namespace) {
        ("sender", Namespace::Pn) => "sender_lid",
        ("sender", Namespace::Lid) => "sender_pn",
        (_, Namespace::Pn) => "participant_lid",
        (_, Namespace::Lid) => "participant_pn",
    };
    (name, namespace.other().device(account, device))
}

/// How a group's addressing is written.
pub(super) fn mode(namespace: Namespace) -> &'static str {
    match namespace {
        Namespace::Pn => "pn",
        Namespace::Lid => "lid",
    }
}

/// Queues a stanza of the server's own for some devices and delivers it.
pub(crate) fn queue_for(state: &mut State, keys: Vec<DeviceKey>, class: &str, stanza: &Node) -> Option<()> {
    let id = stanza.attrs.get("id")?.as_str().into_owned();
    let from = canonical(state, &stanza.attrs.get("from")?.to_jid()?);
    let bytes = Bytes::from(marshal(stanza).ok()?);
    let entries: Vec<_> =
        keys.into_iter().map(|key| state.entry(key, class, &id, from.clone(), bytes.clone())).collect();
    if entries.is_empty() {
        return Some(());
    }
    state.commit(Change::Queued(QueuedRecord { entries: entries.clone() })).ok()?;
    state.deliver(&entries);
    Some(())
}

/// Used by the handsets: every account that has a copy of this message on its handset.
pub(super) fn handsets_reached<'a>(state: &'a State, handed: &Handed<'_>) -> Vec<&'a Account> {
    let others = |account: &&Account| account.phone() != handed.phone && account.record.handset_online;
    match handed.to.server {
        Server::Group => {
            let members = state.groups.get(handed.to.user.as_str());
            let members = members.map(|group| group.record.members.as_slice()).unwrap_or_default();
            members.iter().filter_map(|phone| state.accounts.get(phone)).filter(others).collect()
        }
        _ => handed
            .encrypted()
            .filter(|(jid, _)| jid.device == 0)
            .filter_map(|(jid, _)| state.account_of(&jid))
            .filter(others)
            .collect(),
    }
}
