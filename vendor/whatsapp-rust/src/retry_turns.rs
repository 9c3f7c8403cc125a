//! waya: the retries of one message for one device, one after another.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

/// Who asks for which message, and how often it asked so far.
#[derive(Default)]
pub(crate) struct RetryTurns {
    turns: Arc<Mutex<HashMap<String, Waiting>>>,
    lookup: async_lock::Mutex<()>,
}

struct Waiting {
    /// The highest count of those that were let in.
    highest: u8,
    users: usize,
    turn: Arc<async_lock::Mutex<()>>,
}

/// The right to answer a retry, until it is dropped.
pub(crate) struct RetryTurn {
    _turn: async_lock::MutexGuardArc<()>,
    _place: Place,
}

struct Place {
    turns: Arc<Mutex<HashMap<String, Waiting>>>,
    key: String,
    turn: Arc<async_lock::Mutex<()>>,
}

impl RetryTurns {
    /// Waits for what was asked before. `None` when the same was asked already and is not answered yet.
    pub(crate) async fn take(&self, key: &str, count: u8) -> Option<RetryTurn> {
        let place = {
            let mut turns = self.turns.lock().unwrap_or_else(PoisonError::into_inner);
            let turn = match turns.get_mut(key) {
                Some(waiting) if count <= waiting.highest => return None,
                Some(waiting) => {
                    waiting.highest = count;
                    waiting.users += 1;
                    Arc::clone(&waiting.turn)
                }
                None => {
                    let turn = Arc::new(async_lock::Mutex::new(()));
                    let waiting = Waiting {
                        highest: count,
                        users: 1,
                        turn: Arc::clone(&turn),
                    };
                    turns.insert(key.to_owned(), waiting);
                    turn
                }
            };
            Place {
                turns: Arc::clone(&self.turns),
                key: key.to_owned(),
                turn,
            }
        };
        let turn = place.turn.lock_arc().await;
        Some(RetryTurn {
            _turn: turn,
            _place: place,
        })
    }

    /// To be held while a sent message is looked up: that takes it out of the store and puts it back, and whoever else
    /// asks for it in between would find nothing.
    pub(crate) async fn lookup(&self) -> async_lock::MutexGuard<'_, ()> {
        self.lookup.lock().await
    }

    pub(crate) fn len(&self) -> usize {
        self.turns.lock().unwrap_or_else(PoisonError::into_inner).len()
    }

    /// Forgets everyone, so that what hangs on a connection that ended keeps nobody waiting.
    pub(crate) fn clear(&self) {
        self.turns.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut turns = self.turns.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(waiting) = turns.get_mut(&self.key)
            && Arc::ptr_eq(&waiting.turn, &self.turn)
        {
            waiting.users -= 1;
            if waiting.users == 0 {
                turns.remove(&self.key);
            }
        }
    }
}
