//! What a connection is for the server: a client that waits to be paired, or a linked device.

mod connections;
mod login;

use whatsapp_rust::wacore_binary::NodeRef;
use whatsapp_rust::waproto::whatsapp as wa;

use super::wire::ConnectionHandle;
use super::{Emulator, handset, iq, relay};
pub(super) use connections::{Connections, device_removed, strike, unlink};
pub(super) use login::activate;

/// A connection after its handshake.
#[derive(Debug)]
pub(crate) struct Session {
    pub(crate) emulator: Emulator,
    pub(crate) connection: ConnectionHandle,
    pub(crate) client: Client,
}

/// Who is at the other end.
#[derive(Debug)]
pub(crate) enum Client {
    /// A client that shows a QR or a pairing code.
    Unpaired,
    /// A linked device that logged in.
    Device {
        /// The account.
        phone: String,
        /// The device number.
        device: u16,
    },
}

/// Starts the session a client asks for; `None` if it was refused.
pub(crate) fn begin(
    emulator: &Emulator,
    connection: &ConnectionHandle,
    client_static: [u8; 32],
    payload: &wa::ClientPayload,
) -> Option<Session> {
    let client = if payload.username.is_some() {
        login::log_in(emulator, connection, &client_static, payload)?
    } else {
        handset::offer_pairing(emulator, connection, client_static, payload)?;
        emulator.connections().add(connection, None);
        Client::Unpaired
    };
    Some(Session { emulator: emulator.clone(), connection: connection.clone(), client })
}

impl Session {
    /// Handles one stanza; false ends the connection.
    pub(crate) fn handle(&self, node: &NodeRef<'_>) -> bool {
        match (node.tag.as_ref(), &self.client) {
            ("iq", _) => iq::handle(self, node),
            ("message", Client::Device { phone, device }) => {
                relay::message::take(self, phone, *device, node);
            }
            ("receipt", Client::Device { phone, device }) => {
                relay::receipt::take(self, phone, *device, node);
            }
            ("ack", Client::Device { phone, device }) => {
                relay::receipt::take_ack(self, phone, *device, node);
            }
            ("ib", Client::Device { phone, device }) => {
                relay::backlog::take_request(self, phone, *device, node);
            }
            ("presence", Client::Device { phone, device }) => {
                relay::presence::take(self, phone, *device, node);
            }
            ("chatstate", Client::Device { phone, .. }) => {
                relay::presence::take_chatstate(self, phone, node);
            }
            ("xmlstreamend", _) => return false,
            (tag, _) => tracing::trace!(tag, "a stanza that needs no answer"),
        }
        true
    }

    /// The connection ended.
    pub(crate) fn end(&self) {
        self.emulator.connections().remove(&self.connection);
        self.emulator.pairings().forget(&self.connection);
        if let Client::Device { phone, device } = &self.client {
            login::log_out(&self.emulator, &self.connection, phone, *device);
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod hostile_tests;
#[cfg(any(test, fuzzing))]
#[allow(clippy::unwrap_used)]
pub(crate) mod trial;
