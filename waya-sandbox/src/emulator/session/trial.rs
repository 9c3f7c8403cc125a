//! Sessions without anybody at the other end, for what tries the server out.

use super::{Client, Session};
use crate::emulator::state::record::{Change, DeviceKey, DeviceRecord};
use crate::emulator::state::{Flow, Session as Login};
use crate::emulator::wire::ConnectionHandle;
use crate::emulator::{Emulator, EmulatorConfig};

/// Whose device is linked.
pub(crate) const ANI: &str = "6281200000001";
/// Who else is in her group.
pub(crate) const BUDI: &str = "6281200000002";

/// A session of a device that is linked, and one of a client that is not.
pub(crate) async fn sessions() -> (Emulator, Vec<Session>) {
    let emulator = Emulator::open(EmulatorConfig::default()).await.unwrap();
    emulator.ensure_account(ANI, "Ani");
    emulator.ensure_account(BUDI, "Budi");
    emulator.ensure_group("Team", &[ANI.to_owned(), BUDI.to_owned()]);
    let key = DeviceKey { phone: ANI.to_owned(), device: 1 };
    emulator.state().commit(Change::Device(DeviceRecord { key, ..Default::default() })).unwrap();
    let clients = [Client::Device { phone: ANI.to_owned(), device: 1 }, Client::Unpaired];
    let sessions = clients.map(|client| {
        let (connection, outgoing) = ConnectionHandle::new();
        // Nobody reads it; it has to stay open.
        std::mem::forget(outgoing);
        if let Client::Device { phone, device } = &client
            && let Some(known) = emulator.state().device_mut(phone, *device)
        {
            known.session = Some(Login { connection: connection.clone(), flow: Flow::Silent });
        }
        Session { emulator: emulator.clone(), connection, client }
    });
    (emulator, sessions.into())
}
