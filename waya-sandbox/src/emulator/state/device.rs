//! A linked device: its registration, one-time keys, queue, and live session if it has one.

use std::collections::VecDeque;

use super::queue::DeviceQueue;
use super::record::{DeviceRecord, PreKey};
use crate::emulator::wire::ConnectionHandle;

/// One linked device of an account.
#[derive(Debug)]
pub(crate) struct Device {
    pub(crate) record: DeviceRecord,
    pub(crate) pre_keys: VecDeque<PreKey>,
    pub(crate) queue: DeviceQueue,
    /// Whether the handset's app-state keys were queued for it.
    pub(crate) keys_shared: bool,
    pub(crate) session: Option<Session>,
}

/// A device that is logged in.
#[derive(Debug, Clone)]
pub(crate) struct Session {
    pub(crate) connection: ConnectionHandle,
    /// Set once the client asked for its queue; before that nothing is relayed to it live.
    pub(crate) active: bool,
}

impl Device {
    pub(crate) fn new(record: DeviceRecord) -> Self {
        Self { record, pre_keys: VecDeque::new(), queue: DeviceQueue::default(), keys_shared: false, session: None }
    }

    /// The connection that takes live stanzas, if there is one.
    pub(crate) fn live(&self) -> Option<&ConnectionHandle> {
        self.session.as_ref().filter(|session| session.active).map(|session| &session.connection)
    }
}
