//! One chat's line in one lane. Pure.

use std::collections::BTreeSet;

use crate::model::MessageId;

/// Who waits, who has left before, and who is on its way.
#[derive(Debug, Default)]
pub(super) struct Line {
    pub(super) waiting: BTreeSet<MessageId>,
    /// Those that have left before: they may have arrived, so nothing of their chat passes them. More than one only
    /// where two lines became one.
    tried: BTreeSet<MessageId>,
    /// On their way; more than one only where two lines became one.
    in_flight: BTreeSet<MessageId>,
}

impl Line {
    /// Who leaves next, once nobody is on its way.
    pub(super) fn head(&self) -> Option<MessageId> {
        self.tried.first().or_else(|| self.waiting.first()).copied()
    }

    pub(super) fn is_on_its_way(&self) -> bool {
        !self.in_flight.is_empty()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.waiting.is_empty() && self.in_flight.is_empty()
    }

    pub(super) fn set_off(&mut self, id: MessageId) {
        self.leave(id);
        self.in_flight.insert(id);
    }

    pub(super) fn land(&mut self, id: MessageId) {
        self.in_flight.remove(&id);
    }

    /// Back in its place, before those that never left.
    pub(super) fn come_back(&mut self, id: MessageId) {
        self.waiting.insert(id);
        self.tried.insert(id);
    }

    pub(super) fn leave(&mut self, id: MessageId) {
        self.waiting.remove(&id);
        self.tried.remove(&id);
    }

    /// Takes in another line of the same person.
    pub(super) fn take_in(&mut self, mut other: Self) {
        self.waiting.append(&mut other.waiting);
        self.tried.append(&mut other.tried);
        self.in_flight.append(&mut other.in_flight);
    }
}
