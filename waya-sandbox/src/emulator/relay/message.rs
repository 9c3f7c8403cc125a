//! Messages: from one device to every device it was encrypted for.
//!
//! The queue entries of all recipients and the sender's count are one journal record, written
//! before the ack leaves: an acked message is never lost, a lost one was never acked.

use bytes::Bytes;
use whatsapp_rust::wacore_binary::builder::NodeBuilder;
use whatsapp_rust::wacore_binary::{Jid, Node, NodeRef, Server, marshal};

use super::{canonical, handsets, jid_attr, newsletter, text_attr, tokens};
use crate::emulator::faults::{AckFate, Whom};
use crate::emulator::handset;
use crate::emulator::session::Session;
use crate::emulator::state::State;
use crate::emulator::state::record::{Change, DeviceKey, QueueEntry, QueuedRecord, RelayedRecord};
use crate::emulator::wire::ConnectionHandle;

/// The refusal of a message to somebody who does not vouch for its sender.
const TIME_LOCKED: u16 = 463;

/// A message as its sender handed it over.
pub(super) struct Handed<'a> {
    pub(super) node: &'a NodeRef<'a>,
    pub(super) id: String,
    pub(super) to: Jid,
    /// Account and device of the sender.
    pub(super) phone: &'a str,
    pub(super) device: u16,
    /// When: Unix microseconds.
    pub(super) micros: i64,
}

/// Takes a message from its sender, queues it for its recipients, and acks it.
pub(crate) fn take(session: &Session, phone: &str, device: u16, node: &NodeRef<'_>) {
    let (Some(id), Some(to)) = (text_attr(node, "id"), jid_attr(node, "to")) else {
        return tracing::debug!("a message without id or recipient");
    };
    let handed = Handed { node, id, to, phone, device, micros: session.emulator.clock().micros() };
    let emulator = &session.emulator;
    let counted = handed.is_counted();
    let fate = if counted { emulator.fault_rules().ack_fate(Whom(phone, Some(device))) } else { AckFate::Prompt };
    let mut state = emulator.state();
    if let AckFate::Refused(code) = fate {
        state.counts.of(phone).nacked += 1;
        session.connection.send_node(&handed.ack(Some(code)));
        return;
    }
    if counted && handed.is_to_stranger(&state) && emulator.fault_rules().refuses_strangers(Whom(phone, Some(device))) {
        state.counts.of(phone).nacked += 1;
        session.connection.send_node(&handed.ack(Some(TIME_LOCKED)));
        return;
    }
    if let Some(code) = handed.refusal(&state) {
        session.connection.send_node(&handed.ack(Some(code)));
        return;
    }
    let mut ack = handed.ack(None);
    if handed.to.server == Server::Newsletter {
        match newsletter::publish(&mut state, &handed) {
            Ok(number) => ack.attrs.insert("server_id", number.to_string()),
            Err(code) => {
                session.connection.send_node(&handed.ack(Some(code)));
                return;
            }
        }
    } else if relay(&mut state, &handed, counted).is_none() {
        return;
    }
    if let Some(hash) = handed.other_participants_hash(&state) {
        ack.attrs.insert("phash", hash);
    }
    if handed.is_to_own_handset(&state) {
        handset::hear(emulator, &mut state, (phone, device), node);
    }
    if handed.is_resend() {
        state.counts.of(phone).resent(&handed.id);
    }
    if counted {
        handsets::confirm(emulator, &mut state, &handed);
        handsets::lay_down(&mut state, &handed);
        let counts = state.counts.of(phone);
        counts.in_flight += 1;
        *counts.unacked_ids.entry(handed.id.clone()).or_default() += 1;
    }
    let ack = PendingAck { connection: session.connection.clone(), ack, id: handed.id, counted };
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
    id: String,
    counted: bool,
}

impl PendingAck {
    fn settle(&self, state: &mut State, phone: &str, send: bool) {
        let sent = send && self.connection.send_node(&self.ack);
        if !self.counted {
            return;
        }
        let counts = state.counts.of(phone);
        // None is, after a restart of the server.
        counts.in_flight = counts.in_flight.saturating_sub(1);
        if sent {
            counts.acked += 1;
            counts.unacked_ids.remove(&self.id);
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
        let handsets = handsets::away(state, handed);
        Change::Relayed(RelayedRecord {
            sender: handed.phone.to_owned(),
            id: handed.id.clone(),
            entries: entries.clone(),
            waits: (!handsets.is_empty()).then(|| handsets::to_be_confirmed(handed)),
            handsets,
        })
    } else {
        Change::Queued(QueuedRecord { entries: entries.clone() })
    };
    state.commit(change).ok()?;
    state.deliver(&entries);
    Some(())
}

impl Handed<'_> {
    /// When, in Unix seconds.
    pub(super) fn at(&self) -> i64 {
        self.micros / 1_000_000
    }

