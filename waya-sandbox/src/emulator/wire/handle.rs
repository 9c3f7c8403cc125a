//! The cheap handle by which everybody else speaks to a connection.
//!
//! Nobody waits for a client here: what is said to it is queued, up to a limit, and a client that takes it too slowly
//! loses its connection.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;
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
    /// Everything before this is written, then the WebSocket is closed. Nothing is read any more.
    Close,
    /// Half a frame is written, then the socket is dropped.
    CutMidFrame,
}

/// How full the way out of a connection is, and how it ends.
#[derive(Debug)]
pub(super) struct Line {
    waiting: AtomicUsize,
    most: usize,
    cut: CancellationToken,
    closing: CancellationToken,
}

impl Line {
    /// So many bytes were written.
    pub(super) fn written(&self, bytes: usize) {
        self.waiting.fetch_sub(bytes, Ordering::Relaxed);
    }

    /// Whether so many bytes more may wait. One stanza always may, however large it is.
    fn takes(&self, bytes: usize) -> bool {
        self.waiting.fetch_add(bytes, Ordering::Relaxed) <= self.most
    }

    /// Waits until the connection is to end.
    pub(super) async fn ending(&self) {
        tokio::select! {
            () = self.cut.cancelled() => {}
            () = self.closing.cancelled() => {}
        }
    }

    pub(super) fn is_cut(&self) -> bool {
        self.cut.is_cancelled()
    }

    /// Whether what was said to it is still to be written before it ends.
    pub(super) fn is_closing(&self) -> bool {
        self.closing.is_cancelled() && !self.is_cut()
    }
}

/// A live connection as seen by everybody but itself.
#[derive(Debug, Clone)]
pub(crate) struct ConnectionHandle {
    pub(crate) id: u64,
    outgoing: mpsc::UnboundedSender<Outgoing>,
    answers: Arc<Mutex<HashMap<String, oneshot::Sender<Node>>>>,
    /// Known once somebody logged in on it.
    way: Arc<OnceLock<Way>>,
    line: Arc<Line>,
}

impl ConnectionHandle {
    /// With so many bytes that may wait to be written.
    pub(in crate::emulator) fn new(most: usize) -> (Self, mpsc::UnboundedReceiver<Outgoing>) {
        let (outgoing, receiver) = mpsc::unbounded_channel();
        let id = NEXT_ID.fetch_add(1, Ordering::Relaxed);
        let (cut, closing) = (CancellationToken::new(), CancellationToken::new());
        let line = Arc::new(Line { waiting: AtomicUsize::new(0), most, cut, closing });
        (Self { id, outgoing, answers: Arc::default(), way: Arc::default(), line }, receiver)
    }

    pub(super) fn line(&self) -> Arc<Line> {
        self.line.clone()
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
        if self.line.is_cut() {
            return false;
        }
        if let Outgoing::Stanza(stanza) = &what
            && !self.line.takes(stanza.len())
        {
            tracing::debug!("a client takes what is for it too slowly: its connection ends");
            self.cut();
            return false;
        }
        let ends = matches!(what, Outgoing::Close | Outgoing::CutMidFrame);
        let told = self.outgoing.send(what).is_ok();
        if ends {
            self.line.closing.cancel();
        }
        told
    }

    /// Drops the socket without a word, whatever still waits to be written.
    pub(crate) fn cut(&self) {
        self.line.cut.cancel();
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
