use crate::emulator::session::Session;
use whatsapp_rust::wacore_binary::NodeRef;
pub(crate) fn take(_session: &Session, _phone: &str, _device: u16, _node: &NodeRef<'_>) {}
pub(crate) fn take_ack(_session: &Session, _phone: &str, _device: u16, _node: &NodeRef<'_>) {}
