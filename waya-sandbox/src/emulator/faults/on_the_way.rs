//! What happens to stanzas between the server and a client: one is lost, doubled, overtaken, broken or late.
//!
//! Nothing here touches the queue: what a client did not confirm comes again with its next login.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use whatsapp_rust::wacore::libsignal::protocol::PreKeySignalMessage;
use whatsapp_rust::wacore_binary::marshal::unmarshal_ref;
use whatsapp_rust::wacore_binary::{Node, NodeContent, marshal};

use super::{Fault, Faults, Whom};
use crate::emulator::lock;

/// How long an overtaken message waits for the one that overtakes it.
pub(in crate::emulator) const OVERTAKEN: Duration = Duration::from_secs(2);

/// The way to one client.
#[derive(Debug, Clone)]
pub(in crate::emulator) struct Way {
    faults: Arc<Faults>,
    phone: String,
    device: u16,
    /// Waits to be overtaken.
    waiting: Arc<Mutex<Option<Bytes>>>,
}

/// What to do with a stanza.
#[derive(Debug, Default, PartialEq, Eq)]
pub(in crate::emulator) struct Passed {
    /// Wait before any of it goes out.
    pub(in crate::emulator) pause: Option<Duration>,
    /// What goes out, in this order.
    pub(in crate::emulator) stanzas: Vec<Bytes>,
    /// This one waits to be overtaken.
    pub(in crate::emulator) waits: bool,
}

impl Way {
    pub(in crate::emulator) fn new(faults: Arc<Faults>, phone: &str, device: u16) -> Self {
        Self { faults, phone: phone.to_owned(), device, waiting: Arc::default() }
    }

    /// What becomes of a stanza; `None`: nothing special.
    pub(in crate::emulator) fn pass(&self, stanza: &Bytes) -> Option<Passed> {
        let waiting = || lock::mutex(&self.waiting).is_some();
        if !self.faults.bites_on_the_way() && !waiting() {
            return None;
        }
        let mut node = unmarshal_ref(stanza.get(1..)?).ok()?.to_owned();
        let mut passed = Passed::default();
        let is_message = node.tag == "message";
        let mut changed = self.skew(&mut node);
        if is_message && self.is_on(Fault::Drop) {
            return Some(passed);
        }
        if is_message && self.is_on(Fault::Garble) {
            garble(&mut node);
            changed = true;
        }
        let stanza = if changed { Bytes::from(marshal(&node).ok()?) } else { stanza.clone() };
        passed.pause = self.strike(|fault| match fault {
            Fault::Slow { ms } => Some(Duration::from_millis(ms)),
            _ => None,
        });
        if !is_message {
            passed.stanzas.push(stanza);
            return Some(passed);
        }
        if let Some(overtaken) = self.overtaken() {
            passed.stanzas.extend([stanza, overtaken]);
        } else if self.is_on(Fault::Reorder) {
            *lock::mutex(&self.waiting) = Some(stanza);
            passed.waits = true;
        } else if self.is_on(Fault::Double) {
            passed.stanzas.extend([stanza.clone(), stanza]);
        } else {
            passed.stanzas.push(stanza);
        }
        Some(passed)
    }

    /// Takes the message that waits to be overtaken.
    pub(in crate::emulator) fn overtaken(&self) -> Option<Bytes> {
        lock::mutex(&self.waiting).take()
    }

    fn strike<T>(&self, pick: impl Fn(Fault) -> Option<T>) -> Option<T> {
        self.faults.strike(Whom(&self.phone, Some(self.device)), pick)
    }

    fn is_on(&self, fault: Fault) -> bool {
        self.strike(|known| (known == fault).then_some(())).is_some()
    }

    /// Moves the server's time in a stanza; whether there was any to move.
    fn skew(&self, node: &mut Node) -> bool {
        let Some(time) = node.attrs.get("t").and_then(|time| time.as_str().parse::<i64>().ok()) else { return false };
        let skew = self.strike(|fault| match fault {
            Fault::ClockSkew { seconds } => Some(seconds),
            _ => None,
        });
        let Some(seconds) = skew else { return false };
        node.attrs.insert("t", time.saturating_add(seconds).to_string());
        true
    }
}

/// Breaks each ciphertext of a message: its authentication code no longer fits.
fn garble(node: &mut Node) {
    let Some(NodeContent::Nodes(children)) = &mut node.content else { return };
    for child in children.iter_mut().filter(|child| child.tag == "enc") {
        let opens_session = child.attrs.get("type").is_some_and(|kind| kind == "pkmsg");
        if let Some(NodeContent::Bytes(bytes)) = &mut child.content {
            let end = if opens_session { end_of_inner(bytes) } else { Some(bytes.len()) };
            if let Some(last) = end.and_then(|end| bytes.get_mut(end.checked_sub(1)?)) {
                *last ^= 1;
            }
        }
    }
}

/// Where the message inside of one that opens a session ends: a number or two that nobody checks come behind it.
fn end_of_inner(bytes: &[u8]) -> Option<usize> {
    let outer = PreKeySignalMessage::try_from(bytes).ok()?;
    let inner = outer.message().serialized();
    bytes.windows(inner.len()).position(|window| window == inner).map(|start| start + inner.len())
}
