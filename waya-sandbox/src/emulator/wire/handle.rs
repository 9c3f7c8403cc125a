//! The cheap handle by which everybody else speaks to a connection.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::{mpsc, oneshot};
use whatsapp_rust::wacore_binary::{Node, marshal};

use crate::emulator::faults::{OVERTAKEN, Passed, Way};
use crate::emulator::lock;

static NEXT_ID: AtomicU64 = AtomicU64::new(1);

/// What the writing half of a connection is told.
#[derive(Debug)]
pub(crate) enum Outgoing {
    /// A marshalled stanza.
    Stanza(Bytes),
    /// What follows waits for so long.
    Pause(Duration),
    /// Everything before this is written, then the WebSocket is closed.
    Close,
    /// The socket is dropped without a word.
    Cut,
    /// Half a frame is written, then the socket is dropped.
    CutMidFrame,
}

/// A live connection as seen by everybody but itself.
#[derive(Debug, Clone)]
pub(crate) struct ConnectionHandle {
    pub(crate) id: u64,
    outgoing: mpsc::UnboundedSender<Outgoing>,
    answers: Arc<Mutex<HashMap<String, oneshot::Sender<Node>>>>,
    /// Known once somebody logged in on it.
    way: Arc<OnceLock<Way>>,
}

impl ConnectionHandle {
    pub(in crate::emulator) fn new() -> (Self, mpsc::UnboundedReceiver<Outgoing>) {
        let (outgoing, receiver) = mpsc::unbounded_channel();
        let id = NEXT_ID.fetch_add(1, Ordering::Relaxed);
        (Self { id, outgoing, answers: Arc::default(), way: Arc::default() }, receiver)
    }

    /// Queues a marshalled stanza; false if the connection is gone.
    pub(crate) fn send(&self, stanza: Bytes) -> bool {
        match self.way.get().and_then(|way| way.pass(&stanza)) {
            None => self.tell(Outgoing::Stanza(stanza)),
            Some(passed) => self.send_passed(passed),
        }
    }

    fn send_passed(&self, passed: Passed) -> bool {
        if let Some(pause) = passed.pause {
            self.tell(Outgoing::Pause(pause));
        }
        if passed.waits {
            let connection = self.clone();
            tokio::spawn(async move {
                let alone = tokio::time::timeout(OVERTAKEN, connection.gone()).await.is_err();
                if let Some(stanza) = connection.way.get().and_then(Way::overtaken).filter(|_| alone) {
                    connection.tell(Outgoing::Stanza(stanza));
                }
            });
        }
        passed.stanzas.into_iter().all(|stanza| self.tell(Outgoing::Stanza(stanza))) && !self.outgoing.is_closed()
    }

    /// Says who is at the other end, so that faults can find them.
    pub(crate) fn found(&self, way: Way) {
        let _ = self.way.set(way);
    }

    /// Queues a stanza; false if the connection is gone or the stanza cannot be marshalled.
    pub(crate) fn send_node(&self, node: &Node) -> bool {
        match marshal(node) {
            Ok(stanza) => self.send(stanza.into()),
            Err(error) => {
                tracing::error!(%error, tag = %node.tag, "cannot marshal a stanza");
                false
            }
        }
    }

    /// Waits until the connection has ended.
    pub(crate) async fn gone(&self) {
        self.outgoing.closed().await;
    }

    pub(crate) fn tell(&self, what: Outgoing) -> bool {
        self.outgoing.send(what).is_ok()
    }

    /// Sends a request of the server's own; the receiver gets the client's answer, or an error
    /// when the connection ends first.
    pub(crate) fn request(&self, id: &str, node: &Node) -> oneshot::Receiver<Node> {
        let (sender, receiver) = oneshot::channel();
        lock::mutex(&self.answers).insert(id.to_owned(), sender);
        if !self.send_node(node) {
            lock::mutex(&self.answers).remove(id);
        }
        receiver
    }

    /// Hands the client's answer to whoever asked; false if nobody did.
    pub(crate) fn answered(&self, id: &str, answer: Node) -> bool {
        let asked = lock::mutex(&self.answers).remove(id);
        asked.is_some_and(|sender| sender.send(answer).is_ok())
    }

    /// Fails every request still open.
    pub(super) fn closed(&self) {
        lock::mutex(&self.answers).clear();
    }
}
