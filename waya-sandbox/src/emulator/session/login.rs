//! Login of a linked device.

use whatsapp_rust::wacore_binary::builder::NodeBuilder;
use whatsapp_rust::wacore_binary::{Jid, Node};
use whatsapp_rust::waproto::whatsapp as wa;

use super::Client;
use super::connections::replaced;
use crate::emulator::faults::{Way, Whom};
use crate::emulator::state::{Flow, Session as Login};
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
        connection.cut();
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
    // Who does not say that it wants to be asked first gets what is kept for it at once.
    if !payload.passive.unwrap_or_default() {
        activate(emulator, connection, &phone, device);
    }
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
    if let Some(known) = state.device_mut(phone, device) {
        if known.session.as_ref().is_some_and(|session| session.connection.id != connection.id) {
            // Another connection took its place.
            return;
        }
        known.session = None;
    }
    // Also when the device is gone: it was unlinked, and is not there any more either.
    relay::presence::ended(emulator, &state, phone, device);
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use bytes::Bytes;
    use whatsapp_rust::waproto::whatsapp as wa;

    use super::*;
    use crate::emulator::session::trial::{ANI, sessions, told_by};
    use crate::emulator::state::record::Change;

    #[tokio::test]
    async fn who_logs_in_to_be_asked_first_gets_nothing_before_it_asks() {
        for (passive, active) in [(Some(true), false), (Some(false), true), (None, true)] {
            let trial = sessions().await;
            let mut record = trial.emulator.state().device(ANI, 1).unwrap().record.clone();
            record.noise_public = Bytes::from_static(&[7; 32]);
            trial.emulator.state().commit(Change::Device(record)).unwrap();
            let (connection, mut outgoing) = ConnectionHandle::new(usize::MAX);
            let payload = wa::ClientPayload {
                username: Some(ANI.parse().unwrap()),
                device: Some(1),
                passive,
                ..Default::default()
            };
            log_in(&trial.emulator, &connection, &[7; 32], &payload).unwrap();
            let told = told_by(&mut outgoing);
            assert_eq!(told[0].tag, "success");
            let online = told.iter().any(|node| node.get_optional_child("offline").is_some());
            assert_eq!(online, active, "passive is {passive:?}");
        }
    }
}
