//! What became of a message that set off: handed over or not, acknowledged, refused, overdue, settled.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;
use tokio_util::task::AbortOnDropHandle;

use super::{CUT_GRACE, Worker};
use crate::model::{Change, Member, MessageId, NackReason, Status, WhatsAppId};
use crate::queue::flights::Stage;
use crate::queue::policy::{self, Attempt};
use crate::queue::settler::{Settle, Settled, Target};

/// After "not connected" from a link that seems to be up, nothing is tried for this long.
const OFFLINE_REST: Duration = Duration::from_secs(1);

impl Worker {
    pub(super) fn handed_over(&mut self, id: MessageId) {
        let now = Instant::now();
        self.pace.ends(id, true, now, rand::random());
        self.typists.end(id);
        let Some(flight) = self.flights.get(id) else { return };
        // The ack may have been quicker, and the connection may have gone.
        if flight.stage == Stage::HandingOver {
            let here = flight.connection == self.connection && self.connected_since.is_some();
            let ack_timeout = self.settings.borrow().ack_timeout;
            let stage = if here { Stage::AwaitingAck(now + ack_timeout) } else { Stage::Cut(now + CUT_GRACE) };
            self.flights.set(id, stage);
        }
    }

    pub(super) fn not_handed_over(&mut self, id: MessageId, attempt: &Attempt) {
        let now = Instant::now();
        self.pace.ends(id, attempt.may_have_reached(), now, rand::random());
        self.typists.end(id);
        if !attempt.may_have_left() {
            self.care.never_left(id, self.now());
        }
        if *attempt == Attempt::Offline {
            self.rest_until = Some(now + OFFLINE_REST);
        }
        match attempt {
            Attempt::Unanswered(reason, _) => self.unanswered(id, reason),
            attempt => self.attempt_ended(id, attempt),
        }
    }

    /// It comes round again, until it has waited for too long in all.
    fn unanswered(&mut self, id: MessageId, reason: &str) {
        let most = self.settings.borrow().max_age;
        if self.state.has_waited(id, most) {
            let reason = format!("{}: {reason}", policy::too_old(most));
            return self.settle(id, Change::Failed { reason });
        }
        let times = self.state.unanswered(id);
        self.attempt_ended(id, &Attempt::Unanswered(reason.to_owned(), times));
    }

    /// WhatsApp has it: whatever is being done about it, it must not leave again.
    pub(super) fn heard_of(&mut self, whatsapp_id: WhatsAppId, from: Vec<Member>, change: Change) {
        let Some(id) = self.state.by_whatsapp_id(&whatsapp_id) else {
            let _ = self.settles.send(Settle { target: Target::Sent(whatsapp_id), from, change, at: self.now() });
            return;
        };
        if self.care.trial == Some(id) {
            self.unlock();
        }
        self.settle_for(id, from, change);
    }

    pub(super) fn refused(&mut self, whatsapp_id: &WhatsAppId, reason: NackReason) {
        // A refusal of one that was given up before changes nothing.
        let Some(id) = self.state.by_whatsapp_id(whatsapp_id) else { return };
        if reason == NackReason::ReachOutTimelock {
            return self.locked_out(id);
        }
        let attempt = Attempt::Refused(reason);
        if self.flights.get(id).is_some() {
            self.attempt_ended(id, &attempt);
        } else if let change @ Change::Failed { .. } = self.verdict(&attempt, 0) {
            // It waits for another attempt, which is of no use any more.
            self.settle(id, change);
        }
    }

    /// What runs out of time: acks, and the grace after a lost connection.
    pub(super) fn run_out_of_time(&mut self) {
        let overdue = self.flights.overdue(Instant::now());
        if overdue.iter().any(|(_, stage)| matches!(stage, Stage::AwaitingAck(_))) {
            self.probe();
        }
        for (id, stage) in overdue {
            if matches!(stage, Stage::Cut(_)) {
                let cuts = self.state.cut(id);
                self.attempt_ended(id, &Attempt::Cut(cuts));
            } else {
                self.attempt_ended(id, &Attempt::NoAnswer);
            }
        }
    }

    /// A connection that swallows acks may be dead: have it prove that it lives.
    fn probe(&mut self) {
        if self.probing.as_ref().is_none_or(AbortOnDropHandle::is_finished) {
            let session = Arc::clone(&self.courier.session);
            let probe = tokio::spawn(async move {
                session.probe().await;
            });
            self.probing = Some(AbortOnDropHandle::new(probe));
        }
    }

    fn verdict(&self, attempt: &Attempt, attempts: u32) -> Change {
        policy::after(attempt, attempts, &self.settings.borrow(), self.now(), rand::random())
    }

    pub(super) fn attempt_ended(&mut self, id: MessageId, attempt: &Attempt) {
        let Some(flight) = self.flights.get(id).filter(|flight| flight.stage != Stage::Settling) else { return };
        let change = self.verdict(attempt, flight.attempts);
        self.settle(id, change);
    }

    /// Has the row changed; until that is done the message is on its way, wherever it was.
    pub(super) fn settle(&mut self, id: MessageId, change: Change) {
        self.settle_for(id, Vec::new(), change);
    }

    /// The same, on the word of a group's member.
    fn settle_for(&mut self, id: MessageId, from: Vec<Member>, change: Change) {
        if self.flights.get(id).is_none() {
            self.typists.end(id);
            self.state.start(id);
            self.flights.add(id, Stage::Settling, self.connection);
        }
        self.flights.set(id, Stage::Settling);
        if let Some(flight) = self.flights.get_mut(id) {
            flight.open_changes += 1;
        }
        let _ = self.settles.send(Settle { target: Target::Row(id), from, change, at: self.now() });
    }

    pub(super) fn settled(&mut self, settled: Settled) {
        let Settled { id, status, retry_at } = settled;
        match status {
            Some(Status::Pending | Status::Sending) => {
                let Some(flight) = self.flights.get_mut(id) else { return };
                flight.open_changes = flight.open_changes.saturating_sub(1);
                // With another change under way, that one has the last word.
                if flight.stage == Stage::Settling && flight.open_changes == 0 {
                    self.flights.remove(id);
                    self.state.put_back(id, retry_at, self.now());
                    self.came_back(id);
                }
            }
            // A receipt or a late ack may finish one that is on its way, or in the line.
            Some(Status::Sent) | None => self.forget(id),
            // Old news of one that the user has had tried again since is no reason to forget it.
            Some(Status::Failed | Status::Cancelled) => {
                if self.flights.get(id).is_some_and(|flight| flight.open_changes > 0) {
                    self.forget(id);
                }
            }
        }
    }

    pub(super) fn forget(&mut self, id: MessageId) {
        self.flights.remove(id);
        self.typists.end(id);
        self.care.forget(id);
        self.state.remove(id, self.now());
    }
}
