//! How many wait in each lane, readable without asking the worker: what it knows of, and what it is still to be told.

use std::sync::atomic::{AtomicU64, Ordering};

use super::state::State;
use crate::model::Lane;

/// Counters of the four lanes.
#[derive(Debug, Default)]
pub(super) struct Gauge {
    known: [AtomicU64; 4],
    unseen: [AtomicU64; 4],
}

impl Gauge {
    /// Counts one more on its way to the worker; how many stand before it in the lanes that leave first, and itself.
    pub(super) fn joins(&self, lane: Lane) -> u64 {
        self.unseen[lane as usize].fetch_add(1, Ordering::Relaxed);
        Lane::ALL.into_iter().filter(|other| *other <= lane).map(|other| self.waiting(other)).sum()
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
