//! What waits for a handset that is switched off, in the order it came.

use std::collections::{HashSet, VecDeque};
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::sync::Arc;

use super::record::HandsetMessage;

/// Messages and requests that wait for one handset; beyond that the oldest go.
const LIMIT: usize = 128;
/// Bytes of a request at most.
const REQUEST_BYTES: usize = 64 << 10;
/// Bytes of everything that waits for one handset at most.
const BYTES: usize = 1 << 20;

/// The queue of one handset. A message is held once, however many handsets it waits for.
#[derive(Debug, Default)]
pub(crate) struct HandsetQueue {
    messages: VecDeque<Arc<HandsetMessage>>,
    /// Digests of them.
    known: HashSet<u64>,
    /// Of all of them.
    bytes: usize,
}

impl HandsetQueue {
    /// Whether a request of this size may wait.
    pub(crate) fn takes(bytes: usize) -> bool {
        bytes <= REQUEST_BYTES
    }

    /// Puts something behind the rest. What waits already, because its sender handed it over again, waits once.
    pub(super) fn push(&mut self, message: Arc<HandsetMessage>) {
        if !self.known.insert(digest(&message)) {
            return;
        }
        self.bytes += size(&message);
        self.messages.push_back(message);
        while self.messages.len() > LIMIT || self.bytes > BYTES {
            let Some(gone) = self.messages.pop_front() else { return };
            self.known.remove(&digest(&gone));
            self.bytes -= size(&gone);
        }
    }

    pub(super) fn clear(&mut self) {
        *self = Self::default();
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &Arc<HandsetMessage>> {
        self.messages.iter()
    }

    pub(crate) fn len(&self) -> usize {
        self.messages.len()
    }
}

fn size(message: &HandsetMessage) -> usize {
    message.sender.len() + message.id.len() + message.chat.len() + message.request.len()
}

fn digest(message: &HandsetMessage) -> u64 {
    let mut hasher = DefaultHasher::new();
    message.hash(&mut hasher);
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    fn message(id: usize, request: usize) -> Arc<HandsetMessage> {
        let request = Bytes::from(vec![0; request]);
        Arc::new(HandsetMessage { id: id.to_string(), request, ..HandsetMessage::default() })
    }

    fn ids(queue: &HandsetQueue) -> Vec<usize> {
        queue.iter().map(|message| message.id.parse().unwrap_or_default()).collect()
    }

    #[test]
    fn the_latest_wait_in_order_and_each_once() {
        let mut queue = HandsetQueue::default();
        for id in [1, 2, 1, 3, 3] {
            queue.push(message(id, 0));
        }
        assert_eq!(ids(&queue), [1, 2, 3]);
        queue.clear();
        (0..=LIMIT).for_each(|id| queue.push(message(id, 0)));
        assert_eq!(ids(&queue), (1..=LIMIT).collect::<Vec<_>>());
    }

    #[test]
    fn requests_take_no_more_than_their_room() {
        assert!(HandsetQueue::takes(REQUEST_BYTES) && !HandsetQueue::takes(REQUEST_BYTES + 1));
        let mut queue = HandsetQueue::default();
        // Their ids take room as well.
        let many = BYTES / REQUEST_BYTES - 1;
        (0..many + 2).for_each(|id| queue.push(message(id, REQUEST_BYTES)));
        assert_eq!(ids(&queue), (2..many + 2).collect::<Vec<_>>());
        queue.clear();
        assert_eq!((queue.len(), queue.bytes, queue.known.len()), (0, 0, 0));
    }
}
