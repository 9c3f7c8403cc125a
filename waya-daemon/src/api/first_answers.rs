//! The places that were told in first answers, so that a repeat of a request hears the same.
//!
//! Only in memory and only the newest ones: after a restart a repeat hears the places of that moment. That it queues
//! nothing does not depend on this; the store sees to that.

use std::collections::{HashMap, VecDeque};
use std::sync::{Mutex, PoisonError};

/// So many places are kept in all.
const MAX_PLACES: usize = 100_000;

/// Places by the hash of an idempotency key.
#[derive(Debug, Default)]
pub(super) struct FirstAnswers(Mutex<Kept>);

#[derive(Debug, Default)]
struct Kept {
    by_key: HashMap<[u8; 32], Box<[u64]>>,
    oldest_first: VecDeque<[u8; 32]>,
    places: usize,
}

impl FirstAnswers {
    /// Keeps what was told, and forgets the oldest ones when there are too many.
    pub(super) fn keep(&self, key: [u8; 32], places: Box<[u64]>) {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        kept.places += places.len();
        // The same key comes again once the store forgot it.
        if let Some(old) = kept.by_key.insert(key, places) {
            kept.places -= old.len();
        } else {
            kept.oldest_first.push_back(key);
        }
        while kept.places > MAX_PLACES {
            let Some(oldest) = kept.oldest_first.pop_front() else { return };
            if let Some(old) = kept.by_key.remove(&oldest) {
                kept.places -= old.len();
            }
        }
    }

    /// What was told, if it is still known.
    pub(super) fn recall(&self, key: &[u8; 32]) -> Option<Box<[u64]>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).by_key.get(key).cloned()
    }
}

#[cfg(test)]
mod tests {
    use super::{FirstAnswers, MAX_PLACES};

    #[test]
    fn the_oldest_ones_are_forgotten() {
        let answers = FirstAnswers::default();
        let half = || vec![1; MAX_PLACES / 2].into_boxed_slice();
        answers.keep([1; 32], half());
        answers.keep([2; 32], half());
        answers.keep([2; 32], half());
        assert!(answers.recall(&[1; 32]).is_some());
        answers.keep([3; 32], Box::new([7]));
        assert!(answers.recall(&[1; 32]).is_none());
        assert_eq!(answers.recall(&[3; 32]).as_deref(), Some(&[7][..]));
    }
}
