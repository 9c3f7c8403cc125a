//! Requests of clients, one file for each namespace.

use whatsapp_rust::wacore_binary::NodeRef;

use super::session::Session;

pub(crate) fn handle(_session: &Session, _node: &NodeRef<'_>) {}
