//! The connections alive now, and what faults and the phone do to them.

use std::collections::HashMap;
use std::sync::Mutex;

use whatsapp_rust::wacore_binary::Node;
use whatsapp_rust::wacore_binary::builder::NodeBuilder;

use crate::emulator::wire::{ConnectionHandle, Outgoing};
use crate::emulator::{Emulator, Fault, FaultTarget, lock, relay};

/// A live connection, with the phone and the device that it is logged in for.
type Connected = (ConnectionHandle, Option<(String, u16)>);

/// Every live connection.
#[derive(Debug, Default)]
pub(crate) struct Connections {
    live: Mutex<HashMap<u64, Connected>>,
}

impl Connections {
    pub(crate) fn add(&self, connection: &ConnectionHandle, client: Option<(&str, u16)>) {
        let entry = (connection.clone(), client.map(|(phone, device)| (phone.to_owned(), device)));
        lock::mutex(&self.live).insert(connection.id, entry);
    }

    pub(crate) fn remove(&self, connection: &ConnectionHandle) {
        lock::mutex(&self.live).remove(&connection.id);
    }

    fn of(&self, target: &FaultTarget) -> Vec<Connected> {
        let live = lock::mutex(&self.live);
        let hit = |client: &Option<(String, u16)>| {
            target.hits(client.as_ref().map(|(phone, device)| (phone.as_str(), *device)))
        };
        live.values().filter(|(_, client)| hit(client)).cloned().collect()
    }
}

/// Carries out a one-shot fault.
pub(crate) fn strike(emulator: &Emulator, fault: Fault, target: &FaultTarget) {
    let hit = emulator.connections().of(target);
    match fault {
        Fault::LoggedOut => {
            unlink_all(emulator, target);
        }
        Fault::Replaced => {
            for (connection, client) in hit {
                if client.is_some() {
                    connection.send_node(&conflict("replaced"));
                    connection.tell(Outgoing::Close);
                }
            }
        }
        Fault::StreamError { code } => {
            for (connection, _) in hit {
                let error = NodeBuilder::new("stream:error").attr("code", code.to_string()).build();
                connection.send_node(&error);
            }
        }
        Fault::Cut => cut_all(&hit),
        Fault::Restart => {
            cut_all(&hit);
            emulator.begin_anew();
        }
        Fault::CutMidFrame => {
            for (connection, _) in hit {
                connection.tell(Outgoing::CutMidFrame);
            }
        }
        _ => {}
    }
}

fn cut_all(hit: &[Connected]) {
    for (connection, _) in hit {
        connection.cut();
    }
}

/// Unlinks every device of a phone and tells those that are connected; returns how many.
pub(crate) fn unlink(emulator: &Emulator, phone: &str) -> usize {
    unlink_all(emulator, &FaultTarget::Phone(phone.to_owned()))
}

fn unlink_all(emulator: &Emulator, target: &FaultTarget) -> usize {
    let mut state = emulator.state();
    let linked = state.accounts.values().flat_map(|account| account.devices.iter().map(move |entry| (account, entry)));
    let hit: Vec<_> = linked
        .filter(|(account, (number, _))| target.hits(Some((account.phone(), **number))))
        .map(|(account, (number, device))| (account.key(*number), device.session.clone()))
        .collect();
    let count = hit.len();
    for (key, session) in hit {
        if relay::devices::unlink(&mut state, &key).is_err() {
            continue;
        }
        if let Some(session) = session {
            session.connection.send_node(&device_removed());
            session.connection.tell(Outgoing::Close);
        }
    }
    count
}

fn conflict(kind: &'static str) -> Node {
    NodeBuilder::new("stream:error").children([NodeBuilder::new("conflict").attr("type", kind).build()]).build()
}

/// Another client logged in as the same device.
pub(crate) fn replaced() -> Node {
    conflict("replaced")
}

/// The device was unlinked.
pub(crate) fn device_removed() -> Node {
    let mut node = conflict("device_removed");
    node.attrs.insert("code", "401");
    node
}
