//! The connections alive now, and what faults and the phone do to them.

use std::collections::HashMap;
use std::sync::Mutex;

use whatsapp_rust::wacore_binary::Node;
use whatsapp_rust::wacore_binary::builder::NodeBuilder;

use crate::emulator::wire::{ConnectionHandle, Outgoing};
use crate::emulator::{Emulator, Fault, FaultTarget, lock, relay};

/// Every live connection, with the phone it is logged in for.
#[derive(Debug, Default)]
pub(crate) struct Connections {
    live: Mutex<HashMap<u64, (ConnectionHandle, Option<String>)>>,
}

impl Connections {
    pub(crate) fn add(&self, connection: &ConnectionHandle, phone: Option<&str>) {
        let entry = (connection.clone(), phone.map(ToOwned::to_owned));
        lock::mutex(&self.live).insert(connection.id, entry);
    }

    pub(crate) fn remove(&self, connection: &ConnectionHandle) {
        lock::mutex(&self.live).remove(&connection.id);
    }

    fn of(&self, target: &FaultTarget) -> Vec<(ConnectionHandle, Option<String>)> {
        let live = lock::mutex(&self.live);
        let hit = |phone: &Option<String>| match target {
            FaultTarget::All => true,
            FaultTarget::Phone(wanted) => phone.as_ref() == Some(wanted),
        };
        live.values().filter(|(_, phone)| hit(phone)).cloned().collect()
    }
}

/// Carries out a one-shot fault.
pub(crate) fn strike(emulator: &Emulator, fault: Fault, target: &FaultTarget) {
    let hit = emulator.connections().of(target);
    match fault {
        Fault::LoggedOut => {
            let phones: Vec<_> = match target {
                FaultTarget::Phone(phone) => vec![phone.clone()],
                FaultTarget::All => emulator.state().accounts.keys().cloned().collect(),
            };
            for phone in phones {
                unlink(emulator, &phone);
            }
        }
        Fault::Replaced => {
            for (connection, phone) in hit {
                if phone.is_some() {
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
        Fault::Cut => tell_all(&hit, || Outgoing::Cut),
        Fault::CutMidFrame => tell_all(&hit, || Outgoing::CutMidFrame),
        _ => {}
    }
}

fn tell_all(hit: &[(ConnectionHandle, Option<String>)], what: impl Fn() -> Outgoing) {
    for (connection, _) in hit {
        connection.tell(what());
    }
}

/// Unlinks every device of a phone and tells those that are connected; returns how many.
pub(crate) fn unlink(emulator: &Emulator, phone: &str) -> usize {
    let mut state = emulator.state();
    let Some(account) = state.accounts.get(phone) else { return 0 };
    let devices: Vec<_> =
        account.devices.iter().map(|(number, device)| (account.key(*number), device.session.clone())).collect();
    let count = devices.len();
    for (key, session) in devices {
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
