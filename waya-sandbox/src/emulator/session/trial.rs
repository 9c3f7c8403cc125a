//! Sessions without anybody at the other end, for what tries the server out.

use tokio::sync::mpsc::UnboundedReceiver;
#[cfg(test)]
use whatsapp_rust::wacore_binary::{Node, marshal, marshal::unmarshal_ref};

use super::{Client, Session};
use crate::emulator::state::record::{Change, DeviceKey, DeviceRecord};
use crate::emulator::state::{Flow, Session as Login};
use crate::emulator::wire::{ConnectionHandle, Outgoing};
use crate::emulator::{Emulator, EmulatorConfig};

/// Whose device is linked.
pub(crate) const ANI: &str = "6281200000001";
/// Who else is in her group.
pub(crate) const BUDI: &str = "6281200000002";

/// A server with sessions on it.
#[cfg_attr(fuzzing, expect(dead_code, reason = "there to be kept, not to be looked at"))]
pub(crate) struct Trial {
    pub(crate) emulator: Emulator,
    /// Of Ani's device 1, and of a client that is not linked.
    pub(crate) sessions: Vec<Session>,
    /// What they were told.
    told: Vec<UnboundedReceiver<Outgoing>>,
}

impl Trial {
    /// The stanzas that a session was sent since it was last asked.
    #[cfg(test)]
    pub(crate) fn told(&mut self, session: usize) -> Vec<Node> {
        told_by(&mut self.told[session])
    }

    /// One more device of an account that there is, logged in and live, with what it is told.
    #[cfg(test)]
    pub(crate) fn another(&self, phone: &str, device: u16) -> (Session, UnboundedReceiver<Outgoing>) {
        let key = DeviceKey { phone: phone.to_owned(), device: u32::from(device) };
        let record = DeviceRecord { key, ..Default::default() };
        crate::emulator::relay::devices::link(&mut self.emulator.state(), record).unwrap();
        let (connection, outgoing) = ConnectionHandle::new(usize::MAX);
        let login = Login { connection: connection.clone(), flow: Flow::Live };
        self.emulator.state().device_mut(phone, device).unwrap().session = Some(login);
        let client = Client::Device { phone: phone.to_owned(), device };
        (Session { emulator: self.emulator.clone(), connection, client }, outgoing)
    }

    /// Has the linked device get everything as it comes.
    #[cfg(test)]
    pub(crate) fn go_live(&self) {
        self.emulator.state().device_mut(ANI, 1).unwrap().session.as_mut().unwrap().flow = Flow::Live;
    }
}

#[cfg(test)]
impl Session {
    /// Hands over a stanza as it comes from the wire.
    pub(crate) fn hand(&self, node: &Node) {
        let bytes = marshal(node).unwrap();
        self.handle(&unmarshal_ref(&bytes[1..]).unwrap());
    }
}

/// The stanzas that a connection was told since it was last asked.
#[cfg(test)]
pub(crate) fn told_by(outgoing: &mut UnboundedReceiver<Outgoing>) -> Vec<Node> {
    let mut stanzas = Vec::new();
    while let Ok(told) = outgoing.try_recv() {
        if let Outgoing::Stanza(bytes) = told {
            stanzas.push(unmarshal_ref(&bytes[1..]).unwrap().to_owned());
        }
    }
    stanzas
}

/// A session of a device that is linked, and one of a client that is not.
pub(crate) async fn sessions() -> Trial {
    let emulator = Emulator::open(EmulatorConfig::default()).await.unwrap();
    emulator.ensure_account(ANI, "Ani");
    emulator.ensure_account(BUDI, "Budi");
    emulator.ensure_group("Team", &[ANI.to_owned(), BUDI.to_owned()]);
    let key = DeviceKey { phone: ANI.to_owned(), device: 1 };
    emulator.state().commit(Change::Device(DeviceRecord { key, ..Default::default() })).unwrap();
    let clients = [Client::Device { phone: ANI.to_owned(), device: 1 }, Client::Unpaired];
    let mut told = Vec::new();
    let sessions = clients.map(|client| {
        let (connection, outgoing) = ConnectionHandle::new(usize::MAX);
        told.push(outgoing);
        if let Client::Device { phone, device } = &client
            && let Some(known) = emulator.state().device_mut(phone, *device)
        {
            known.session = Some(Login { connection: connection.clone(), flow: Flow::Silent });
        }
        Session { emulator: emulator.clone(), connection, client }
    });
    Trial { sessions: sessions.into(), told, emulator }
}
