//! The messages that are on their way, and the moments by which something must have happened to them. Pure.

use std::collections::{BTreeSet, HashMap};

use tokio::time::Instant;

use crate::model::MessageId;

/// How far one that is on its way has got.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// Being claimed, checked, encrypted, written.
    HandingOver,
    /// Handed over; the ack is due by then.
    AwaitingAck(Instant),
    /// Handed over on a connection that is gone; acks that had come before it went are taken until then.
    Cut(Instant),
    /// Its row is being settled.
    Settling,
}

impl Stage {
    const fn due(self) -> Option<Instant> {
        match self {
            Self::AwaitingAck(at) | Self::Cut(at) => Some(at),
            Self::HandingOver | Self::Settling => None,
        }
    }
}

/// One that is on its way.
#[derive(Debug)]
pub struct Flight {
    /// How far.
    pub stage: Stage,
    /// Attempts spent, this one included.
    pub attempts: u32,
    /// On which connection it set off.
    pub connection: u64,
    /// How many changes of its row have been asked for and not been answered.
    pub open_changes: u32,
}

/// All that are on their way.
#[derive(Debug, Default)]
pub struct Flights {
    all: HashMap<MessageId, Flight>,
    due: BTreeSet<(Instant, MessageId)>,
}

impl Flights {
    /// One sets off.
    pub fn add(&mut self, id: MessageId, stage: Stage, connection: u64) {
        self.remove(id);
        self.all.insert(id, Flight { stage, attempts: 0, connection, open_changes: 0 });
        self.set(id, stage);
    }

    /// It has got as far as `stage`.
    pub fn set(&mut self, id: MessageId, stage: Stage) {
        let Some(flight) = self.all.get_mut(&id) else { return };
        if let Some(at) = flight.stage.due() {
            self.due.remove(&(at, id));
        }
        flight.stage = stage;
        if let Some(at) = stage.due() {
            self.due.insert((at, id));
        }
    }

    /// It is not on its way any more.
    pub fn remove(&mut self, id: MessageId) {
        if let Some(at) = self.all.remove(&id).and_then(|flight| flight.stage.due()) {
            self.due.remove(&(at, id));
        }
    }

    /// One of them.
    #[must_use]
    pub fn get(&self, id: MessageId) -> Option<&Flight> {
        self.all.get(&id)
    }

    /// One of them, but for its stage, which [`Flights::set`] changes.
    pub fn get_mut(&mut self, id: MessageId) -> Option<&mut Flight> {
        self.all.get_mut(&id)
    }

    /// The connection went: those that wait for an ack of it wait until `until` only.
    pub fn cut(&mut self, until: Instant) {
        let awaiting = |flight: &Flight| matches!(flight.stage, Stage::AwaitingAck(_));
        let cut: Vec<_> = self.all.iter().filter(|(_, flight)| awaiting(flight)).map(|(id, _)| *id).collect();
        for id in cut {
            self.set(id, Stage::Cut(until));
        }
    }

    /// Those for which time has run out by `now`, and the stage that it ran out in.
    #[must_use]
    pub fn overdue(&self, now: Instant) -> Vec<(MessageId, Stage)> {
        let overdue = self.due.iter().take_while(|(at, _)| *at <= now);
        overdue.filter_map(|(_, id)| self.all.get(id).map(|flight| (*id, flight.stage))).collect()
    }

    /// When time runs out for the next one.
    #[must_use]
    pub fn next_due(&self) -> Option<Instant> {
        self.due.first().map(|(at, _)| *at)
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.all.len()
    }

    /// Their ids.
    #[must_use]
    pub fn ids(&self) -> Vec<MessageId> {
        self.all.keys().copied().collect()
    }
}
