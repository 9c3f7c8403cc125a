//! Counts of what went through the emulator, by sender and message id.
//!
//! A message id that its sender handed over twice shows as a repeated id: that is how a doubled
//! send is seen. Peer messages are no messages in this sense, and what is sent again because a device asked for it is
//! counted apart.

use std::collections::{BTreeMap, HashMap, HashSet};

use serde::Serialize;
use sha2::{Digest as _, Sha256};

/// Everything counted so far.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Stats {
    /// Messages taken from senders and written to the queues of their recipients.
    pub relayed: u64,
    /// Server acks handed to the senders' connections, since this process started.
    pub acked: u64,
    /// Messages refused with an error code, since this process started.
    pub nacked: u64,
    /// Messages relayed whose ack never left (swallowed, or the connection ended first), since
    /// this process started.
    pub never_acked: u64,
    /// Messages relayed whose ack is still being held.
    pub in_flight: u64,
    /// Stanzas now kept for recipients that have not confirmed them.
    pub queued: u64,
    /// The same, for each sender's phone number.
    pub senders: BTreeMap<String, SenderStats>,
}

/// The counts of one sender.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct SenderStats {
    /// Messages relayed, repeated ids included.
    pub messages: u64,
    /// Different ids among them.
    pub distinct_ids: u64,
    /// Ids handed over more than once, with how often.
    pub repeated_ids: BTreeMap<String, u64>,
    /// Ids handed over again for one device, because it asked for that, with how often since this process started.
    pub resent_ids: BTreeMap<String, u64>,
    /// Server acks handed to the sender's connection.
    pub acked: u64,
    /// Messages refused with an error code.
    pub nacked: u64,
    /// Messages relayed whose ack never left.
    pub never_acked: u64,
    /// Messages relayed whose ack is still being held.
    pub in_flight: u64,
    /// Ids that no ack has answered, held or lost, with how often each was handed over since this
    /// process started.
    pub unacked_ids: BTreeMap<String, u64>,
}

/// The running counts of one sender.
#[derive(Debug, Default)]
pub(super) struct SenderCounts {
    /// Digests of the ids relayed: an emulator that runs for days sees millions, and must not keep their names.
    ids: HashSet<u64>,
    /// Ids relayed more than once, with how often.
    repeated: BTreeMap<String, u64>,
    resent: BTreeMap<String, u64>,
    pub(super) messages: u64,
    pub(super) acked: u64,
    pub(super) nacked: u64,
    pub(super) never_acked: u64,
    pub(super) in_flight: u64,
    pub(super) unacked_ids: BTreeMap<String, u64>,
}

impl SenderCounts {
    pub(super) fn relayed(&mut self, id: &str) {
        self.messages += 1;
        if !self.ids.insert(digest(id)) {
            // Not known by name: this is the second time.
            *self.repeated.entry(id.to_owned()).or_insert(1) += 1;
        }
    }

    pub(super) fn resent(&mut self, id: &str) {
        *self.resent.entry(id.to_owned()).or_default() += 1;
    }

    /// Takes in what was counted before a restart.
    pub(super) fn restore(&mut self, digests: &[u64], repeated: impl IntoIterator<Item = (String, u64)>) {
        self.ids.extend(digests);
        self.messages += digests.len() as u64;
        for (id, times) in repeated {
            let known = !self.ids.insert(digest(&id));
            self.messages += times - u64::from(known && times > 0);
            if times > 1 {
                self.repeated.insert(id, times);
            }
        }
    }

    /// The digests of all ids relayed.
    pub(super) fn digests(&self) -> Vec<u64> {
        self.ids.iter().copied().collect()
    }

    /// The ids relayed more than once, with how often.
    pub(super) fn repeated(&self) -> &BTreeMap<String, u64> {
        &self.repeated
    }

    fn show(&self) -> SenderStats {
        SenderStats {
            messages: self.messages,
            distinct_ids: self.ids.len() as u64,
            repeated_ids: self.repeated.clone(),
            resent_ids: self.resent.clone(),
            acked: self.acked,
            nacked: self.nacked,
            never_acked: self.never_acked,
            in_flight: self.in_flight,
            unacked_ids: self.unacked_ids.clone(),
        }
    }
}

/// The same in every process, since it is written to the journal. Two of a million ids share one by a chance of 1 in 37 million.
fn digest(id: &str) -> u64 {
    let hash = Sha256::digest(id);
    u64::from_le_bytes([hash[0], hash[1], hash[2], hash[3], hash[4], hash[5], hash[6], hash[7]])
}

/// The running counts of everybody.
#[derive(Debug, Default)]
pub(super) struct Counts {
    senders: HashMap<String, SenderCounts>,
    /// Takes what belongs to nobody: never used, since a sender is made before it is looked up.
    nobody: SenderCounts,
}

impl Counts {
    pub(super) fn of(&mut self, phone: &str) -> &mut SenderCounts {
        // The name is copied only the first time.
        if !self.senders.contains_key(phone) {
            self.senders.insert(phone.to_owned(), SenderCounts::default());
        }
        self.senders.get_mut(phone).unwrap_or(&mut self.nobody)
    }

    pub(super) fn senders(&self) -> impl Iterator<Item = (&String, &SenderCounts)> {
        self.senders.iter()
    }

    pub(super) fn show(&self, queued: u64) -> Stats {
        let senders: BTreeMap<_, _> =
            self.senders.iter().map(|(phone, counts)| (phone.clone(), counts.show())).collect();
        let sum = |pick: fn(&SenderStats) -> u64| senders.values().map(pick).sum();
        Stats {
            relayed: sum(|sender| sender.messages),
            acked: sum(|sender| sender.acked),
            nacked: sum(|sender| sender.nacked),
            never_acked: sum(|sender| sender.never_acked),
            in_flight: sum(|sender| sender.in_flight),
            queued,
            senders,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_restart_keeps_the_counts() {
        let mut before = SenderCounts::default();
        for id in ["A", "B", "A", "C", "A"] {
            before.relayed(id);
        }
        let mut after = SenderCounts::default();
        after.restore(&before.digests(), before.repeated().clone());
        after.relayed("B");
        let shown = after.show();
        assert_eq!((shown.messages, shown.distinct_ids), (6, 3));
        assert_eq!(shown.repeated_ids, BTreeMap::from([("A".to_owned(), 3), ("B".to_owned(), 2)]));
    }

    #[test]
    fn counts_of_an_older_journal_name_every_id() {
        let mut counts = SenderCounts::default();
        counts.restore(&[], [("A".to_owned(), 1), ("B".to_owned(), 2)]);
        counts.relayed("A");
        let shown = counts.show();
        assert_eq!((shown.messages, shown.distinct_ids), (4, 2));
        assert_eq!(shown.repeated_ids, BTreeMap::from([("A".to_owned(), 2), ("B".to_owned(), 2)]));
    }
}
