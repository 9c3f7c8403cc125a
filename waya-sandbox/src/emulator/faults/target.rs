//! Whom a fault hits, and for how long.

use std::fmt;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use super::Fault;
use crate::emulator::phone_digits;

/// Whom a fault hits.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum FaultTarget {
    /// Every client, paired or not.
    All,
    /// The linked devices of this phone number (digits only).
    Phone(String),
    /// One linked device of it.
    Device(String, u16),
}

impl FaultTarget {
    /// The same target with its number as digits alone.
    pub(in crate::emulator) fn normalised(self) -> Self {
        let digits = |phone: String| phone_digits(&phone).unwrap_or(phone);
        match self {
            Self::All => Self::All,
            Self::Phone(phone) => Self::Phone(digits(phone)),
            Self::Device(phone, device) => Self::Device(digits(phone), device),
        }
    }

    /// Whether a client is among those who are hit; `None` for one that is not linked yet.
    pub(in crate::emulator) fn hits(&self, client: Option<(&str, u16)>) -> bool {
        match (self, client) {
            (Self::All, _) => true,
            (_, None) => false,
            (Self::Phone(wanted), Some((phone, _))) => wanted == phone,
            (Self::Device(wanted, number), Some((phone, device))) => wanted == phone && *number == device,
        }
    }
}

impl fmt::Display for FaultTarget {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::All => out.write_str("all"),
            Self::Phone(phone) => out.write_str(phone),
            Self::Device(phone, device) => write!(out, "{phone}:{device}"),
        }
    }
}

/// When a fault ends by itself. By default it does not.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct FaultLimit {
    /// After it struck so many times.
    pub times: Option<u32>,
    /// After this time.
    pub time: Option<Duration>,
}

impl FaultLimit {
    /// Whether there is any.
    pub fn is_any(self) -> bool {
        self != Self::default()
    }

    /// Ends after so many strikes.
    pub fn times(times: u32) -> Self {
        Self { times: Some(times), time: None }
    }

    /// Ends after this time.
    pub fn time(time: Duration) -> Self {
        Self { times: None, time: Some(time) }
    }
}

/// A fault that is switched on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ActiveFault {
    /// What goes wrong.
    pub fault: Fault,
    /// For whom.
    pub target: FaultTarget,
    /// How many more times; `None`: until it is switched off.
    pub left: Option<u32>,
    /// For how much longer; `None`: until it is switched off.
    pub ends_in: Option<Duration>,
}

/// A fault that is switched on for a target known elsewhere.
#[derive(Debug)]
pub(super) struct Active {
    pub(super) fault: Fault,
    pub(super) left: Option<u32>,
    pub(super) until: Option<Instant>,
}

impl Active {
    pub(super) fn new(fault: Fault, limit: FaultLimit) -> Self {
        let until = limit.time.and_then(|time| Instant::now().checked_add(time));
        Self { fault, left: limit.times, until }
    }

    pub(super) fn is_on(&self) -> bool {
        self.left != Some(0) && self.until.is_none_or(|until| Instant::now() < until)
    }
}
