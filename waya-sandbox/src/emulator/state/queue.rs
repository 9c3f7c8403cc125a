//! What is kept for one device until it confirms it, in the order it was sent.

use std::collections::{BTreeMap, HashMap};
use std::ops::Bound;

use super::record::QueueEntry;

/// The key a device confirms with: class, id and the other side.
type ConfirmationKey = (String, String, String);

/// The queue of one device.
#[derive(Debug, Default)]
pub(crate) struct DeviceQueue {
    entries: BTreeMap<u64, QueueEntry>,
    by_key: HashMap<ConfirmationKey, Vec<u64>>,
}

impl DeviceQueue {
    pub(crate) fn push(&mut self, entry: QueueEntry) {
        self.by_key.entry(confirmation_key(&entry)).or_default().push(entry.sequence);
        self.entries.insert(entry.sequence, entry);
    }

    /// The entries a confirmation of this class, id and other side covers.
    pub(crate) fn find(&self, class: &str, id: &str, from: &str) -> Vec<u64> {
        self.by_key.get(&(class.to_owned(), id.to_owned(), from.to_owned())).cloned().unwrap_or_default()
    }

    pub(crate) fn get(&self, sequence: u64) -> Option<&QueueEntry> {
        self.entries.get(&sequence)
    }

    pub(crate) fn remove(&mut self, sequence: u64) {
        let Some(entry) = self.entries.remove(&sequence) else { return };
        let key = confirmation_key(&entry);
        if let Some(sequences) = self.by_key.get_mut(&key) {
            sequences.retain(|known| *known != sequence);
            if sequences.is_empty() {
                self.by_key.remove(&key);
            }
        }
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &QueueEntry> {
        self.entries.values()
    }

    /// What comes behind this place in line.
    pub(crate) fn after(&self, sequence: u64) -> impl Iterator<Item = &QueueEntry> {
        self.entries.range((Bound::Excluded(sequence), Bound::Unbounded)).map(|(_, entry)| entry)
    }

    /// Whether everything up to this place in line was confirmed.
    pub(crate) fn is_confirmed_to(&self, sequence: u64) -> bool {
        self.entries.first_key_value().is_none_or(|(first, _)| *first > sequence)
    }

    pub(crate) fn len(&self) -> usize {
        self.entries.len()
    }
}

fn confirmation_key(entry: &QueueEntry) -> ConfirmationKey {
    (entry.class.clone(), entry.id.clone(), entry.from.clone())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(sequence: u64, id: &str) -> QueueEntry {
        QueueEntry {
            sequence,
            class: "message".into(),
            id: id.into(),
            from: "1@s.whatsapp.net".into(),
            ..Default::default()
        }
    }

    #[test]
    fn a_confirmation_covers_every_copy_of_its_id_and_nothing_else() {
        let mut queue = DeviceQueue::default();
        for (sequence, id) in [(1, "a"), (2, "b"), (3, "a")] {
            queue.push(entry(sequence, id));
        }
        let found = queue.find("message", "a", "1@s.whatsapp.net");
        assert_eq!(found, vec![1, 3]);
        for sequence in found {
            queue.remove(sequence);
        }
        assert_eq!(queue.iter().map(|entry| entry.id.as_str()).collect::<Vec<_>>(), ["b"]);
        assert!(queue.find("message", "a", "1@s.whatsapp.net").is_empty());
        assert!(queue.find("receipt", "b", "1@s.whatsapp.net").is_empty());
        assert_eq!(queue.len(), 1);
    }
}
