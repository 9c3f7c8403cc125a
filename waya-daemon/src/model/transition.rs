//! What may become of a message: the one place where its status changes.
//!
//! ```text
//! pending ─claim→ sending ─acked→ sent          receipts raise `ack`, forward only
//!    ↑               │ └──failed→ failed ─acked or receipt→ sent (it had arrived after all)
//!    └put back, retry,┘           └─retried by hand→ pending
//!     postpone
//! pending ─cancel→ cancelled (an ack or receipt of an earlier attempt still makes it sent)
//! pending ─failed→ failed (not on WhatsApp, too old)
//! ```

use super::{Ack, Message, Receipts, Roster, Status, Timestamp};

/// A receipt that says something of the other side.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReceiptKind {
    /// A device has it.
    Delivered,
    /// It was read.
    Read,
    /// It was played.
    Played,
}

impl ReceiptKind {
    /// How far a message got that one person was to get.
    const fn ack(self) -> Ack {
        match self {
            Self::Delivered => Ack::Device,
            Self::Read => Ack::Read,
            Self::Played => Ack::Played,
        }
    }
}

/// Something that happened to a message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// The worker takes it; spends an attempt.
    Claim,
    /// These were in the group as it left, the first time.
    Addressed {
        /// Everybody but the own account.
        members: Roster,
    },
    /// Back to pending as if never taken: the daemon restarts, stops, or lost the link before handing over.
    PutBack,
    /// The attempt did not succeed; try again at `at`.
    Retry {
        /// When the next attempt is due.
        at: Timestamp,
        /// Why this one did not succeed.
        reason: String,
    },
    /// It did not come to an attempt; try again at `at`. Spends none.
    Postpone {
        /// When the next attempt is due.
        at: Timestamp,
        /// Why there was none.
        reason: String,
    },
    /// The server's ack was seen.
    Acked,
    /// Given up.
    Failed {
        /// Why, in words for the user.
        reason: String,
    },
    /// Taken back by the user.
    Cancel,
    /// A failed or cancelled one is tried again, on the user's word, under the same WhatsApp id.
    RetryByHand,
    /// A receipt came.
    Receipt {
        /// What it says.
        kind: ReceiptKind,
        /// When, by the other side's word.
        at: Timestamp,
    },
    /// A receipt of one of a group's members came.
    MemberReceipt {
        /// What it says.
        kind: ReceiptKind,
        /// When, by the other side's word.
        at: Timestamp,
        /// Which of those in [`Change::Addressed`].
        member: usize,
    },
}

/// The change does not fit where the message stands.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the message is {} already", .status.as_str())]
pub struct Refusal {
    /// Where the message stands.
    pub status: Status,
}

impl Message {
    /// Carries out `change` at `now`. `Ok(true)` when anything changed, `Ok(false)` when it had all happened before.
    ///
    /// # Errors
    /// [`Refusal`] when the change does not fit; the message is untouched then.
    pub fn apply(&mut self, change: &Change, now: Timestamp) -> Result<bool, Refusal> {
        let refused = Err(Refusal { status: self.status });
        match (change, self.status) {
            (Change::Claim, Status::Pending) => {
                self.status = Status::Sending;
                self.attempts += 1;
                self.claimed = true;
                self.retry_at = None;
            }
            (Change::Addressed { members }, Status::Sending) => {
                // A resend keeps what was said after the first one.
                if self.receipts.is_some() {
                    return Ok(false);
                }
                self.receipts = Some(Receipts::new(members.len()));
            }
            (Change::PutBack, Status::Sending) => {
                self.status = Status::Pending;
                self.attempts = self.attempts.saturating_sub(1);
            }
            (Change::Retry { at, reason }, Status::Sending) => {
                self.status = Status::Pending;
                self.retry_at = Some(*at);
                self.error = Some(reason.clone());
            }
            (Change::Postpone { at, reason }, Status::Sending) => {
                self.status = Status::Pending;
                self.attempts = self.attempts.saturating_sub(1);
                self.retry_at = Some(*at);
                self.error = Some(reason.clone());
            }
            // An earlier attempt may have arrived whatever was decided since: the truth wins.
            (Change::Acked, Status::Pending | Status::Sending | Status::Failed | Status::Cancelled) => {
                self.arrived(now);
            }
            (Change::Acked, Status::Sent) | (Change::Cancel, Status::Cancelled) => return Ok(false),
            (Change::Failed { reason }, Status::Pending | Status::Sending) => {
                self.status = Status::Failed;
                self.error = Some(reason.clone());
                self.retry_at = None;
                self.finished_at = Some(now);
            }
            (Change::Cancel, Status::Pending) => {
                self.status = Status::Cancelled;
                self.retry_at = None;
                self.finished_at = Some(now);
            }
            (Change::RetryByHand, Status::Failed | Status::Cancelled) => {
                self.status = Status::Pending;
                self.attempts = 0;
                self.error = None;
                self.retry_at = None;
                self.finished_at = None;
            }
            (Change::Receipt { kind, at }, _) => {
                return Ok(self.receipt(*kind, *at, None, now));
            }
            (Change::MemberReceipt { kind, at, member }, _) => {
                return Ok(self.receipt(*kind, *at, Some(*member), now));
            }
            _ => return refused,
        }
        Ok(true)
    }

    /// WhatsApp has it.
    fn arrived(&mut self, now: Timestamp) {
        self.status = Status::Sent;
        self.ack = self.ack.max(Ack::Server);
        self.sent_at.get_or_insert(now);
        self.finished_at = Some(now);
        self.retry_at = None;
        self.error = None;
    }

    /// A receipt may overtake the ack; then it says that too. In a group it says how far the message got only when it
    /// got there with all of them; somebody who was not among them says no more than that it left.
    fn receipt(&mut self, kind: ReceiptKind, at: Timestamp, member: Option<usize>, now: Timestamp) -> bool {
        let before = (self.status, self.ack, self.delivered_at, self.read_at, self.receipts.clone());
        if self.status != Status::Sent {
            self.arrived(now);
        }
        let ack = match &mut self.receipts {
            None => kind.ack(),
            Some(receipts) => {
                if let Some(member) = member {
                    receipts.note(member, kind);
                }
                receipts.ack()
            }
        };
        self.ack = self.ack.max(ack);
        // WhatsApp tells whole seconds, which may lie before the moment its own ack was seen.
        let at = self.sent_at.map_or(at, |sent| at.max(sent));
        if self.ack >= Ack::Device {
            self.delivered_at.get_or_insert(at);
        }
        if self.ack >= Ack::Read {
            self.read_at.get_or_insert(at);
        }
        before != (self.status, self.ack, self.delivered_at, self.read_at, self.receipts.clone())
    }
}
