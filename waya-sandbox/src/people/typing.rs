//! Who was seen typing or recording by a person's client, the newest last. In memory only.

use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};

use serde::{Deserialize, Serialize};

/// So many are remembered.
const REMEMBERED: usize = 200;

/// Something a person saw beside a name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Typing {
    /// Where it was seen: a person or a group.
    pub chat: String,
    /// Who it was.
    pub from: String,
    /// `composing`, `recording` or `paused`.
    pub state: String,
    /// When, in milliseconds since the epoch.
    pub at: i64,
}

/// What a person saw.
#[derive(Debug, Default)]
pub(super) struct TypingSeen(Mutex<VecDeque<Typing>>);

impl TypingSeen {
    pub(super) fn note(&self, typing: Typing) {
        let mut seen = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if seen.len() == REMEMBERED {
            seen.pop_front();
        }
        seen.push_back(typing);
    }

    pub(super) fn all(&self) -> Vec<Typing> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).iter().cloned().collect()
    }
}
