//! When the next message may be handed over. Pure: moments come from outside.
//!
//! Automatic replies keep one gap between them, all other lanes share another, each counted from the end of a hand-over
//! to the next one of its kind; what fails before it reaches WhatsApp leaves no gap. Between a reply and anything else
//! lies the shorter of the two gaps. So a blast never holds a reply for longer than `queue.reply_delay`, and a stream
//! of replies never holds a blast for longer than its own gap. `queue.delay = 0` means no pace at all, jitter included.

use std::collections::HashMap;
use std::time::Duration;

use tokio::time::Instant;

use crate::model::{Lane, MessageId};
use crate::settings::Snapshot;

/// The pauses the settings ask for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Gaps {
    /// From one reply to the next.
    pub reply: Duration,
    /// From any other message to the next one of them, without the random part.
    pub other: Duration,
    /// The random part on top of `other` goes up to this.
    pub jitter: Duration,
}

impl From<&Snapshot> for Gaps {
    fn from(settings: &Snapshot) -> Self {
        let jitter = if settings.delay.is_zero() { Duration::ZERO } else { settings.jitter };
        Self { reply: settings.reply_delay, other: settings.delay, jitter }
    }
}

impl Gaps {
    /// From one message of a lane to the next, with half of the jitter.
    #[must_use]
    pub fn usual(&self, lane: Lane) -> Duration {
        if lane == Lane::Reply { self.reply } else { self.other + self.jitter / 2 }
    }
}

/// When a message of a lane may leave.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Turn {
    /// Now.
    Now,
    /// Not before this moment.
    At(Instant),
    /// When the hand-over that is under way has ended.
    AfterThis,
}

/// One kind of message: replies, or all others.
#[derive(Debug, Default)]
struct Kind {
    /// When the last hand-over ended.
    last: Option<Instant>,
    /// How much of the jitter follows it, `0.0..1.0`.
    share: f64,
    /// The hand-overs under way, and when they began.
    under_way: HashMap<MessageId, Instant>,
}

/// What was handed over when.
#[derive(Debug, Default)]
pub struct Pace {
    reply: Kind,
    other: Kind,
}

impl Pace {
    /// A hand-over begins.
    pub fn begins(&mut self, id: MessageId, lane: Lane, now: Instant) {
        let kind = if lane == Lane::Reply { &mut self.reply } else { &mut self.other };
        kind.under_way.insert(id, now);
    }

    /// A hand-over ended; `reached` says whether anything may have reached WhatsApp. `share` is in `0.0..1.0`.
    pub fn ends(&mut self, id: MessageId, reached: bool, now: Instant, share: f64) {
        for kind in [&mut self.reply, &mut self.other] {
            if kind.under_way.remove(&id).is_some() && reached {
                kind.last = Some(now);
                kind.share = share.clamp(0.0, 1.0);
            }
        }
    }

    /// When a message of `lane` may be handed over.
    #[must_use]
    pub fn turn(&self, lane: Lane, gaps: Gaps, now: Instant) -> Turn {
        let (own, across) = if lane == Lane::Reply { (&self.reply, &self.other) } else { (&self.other, &self.reply) };
        let gap = if lane == Lane::Reply { gaps.reply } else { gaps.other + gaps.jitter.mul_f64(own.share) };
        if !gap.is_zero() && !own.under_way.is_empty() {
            return Turn::AfterThis;
        }
        // Across the kinds a hand-over counts from its beginning: one that hangs must not hold the other kind.
        let begun = across.under_way.values().max().copied();
        let between = gaps.reply.min(gaps.other);
        let after_own = own.last.map(|last| last + gap);
        let after_across = across.last.max(begun).map(|last| last + between);
        match after_own.max(after_across).filter(|at| *at > now) {
            Some(at) => Turn::At(at),
            None => Turn::Now,
        }
    }
}
