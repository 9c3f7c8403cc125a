//! The emulated handsets: they scan codes, sign devices in, and hand over app-state keys.

use whatsapp_rust::waproto::whatsapp as wa;

use super::wire::ConnectionHandle;
use super::{Emulator, ScanError, ScannedDevice};

#[derive(Debug, Default)]
pub(crate) struct Pairings {}

impl Pairings {
    pub(crate) fn forget(&self, _connection: &ConnectionHandle) {}
}

pub(crate) fn offer_pairing(
    _emulator: &Emulator,
    _connection: &ConnectionHandle,
    _client_static: [u8; 32],
    _payload: &wa::ClientPayload,
) -> Option<()> {
    Some(())
}

pub(crate) async fn scan_qr(_emulator: &Emulator, _qr: &str, _phone: Option<&str>) -> Result<ScannedDevice, ScanError> {
    Err(ScanError::UnknownCode)
}

pub(crate) async fn enter_pair_code(
    _emulator: &Emulator,
    _phone: &str,
    _code: &str,
) -> Result<ScannedDevice, ScanError> {
    Err(ScanError::UnknownCode)
}

pub(crate) fn share_keys_if_due(_emulator: &Emulator, _phone: &str, _device: u16) {}
