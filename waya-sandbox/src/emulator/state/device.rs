//! A linked device: its registration, one-time keys, queue, and live session if it has one.

use std::collections::VecDeque;

use bytes::Bytes;

use super::queue::DeviceQueue;
use super::record::{DeviceRecord, PreKey};
use crate::emulator::wire::ConnectionHandle;

/// Seconds after which nobody believes any more that somebody types.
const TYPING: i64 = 25;
/// Typing notices kept for a device at most.
const NOTICES: usize = 64;

/// Somebody types, or stopped.
#[derive(Debug, Clone)]
pub(crate) struct Notice {
    /// The chat and who types there.
    pub(crate) from: (String, String),
    /// Unix seconds.
    pub(crate) at: i64,
    pub(crate) stanza: Bytes,
}

/// One linked device of an account.
#[derive(Debug)]
pub(crate) struct Device {
    pub(crate) record: DeviceRecord,
    pub(crate) pre_keys: VecDeque<PreKey>,
    pub(crate) queue: DeviceQueue,
    /// Whether the handset's app-state keys were queued for it.
    pub(crate) keys_shared: bool,
    pub(crate) session: Option<Session>,
    /// The latest of everybody who typed while it was away, in memory only.
    notices: VecDeque<Notice>,
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
        Self {
            record,
            pre_keys: VecDeque::new(),
            queue: DeviceQueue::default(),
            keys_shared: false,
            session: None,
            notices: VecDeque::new(),
        }
    }

    /// Hands a typing notice over, now or when it is there again.
    pub(crate) fn hear(&mut self, notice: Notice) {
        if let Some(connection) = self.live() {
            connection.send(notice.stanza);
            return;
        }
        self.notices.retain(|known| known.from != notice.from);
        self.notices.push_back(notice);
        if self.notices.len() > NOTICES {
            self.notices.pop_front();
        }
    }

    /// The notices that it missed and that still hold, in order.
    pub(crate) fn missed(&mut self, now: i64) -> impl Iterator<Item = Bytes> {
        let missed = std::mem::take(&mut self.notices).into_iter();
        missed.filter(move |notice| now - notice.at <= TYPING).map(|notice| notice.stanza)
    }

    /// The connection that takes live stanzas, if there is one.
    pub(crate) fn live(&self) -> Option<&ConnectionHandle> {
        self.session.as_ref().filter(|session| session.flow == Flow::Live).map(|session| &session.connection)
    }
}
