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
    pub(crate) flow: Flow,
}

/// What a device that is logged in gets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Flow {
    /// Nothing yet: it did not ask for its queue.
    Silent,
    /// What was kept for it, in pages; whatever comes meanwhile waits behind that.
    Backlog {
        /// Everything up to this place in line was handed over.
        handed: u64,
        /// How much that was.
        count: usize,
    },
    /// Everything as it comes.
    Live,
}

impl Device {
    pub(crate) fn new(record: DeviceRecord) -> Self {
        Self { record, pre_keys: VecDeque::new(), queue: DeviceQueue::default(), keys_shared: false, session: None }
    }

    /// The connection that takes live stanzas, if there is one.
    pub(crate) fn live(&self) -> Option<&ConnectionHandle> {
        self.session.as_ref().filter(|session| session.flow == Flow::Live).map(|session| &session.connection)
    }
}
