//! Login of a linked device.

use whatsapp_rust::wacore_binary::builder::NodeBuilder;
use whatsapp_rust::wacore_binary::{Jid, Node};
use whatsapp_rust::waproto::whatsapp as wa;

use super::Client;
use super::connections::replaced;
use crate::emulator::faults::{Way, Whom};
use crate::emulator::state::{Flow, Session as Login, State};
use crate::emulator::wire::{ConnectionHandle, Outgoing};
use crate::emulator::{Emulator, handset, relay};

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
    let session = Login { connection: connection.clone(), flow: Flow::Silent };
    if let Some(previous) = known.session.replace(session) {
        previous.connection.send_node(&replaced());
        previous.connection.tell(Outgoing::Close);
    }
    emulator.connections().add(connection, Some((&phone, device)));
    connection.found(Way::new(rules.clone(), &phone, device));
    connection.send_node(&success(&lid, device, state.now()));
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

fn success(lid: &str, device: u16, at: i64) -> Node {
    NodeBuilder::new("success")
        .attr("t", at)
        .attr("lid", Jid::lid_device(lid, device))
        .attr("props", "27")
        .attr("location", "sandbox")
        .build()
}

/// The device asked for what is kept for it; behind that it gets everything live.
pub(crate) fn activate(emulator: &Emulator, connection: &ConnectionHandle, phone: &str, device: u16) {
    handset::share_keys_if_due(emulator, phone, device);
    relay::backlog::begin(emulator, connection, phone, device);
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
