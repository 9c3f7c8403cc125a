//! How many wait in each lane, readable without asking the worker: what it knows of, and what it is still to be told.

use std::sync::atomic::{AtomicU64, Ordering};

use super::state::State;
use crate::model::Lane;
use crate::store::OpenMessage;

/// Counters of the four lanes.
#[derive(Debug, Default)]
pub(super) struct Gauge {
    known: [AtomicU64; 4],
    unseen: [AtomicU64; 4],
}

impl Gauge {
    /// Where these would stand if they joined now: those in the lanes that leave first, and themselves. Of requests
    /// that come at the same moment none sees the others.
    pub(super) fn next(&self, messages: &[OpenMessage]) -> Vec<u64> {
        let mut joining = Lane::ALL.map(|lane| self.waiting(lane));
        let place = |message: &OpenMessage| {
            joining[message.lane as usize] += 1;
            joining[..=message.lane as usize].iter().sum()
        };
        messages.iter().map(place).collect()
    }

    /// Counts one more on its way to the worker.
    pub(super) fn joins(&self, lane: Lane) {
        self.unseen[lane as usize].fetch_add(1, Ordering::Relaxed);
    }

    /// How many wait in a lane.
    pub(super) fn waiting(&self, lane: Lane) -> u64 {
        let count = |counts: &[AtomicU64; 4]| counts[lane as usize].load(Ordering::Relaxed);
        count(&self.known) + count(&self.unseen)
    }

    /// The worker knows of this many that were unseen.
    pub(super) fn seen(&self, counts: [u64; 4]) {
        for (unseen, count) in self.unseen.iter().zip(counts) {
            unseen.fetch_sub(count, Ordering::Relaxed);
        }
    }

    /// What the worker knows.
    pub(super) fn publish(&self, state: &State) {
        for lane in Lane::ALL {
            self.known[lane as usize].store(state.waiting(lane), Ordering::Relaxed);
        }
    }
}
