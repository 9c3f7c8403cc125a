//! The server's answers to what a person sent.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::oneshot;
use whatsapp_rust::wacore::types::events::ServerAck;

/// What the server says to a message: taken, or refused with a code.
pub(super) type Answer = Result<(), String>;

/// Messages that wait for the server's answer.
#[derive(Debug, Default)]
pub(super) struct Acks {
    waiting: Mutex<HashMap<String, oneshot::Sender<Answer>>>,
}

impl Acks {
    /// Waits for the answer to the message of this id. Ask before sending; asking again for the same
    /// id ends the earlier wait.
    pub(super) fn expect(&self, id: &str) -> oneshot::Receiver<Answer> {
        let (answer, waiting) = oneshot::channel();
        self.lock().insert(id.to_owned(), answer);
        waiting
    }

    /// Nobody waits for this one any longer.
    pub(super) fn forget(&self, id: &str) {
        self.lock().remove(id);
    }

    /// Hands an answer to who waits for it.
    pub(super) fn answered(&self, ack: &ServerAck) {
        if ack.class.as_deref() != Some("message") {
            return;
        }
        if let Some(waiting) = self.lock().remove(&ack.id) {
            // Nobody listens any more once the person gave up.
            let _ = waiting.send(ack.error.clone().map_or(Ok(()), Err));
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, oneshot::Sender<Answer>>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