    /// Peer messages and resends for one device are part of the machinery, not messages.
    fn is_counted(&self) -> bool {
        !self.is_peer() && !self.is_resend()
    }

    pub(super) fn is_peer(&self) -> bool {
        self.node.get_attr("category").is_some_and(|category| category == "peer")
    }

    fn is_to_own_handset(&self, state: &State) -> bool {
        let own = || state.account_of(&self.to).is_some_and(|account| account.phone() == self.phone);
        self.is_peer() && self.to.device == 0 && own()
    }

    fn is_resend(&self) -> bool {
        self.node.get_optional_child("enc").is_some_and(|enc| enc.get_attr("count").is_some())
    }

    pub(super) fn is_group(&self) -> bool {
        self.to.server == Server::Group
    }

    /// Whether it goes to one person, who does not vouch for its sender.
    fn is_to_stranger(&self, state: &State) -> bool {
        let recipient = state.account_of(&self.to).filter(|recipient| recipient.phone() != self.phone);
        recipient.is_some_and(|recipient| !tokens::brings(self.node, recipient, self.phone))
    }

    /// Why this message is refused by itself, faults aside.
    fn refusal(&self, state: &State) -> Option<u16> {
        if !self.is_group() {
            return None;
        }
        match state.groups.get(self.to.user.as_str()) {
            None => Some(404),
            Some(group) if !group.may_write(self.phone) => Some(403),
            Some(_) => None,
        }
    }

    fn ack(&self, error: Option<u16>) -> Node {
        let mut ack = NodeBuilder::new("ack")
            .attr("class", "message")
            .attr("id", self.id.as_str())
            .attr("from", &self.to)
            .attr("t", self.at());
        if let Some(participant) = jid_attr(self.node, "participant") {
            ack = ack.attr("participant", participant);
        }
        if let Some(code) = error {
            ack = ack.attr("error", code);
        }
        ack.build()
    }
}

/// A stanza of the server's own as it is queued for some devices.
pub(super) fn entries(state: &mut State, keys: Vec<DeviceKey>, class: &str, stanza: &Node) -> Option<Vec<QueueEntry>> {
    let id = stanza.attrs.get("id")?.as_str().into_owned();
    let from = canonical(state, &stanza.attrs.get("from")?.to_jid()?);
    let bytes = Bytes::from(marshal(stanza).ok()?);
    Some(keys.into_iter().map(|key| state.entry(key, class, &id, from.clone(), bytes.clone())).collect())
}

/// Queues a stanza of the server's own for some devices and delivers it.
pub(crate) fn queue_for(state: &mut State, keys: Vec<DeviceKey>, class: &str, stanza: &Node) -> Option<()> {
    let entries = entries(state, keys, class, stanza)?;
    if entries.is_empty() {
        return Some(());
    }
    state.commit(Change::Queued(QueuedRecord { entries: entries.clone() })).ok()?;
    state.deliver(&entries);
    Some(())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::emulator::session::trial::{ANI, sessions, told_by};

    #[tokio::test]
    async fn a_peer_message_goes_to_the_one_device_that_it_names() {
        let mut trial = sessions().await;
        trial.go_live();
        let (_second, mut second) = trial.another(ANI, 2);
        let (_third, mut third) = trial.another(ANI, 3);
        let _ = (told_by(&mut second), told_by(&mut third), trial.told(0));
        let enc = NodeBuilder::new("enc").attr("v", "2").attr("type", "msg").bytes(vec![1, 2, 3]).build();
        let message = NodeBuilder::new("message").attr("to", Jid::pn_device(ANI, 2)).attr("id", "A");
        trial.sessions[0].hand(&message.attr("category", "peer").attr("type", "text").children([enc]).build());
        let told = told_by(&mut second);
        assert_eq!(told.len(), 1);
        let attr = |name: &str| told[0].attrs.get(name).map(|value| value.as_str().into_owned());
        assert_eq!(attr("from"), Some(Jid::pn_device(ANI, 1).to_string()));
        assert_eq!((attr("category").as_deref(), attr("recipient")), (Some("peer"), None));
        assert!(told_by(&mut third).is_empty());
        assert_eq!(trial.told(0).iter().filter(|node| node.tag == "ack").count(), 1);
        assert_eq!(trial.emulator.stats().relayed, 0, "it is none of the messages that are counted");
    }
}
