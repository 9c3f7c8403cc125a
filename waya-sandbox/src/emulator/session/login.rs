//! Login of a linked device, and what is handed to it before it is live.

use whatsapp_rust::wacore_binary::builder::NodeBuilder;
use whatsapp_rust::wacore_binary::marshal::unmarshal_ref;
use whatsapp_rust::wacore_binary::{Jid, Node, marshal};
use whatsapp_rust::waproto::whatsapp as wa;

use super::Client;
use super::connections::replaced;
use crate::emulator::faults::{Way, Whom};
use crate::emulator::state::record::QueueEntry;
use crate::emulator::state::{Session as Login, State};
use crate::emulator::wire::{ConnectionHandle, Outgoing};
use crate::emulator::{Emulator, handset, now, relay};

/// Lets a device in, or says why not.
pub(super) fn log_in(
    emulator: &Emulator,
    connection: &ConnectionHandle,
    client_static: &[u8; 32],
    payload: &wa::ClientPayload,
) -> Option<Client> {
    let phone = payload.username?.to_string();
    let device = u16::try_from(payload.device.unwrap_or(0)).ok()?;
    let rules = emulator.fault_rules();
    if rules.refuses_connection(Whom(&phone, Some(device))) {
        connection.tell(Outgoing::Cut);
        return None;
    }
    if let Some(code) = rules.login_failure(Whom(&phone, Some(device))) {
        return refuse(connection, code);
    }
    let mut state = emulator.state();
    let lid = state.accounts.get(&phone).map(|account| account.record.lid.clone());
    let known = state.device_mut(&phone, device).filter(|known| known.record.noise_public[..] == client_static[..]);
    let (Some(known), Some(lid)) = (known, lid) else {
        return refuse(connection, 401);
    };
    let session = Login { connection: connection.clone(), active: false };
    if let Some(previous) = known.session.replace(session) {
        previous.connection.send_node(&replaced());
        previous.connection.tell(Outgoing::Close);
    }
    emulator.connections().add(connection, Some((&phone, device)));
    connection.found(Way::new(rules.clone(), &phone, device));
    connection.send_node(&success(&lid, device));
    drop(state);
    tracing::debug!(device, "logged in");
    Some(Client::Device { phone, device })
}

fn refuse(connection: &ConnectionHandle, code: u16) -> Option<Client> {
    let mut failure = NodeBuilder::new("failure").attr("reason", code).attr("location", "sandbox");
    if code == 402 {
        failure = failure.attr("code", "101").attr("expire", "3600");
    }
    connection.send_node(&failure.build());
    connection.tell(Outgoing::Close);
    None
}

fn success(lid: &str, device: u16) -> Node {
    NodeBuilder::new("success")
        .attr("t", now())
        .attr("lid", Jid::lid_device(lid, device))
        .attr("props", "27")
        .attr("location", "sandbox")
        .build()
}

/// The device asked for what is kept for it; from now on it gets everything live.
pub(crate) fn activate(emulator: &Emulator, connection: &ConnectionHandle, phone: &str, device: u16) {
    handset::share_keys_if_due(emulator, phone, device);
    let mut state = emulator.state();
    let Some(known) = state.device_mut(phone, device) else { return };
    match &mut known.session {
        Some(session) if session.connection.id == connection.id && !session.active => session.active = true,
        _ => return,
    }
    let entries: Vec<_> = known.queue.iter().cloned().collect();
    if !entries.is_empty() {
        connection.send_node(&preview(&entries));
    }
    for entry in &entries {
        if let Some(stanza) = as_offline(entry) {
            connection.send(stanza.into());
        }
    }
    connection.send_node(&info(NodeBuilder::new("offline").attr("count", entries.len()).build()));
}

fn as_offline(entry: &QueueEntry) -> Option<Vec<u8>> {
    let mut node = unmarshal_ref(entry.stanza.get(1..)?).ok()?.to_owned();
    node.attrs.insert("offline", "1");
    marshal(&node).ok()
}

fn preview(entries: &[QueueEntry]) -> Node {
    let count = |class: &str| entries.iter().filter(|entry| entry.class == class).count();
    info(
        NodeBuilder::new("offline_preview")
            .attr("count", entries.len())
            .attr("message", count("message"))
            .attr("receipt", count("receipt"))
            .attr("notification", count("notification"))
            .attr("appdata", 0)
            .attr("call", 0)
            .build(),
    )
}

fn info(child: Node) -> Node {
    NodeBuilder::new("ib").attr("from", "s.whatsapp.net").children([child]).build()
}

/// A device's connection ended.
pub(super) fn log_out(emulator: &Emulator, connection: &ConnectionHandle, phone: &str, device: u16) {
    let mut state = emulator.state();
    if forget_session(&mut state, connection, phone, device) {
        relay::presence::left(emulator, &state, phone, device);
    }
}

fn forget_session(state: &mut State, connection: &ConnectionHandle, phone: &str, device: u16) -> bool {
    let Some(known) = state.device_mut(phone, device) else { return false };
    let own = known.session.as_ref().is_some_and(|session| session.connection.id == connection.id);
    if own {
        known.session = None;
    }
    own
}
