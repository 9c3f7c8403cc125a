//! Counts of what went through the emulator, by sender and message id.
//!
//! A message id that its sender handed over twice shows as a repeated id: that is how a doubled
//! send is seen. Retry resends and peer messages are no messages in this sense and not counted.

use std::collections::{BTreeMap, HashMap};

use serde::Serialize;
use whatsapp_rust::wacore_binary::CompactString;

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
    /// Held inline: an allocation for each, made among those of the messages, would keep their pages in use for good.
    ids: HashMap<CompactString, u64>,
    pub(super) messages: u64,
    pub(super) acked: u64,
    pub(super) nacked: u64,
    pub(super) never_acked: u64,
    pub(super) in_flight: u64,
    pub(super) unacked_ids: BTreeMap<String, u64>,
}

impl SenderCounts {
    pub(super) fn relayed(&mut self, id: &str, times: u64) {
        self.messages += times;
        match self.ids.get_mut(id) {
            Some(count) => *count += times,
            None => drop(self.ids.insert(id.into(), times)),
        }
    }

    /// Every id with how often it was relayed.
    pub(super) fn ids(&self) -> impl Iterator<Item = (&str, u64)> {
        self.ids.iter().map(|(id, count)| (id.as_str(), *count))
    }

    fn show(&self) -> SenderStats {
        SenderStats {
            messages: self.messages,
            distinct_ids: self.ids.len() as u64,
            repeated_ids: self
                .ids
                .iter()
                .filter(|(_, count)| **count > 1)
                .map(|(id, count)| (id.to_string(), *count))
                .collect(),
            acked: self.acked,
            nacked: self.nacked,
            never_acked: self.never_acked,
            in_flight: self.in_flight,
            unacked_ids: self.unacked_ids.clone(),
        }
    }
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
