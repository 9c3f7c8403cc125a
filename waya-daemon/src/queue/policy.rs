//! Decisions of the queue about attempts, pure: how long to wait, whether to try again.

use std::time::Duration;

use crate::model::{Change, NackReason, Timestamp, Verdict};
use crate::settings::Snapshot;

/// The first wait after an attempt that did not succeed.
const BACKOFF_FIRST: Duration = Duration::from_secs(5);
/// No wait is longer.
pub const BACKOFF_LONGEST: Duration = Duration::from_mins(10);
/// So often a lost connection costs a message nothing; after that it is suspected of causing the loss.
const FREE_CUTS: u32 = 3;

/// What a user reads when the server never answered.
pub const NO_ANSWER: &str = "no answer from WhatsApp, it may have arrived";

/// What became of an attempt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Attempt {
    /// There was no connection; nothing left.
    Offline,
    /// The connection was lost after the hand-over, before the ack; how often that has happened to this message.
    Cut(u32),
    /// It did not work and may work later; it may even have left.
    Transient(String),
    /// It was not tried, because WhatsApp did not answer a question about its number; how often that has happened to
    /// this message.
    Unanswered(String, u32),
    /// It will never work.
    Permanent(String),
    /// WhatsApp was asked, and its number is not there.
    NotThere(String),
    /// The server refused it.
    Refused(NackReason),
    /// The server did not answer in time.
    NoAnswer,
}

impl Attempt {
    /// Whether WhatsApp may have seen anything of it, if only a question; what it has not seen uses no pace.
    #[must_use]
    pub const fn may_have_reached(&self) -> bool {
        match self {
            Self::Offline | Self::Permanent(_) => false,
            Self::Cut(_)
            | Self::Transient(_)
            | Self::Unanswered(..)
            | Self::NotThere(_)
            | Self::Refused(_)
            | Self::NoAnswer => true,
        }
    }
}

impl Attempt {
    /// Whether it may have left as a message: what has not counts for no limit.
    #[must_use]
    pub const fn may_have_left(&self) -> bool {
        match self {
            Self::Offline | Self::Permanent(_) | Self::NotThere(_) | Self::Unanswered(..) => false,
            Self::Cut(_) | Self::Transient(_) | Self::Refused(_) | Self::NoAnswer => true,
        }
    }
}

/// What is to happen to the row after an attempt that did not succeed. `random` is in `0.0..1.0`.
#[must_use]
pub fn after(attempt: &Attempt, attempts: u32, settings: &Snapshot, now: Timestamp, random: f64) -> Change {
    let again = |reason: String| {
        if attempts >= settings.max_attempts {
            Change::Failed { reason }
        } else {
            Change::Retry { at: now.plus(backoff(attempts, random)), reason }
        }
    };
    match attempt {
        Attempt::Offline => Change::PutBack,
        Attempt::Cut(times) if *times <= FREE_CUTS => Change::PutBack,
        Attempt::Cut(_) | Attempt::NoAnswer => again(NO_ANSWER.to_owned()),
        Attempt::Transient(reason) => again(reason.clone()),
        // That says something of the account, or of the server, and nothing of the message.
        Attempt::Unanswered(reason, times) => {
            Change::Postpone { at: now.plus(backoff(*times, random)), reason: reason.clone() }
        }
        Attempt::Permanent(reason) | Attempt::NotThere(reason) => Change::Failed { reason: reason.clone() },
        Attempt::Refused(nack) => match nack.verdict() {
            Verdict::Transient => again(nack.to_string()),
            Verdict::Permanent => Change::Failed { reason: nack.to_string() },
        },
    }
}

/// Doubles with every attempt, between half and the whole of its step, never over ten minutes.
#[must_use]
pub fn backoff(attempts: u32, random: f64) -> Duration {
    let doubled = BACKOFF_FIRST.saturating_mul(1 << attempts.saturating_sub(1).min(16));
    doubled.min(BACKOFF_LONGEST).mul_f64(0.5 + random.clamp(0.0, 1.0) / 2.0)
}

/// What a user reads when a message waited longer than `most` for the link.
#[must_use]
pub fn too_old(most: Duration) -> String {
    let seconds = most.as_secs();
    let span = match seconds {
        0..120 => format!("{seconds} s"),
        120..7_200 => format!("{} min", seconds / 60),
        _ => format!("{} h", seconds / 3_600),
    };
    format!("waited longer than {span} without reaching WhatsApp (queue.max_age)")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn attempts() -> impl Strategy<Value = Attempt> {
        prop_oneof![
            Just(Attempt::Offline),
            (0u32..8).prop_map(Attempt::Cut),
            Just(Attempt::Transient("t".to_owned())),
            (1u32..40).prop_map(|times| Attempt::Unanswered("u".to_owned(), times)),
            Just(Attempt::NotThere("n".to_owned())),
            Just(Attempt::Permanent("p".to_owned())),
            (400u16..600).prop_map(|code| Attempt::Refused(NackReason::from_code(code))),
            Just(Attempt::NoAnswer),
        ]
    }

    proptest! {
        #[test]
        fn backoff_stays_in_its_envelope(attempts in 0u32..100, random in 0.0f64..1.0) {
            let wait = backoff(attempts, random);
            prop_assert!(wait >= BACKOFF_FIRST / 2 && wait <= BACKOFF_LONGEST);
            prop_assert!(backoff(attempts + 1, random) >= wait);
        }

        #[test]
        fn every_message_ends(attempt in attempts(), spent in 1u32..20, max in 1u32..10, random in 0.0f64..1.0) {
            let settings = Snapshot { max_attempts: max, ..Snapshot::default() };
            let now = Timestamp::from_millis(1_000_000);
            match after(&attempt, spent, &settings, now, random) {
                Change::Retry { at, .. } => prop_assert!(spent < max && at > now),
                // Ends by `queue.max_age`: what backs off counts.
                Change::Postpone { at, .. } => prop_assert!(matches!(attempt, Attempt::Unanswered(..)) && at > now),
                Change::PutBack => prop_assert!(matches!(attempt, Attempt::Offline | Attempt::Cut(..=FREE_CUTS))),
                Change::Failed { reason } => prop_assert!(!reason.is_empty()),
                other => prop_assert!(false, "{other:?}"),
            }
        }
    }
}
