use crate::emulator::Emulator;
use crate::emulator::session::Session;
use crate::emulator::state::State;
use whatsapp_rust::wacore_binary::NodeRef;
#[derive(Debug, Default)]
pub(crate) struct Presences {}
pub(crate) fn take(_session: &Session, _phone: &str, _device: u16, _node: &NodeRef<'_>) {}
pub(crate) fn take_chatstate(_session: &Session, _phone: &str, _device: u16, _node: &NodeRef<'_>) {}
pub(crate) fn left(_emulator: &Emulator, _state: &State, _phone: &str, _device: u16) {}
