//! What a refusal of WhatsApp's server means, by its code.

use std::fmt;

/// Why the server refused a message (`<ack class="message" error="CODE">`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NackReason {
    /// 463: messages to people who never wrote to this account are restricted for a while.
    ReachOutTimelock,
    /// 479: the list of devices the message was encrypted for was not the server's.
    StaleDeviceList,
    /// 429: too fast.
    RateLimited,
    /// 5xx: the server's own trouble.
    ServerTrouble(u16),
    /// 401, 403, 405, 406: not allowed to write there.
    NotAllowed(u16),
    /// 404, 410: no such chat.
    NoSuchChat(u16),
    /// Anything else.
    Other(u16),
}

/// What the queue does about a refusal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Worth another attempt.
    Transient,
    /// This message fails; the rest goes on.
    Permanent,
}

impl NackReason {
    /// From the server's code.
    #[must_use]
    pub const fn from_code(code: u16) -> Self {
        match code {
            463 => Self::ReachOutTimelock,
            479 => Self::StaleDeviceList,
            429 => Self::RateLimited,
            500..=599 => Self::ServerTrouble(code),
            401 | 403 | 405 | 406 => Self::NotAllowed(code),
            404 | 410 => Self::NoSuchChat(code),
            _ => Self::Other(code),
        }
    }

    /// Whether another attempt makes sense.
    #[must_use]
    pub const fn verdict(self) -> Verdict {
        match self {
            Self::ReachOutTimelock
            | Self::StaleDeviceList
            | Self::RateLimited
            | Self::ServerTrouble(_)
            | Self::Other(_) => Verdict::Transient,
            Self::NotAllowed(_) | Self::NoSuchChat(_) => Verdict::Permanent,
        }
    }
}

impl fmt::Display for NackReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::ReachOutTimelock => f.write_str(
                "WhatsApp restricts this account from writing to people who have not written to it (463); wait, or let them write first",
            ),
            Self::StaleDeviceList => f.write_str("the recipient's devices changed meanwhile (479)"),
            Self::RateLimited => f.write_str("WhatsApp says too fast (429); raise queue.delay"),
            Self::ServerTrouble(code) => write!(f, "WhatsApp's server had trouble ({code})"),
            Self::NotAllowed(code) => write!(f, "WhatsApp does not let this account write there ({code})"),
            Self::NoSuchChat(code) => write!(f, "WhatsApp knows no such chat ({code})"),
            Self::Other(code) => write!(f, "WhatsApp refused the message ({code})"),
        }
    }
}
