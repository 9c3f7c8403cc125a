//! Which messages are typed before they leave, and which are being typed: answers, when `queue.typing` says so. Pure.
//!
//! An answer quotes a message, is an automatic reply, or goes to somebody who wrote lately. Such a head of a line is no
//! candidate until it has been typed, so that it takes nobody's turn meanwhile.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::time::Duration;

use super::{Entry, State};
use crate::model::{ChatId, Lane, MessageId, Timestamp};

/// For so long after somebody wrote, what goes to them is an answer.
const LATELY: Duration = Duration::from_mins(30);
/// From so many people on, those who did not write lately are forgotten, and then everybody.
const REMEMBERED: usize = 4096;

/// Who is typed to.
#[derive(Debug, Default)]
pub(super) struct Typed {
    on: bool,
    /// When people wrote last, since the daemon started.
    wrote: HashMap<ChatId, Timestamp>,
    /// Heads that are to be typed first.
    pub(super) waits: BTreeSet<(Lane, MessageId)>,
    /// Being typed.
    under_way: HashSet<MessageId>,
}

impl Typed {
    /// Whether this head is to be typed, or is being typed.
    pub(super) fn holds(&self, id: MessageId, entry: &Entry, now: Timestamp) -> bool {
        let Some(typing) = entry.typing.filter(|_| !entry.typed && (self.on || self.under_way.contains(&id))) else {
            return false;
        };
        let lately = |at: &Timestamp| *at <= now && now.since(*at) < LATELY;
        typing.answers || entry.lane == Lane::Reply || self.wrote.get(&entry.chat).is_some_and(lately)
    }

    pub(super) fn is_under_way(&self, id: MessageId) -> bool {
        self.under_way.contains(&id)
    }

    pub(super) fn forget(&mut self, id: MessageId) {
        self.under_way.remove(&id);
    }

    pub(super) fn wrote(&mut self, chat: ChatId, now: Timestamp) {
        if self.wrote.len() >= REMEMBERED {
            self.wrote.retain(|_, at| now.since(*at) < LATELY);
        }
        if self.wrote.len() >= REMEMBERED {
            self.wrote.clear();
        }
        self.wrote.insert(chat, now);
    }
}

impl State {
    /// Whether answers are typed. What is being typed is typed to its end.
    pub fn type_answers(&mut self, on: bool, now: Timestamp) {
        if std::mem::replace(&mut self.typed.on, on) != on {
            let keys: Vec<_> = self.lines.keys().cloned().collect();
            for key in keys {
                self.unhead(&key);
                self.head(&key, now);
            }
        }
    }

    /// The next one of a lane that is to be typed.
    #[must_use]
    pub fn next_to_type(&self, lane: Lane) -> Option<MessageId> {
        self.typed.waits.iter().find(|(found, _)| *found == lane).map(|(_, id)| *id)
    }

    /// It is being typed from now on.
    pub fn begin_typing(&mut self, id: MessageId) {
        if let Some(lane) = self.entries.get(&id).map(|entry| entry.lane) {
            self.typed.waits.remove(&(lane, id));
            self.typed.under_way.insert(id);
        }
    }

    /// It has been typed, or goes without: it waits for its turn only.
    pub fn end_typing(&mut self, id: MessageId, now: Timestamp) {
        self.typed.forget(id);
        if let Some(entry) = self.entries.get_mut(&id) {
            entry.typed = true;
        }
        self.look_at_line_of(id, now);
    }

    /// It was being typed and is to be typed anew: nothing may leave now.
    pub fn interrupt_typing(&mut self, id: MessageId, now: Timestamp) {
        self.typed.forget(id);
        self.look_at_line_of(id, now);
    }

    fn look_at_line_of(&mut self, id: MessageId, now: Timestamp) {
        if let Some(key) = self.key(id) {
            self.unhead(&key);
            self.head(&key, now);
        }
    }
}
