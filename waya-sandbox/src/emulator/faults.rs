//! The faults that can be switched on while the emulator runs.
//!
//! Owns which fault holds for whom. Lasting faults are asked for at the place where they bite;
//! one-shot faults act on the connections alive at that moment and are never stored.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;
use std::sync::RwLock;
use std::time::Duration;

use axum::http::StatusCode;
use serde::{Deserialize, Serialize};

/// One thing that goes wrong. Its text form (`ack-delay 200`) is also its serialised form.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub enum Fault {
    /// Server acks of messages are held for `ms` milliseconds; the message is relayed at once.
    AckDelay {
        /// Milliseconds.
        ms: u64,
    },
    /// Messages are relayed, their acks never leave.
    AckLost,
    /// Messages are refused with this code and not relayed.
    Nack {
        /// WhatsApp's error code, for example 463.
        code: u16,
    },
    /// Live connections are cut now. One-shot.
    Cut,
    /// Live connections are cut now, in the middle of a frame. One-shot.
    CutMidFrame,
    /// New connections are closed before they get anywhere.
    RefuseConnections,
    /// Logins are answered with `<failure reason=code>`.
    RefuseLogins {
        /// For example 401, 402, 403, 405 or 503.
        code: u16,
    },
    /// Live connections are told that another client took their place. One-shot.
    Replaced,
    /// Live connections are told that the phone unlinked them; the devices are gone. One-shot.
    LoggedOut,
    /// Live connections are told of an error with this code, and left open. One-shot.
    StreamError {
        /// For example 429 or 503.
        code: u16,
    },
    /// Delivery, read and played receipts are taken from the target and go nowhere.
    DropReceipts,
    /// The target's key bundles are given out with a signature that does not fit.
    GarbleBundles,
    /// Uploads and downloads are refused with this HTTP status. A download says whose it is only where the client
    /// sends its token along.
    Media {
        /// For example 403, 404, 410 or 500.
        code: u16,
    },
    /// Linking a device to the target is guarded by a passkey: the client is asked for it.
    Passkey,
}

impl Fault {
    /// Whether the fault acts once on the live connections instead of holding on.
    pub fn is_one_shot(self) -> bool {
        matches!(self, Self::Cut | Self::CutMidFrame | Self::Replaced | Self::LoggedOut | Self::StreamError { .. })
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::AckDelay { ms } => write!(out, "ack-delay {ms}"),
            Self::AckLost => out.write_str("ack-lost"),
            Self::Nack { code } => write!(out, "nack {code}"),
            Self::Cut => out.write_str("cut"),
            Self::CutMidFrame => out.write_str("cut-mid-frame"),
            Self::RefuseConnections => out.write_str("refuse"),
            Self::RefuseLogins { code } => write!(out, "refuse-logins {code}"),
            Self::Replaced => out.write_str("replaced"),
            Self::LoggedOut => out.write_str("logged-out"),
            Self::StreamError { code } => write!(out, "stream-error {code}"),
            Self::DropReceipts => out.write_str("no-receipts"),
            Self::GarbleBundles => out.write_str("garble-bundles"),
            Self::Media { code } => write!(out, "media {code}"),
            Self::Passkey => out.write_str("passkey"),
        }
    }
}

/// Why a fault's text was not understood.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FaultError {
    /// The first word is none of the known ones.
    #[error(
        "unknown fault {0:?}: use ack-delay MS, ack-lost, nack CODE, cut, cut-mid-frame, refuse, \
         refuse-logins CODE, replaced, logged-out, stream-error CODE, no-receipts, garble-bundles, media CODE or passkey"
    )]
    Unknown(String),
    /// A number is missing, wrong or superfluous.
    #[error("{kind} needs {needs}")]
    Argument {
        /// The fault's first word.
        kind: &'static str,
        /// What it needs.
        needs: &'static str,
    },
}

impl FromStr for Fault {
    type Err = FaultError;

    fn from_str(text: &str) -> Result<Self, FaultError> {
        let mut words = text.split_whitespace();
        let kind = words.next().unwrap_or_default();
        let argument = words.next();
        let bare = |kind, fault| match argument {
            None => Ok(fault),
            Some(_) => Err(FaultError::Argument { kind, needs: "no argument" }),
        };
        let code = |kind| {
            argument
                .and_then(|word| word.parse::<u16>().ok())
                .filter(|code| (100..1000).contains(code) && words.clone().next().is_none())
                .ok_or(FaultError::Argument { kind, needs: "a code from 100 to 999" })
        };
        match kind {
            "ack-delay" => argument
                .and_then(|word| word.parse().ok())
                .filter(|_| words.clone().next().is_none())
                .map(|ms| Self::AckDelay { ms })
                .ok_or(FaultError::Argument { kind: "ack-delay", needs: "milliseconds" }),
            "ack-lost" => bare("ack-lost", Self::AckLost),
            "nack" => Ok(Self::Nack { code: code("nack")? }),
            "cut" => bare("cut", Self::Cut),
            "cut-mid-frame" => bare("cut-mid-frame", Self::CutMidFrame),
            "refuse" => bare("refuse", Self::RefuseConnections),
            "refuse-logins" => Ok(Self::RefuseLogins { code: code("refuse-logins")? }),
            "replaced" => bare("replaced", Self::Replaced),
            "logged-out" => bare("logged-out", Self::LoggedOut),
            "stream-error" => Ok(Self::StreamError { code: code("stream-error")? }),
            "no-receipts" => bare("no-receipts", Self::DropReceipts),
            "garble-bundles" => bare("garble-bundles", Self::GarbleBundles),
            "media" => Ok(Self::Media { code: code("media")? }),
            "passkey" => bare("passkey", Self::Passkey),
            other => Err(FaultError::Unknown(other.to_owned())),
        }
    }
}

impl From<Fault> for String {
    fn from(fault: Fault) -> Self {
        fault.to_string()
    }
}

impl TryFrom<String> for Fault {
    type Error = FaultError;

    fn try_from(text: String) -> Result<Self, FaultError> {
        text.parse()
    }
}

/// Whom a fault hits.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum FaultTarget {
    /// Every client, paired or not.
    All,
    /// The linked devices of this phone number (digits only).
    Phone(String),
}

impl FaultTarget {
    /// The same target with its number as digits alone.
    pub(super) fn normalised(self) -> Self {
        match self {
            Self::All => Self::All,
            Self::Phone(phone) => Self::Phone(super::phone_digits(&phone).unwrap_or(phone)),
        }
    }
}

/// A fault that is switched on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ActiveFault {
    /// What goes wrong.
    pub fault: Fault,
    /// For whom.
    pub target: FaultTarget,
}

/// What happens to the ack of one message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum AckFate {
    Prompt,
    After(Duration),
    Lost,
    Refused(u16),
}

/// The lasting faults that are switched on; at most one of a kind for each target.
#[derive(Debug, Default)]
pub(super) struct Faults {
    active: RwLock<BTreeMap<FaultTarget, Vec<Fault>>>,
}

impl Faults {
    pub(super) fn set(&self, fault: Fault, target: FaultTarget) {
        let mut active = super::lock::write(&self.active);
        let faults = active.entry(target).or_default();
        faults.retain(|known| std::mem::discriminant(known) != std::mem::discriminant(&fault));
        faults.push(fault);
    }

    /// Switches off what was set for exactly this target; `All` switches off everything.
    pub(super) fn clear(&self, target: &FaultTarget) {
        let mut active = super::lock::write(&self.active);
        match target {
            FaultTarget::All => active.clear(),
            FaultTarget::Phone(_) => drop(active.remove(target)),
        }
    }

    pub(super) fn list(&self) -> Vec<ActiveFault> {
        super::lock::read(&self.active)
            .iter()
            .flat_map(|(target, faults)| {
                faults.iter().map(|fault| ActiveFault { fault: *fault, target: target.clone() })
            })
            .collect()
    }

    /// The first answer of `pick` over the phone's own faults, then over those of everybody.
    fn find<T>(&self, phone: &str, pick: impl Fn(Fault) -> Option<T>) -> Option<T> {
        let active = super::lock::read(&self.active);
        if active.is_empty() {
            return None;
        }
        [FaultTarget::Phone(phone.to_owned()), FaultTarget::All]
            .iter()
            .filter_map(|target| active.get(target))
            .flatten()
            .find_map(|fault| pick(*fault))
    }

    /// The code this phone's messages are refused with.
    pub(super) fn nack_code(&self, phone: &str) -> Option<u16> {
        self.find(phone, |fault| match fault {
            Fault::Nack { code } => Some(code),
            _ => None,
        })
    }

    pub(super) fn ack_fate(&self, phone: &str) -> AckFate {
        let refused = self.nack_code(phone).map(AckFate::Refused);
        let lost = || self.find(phone, |fault| (fault == Fault::AckLost).then_some(AckFate::Lost));
        let late = || {
            self.find(phone, |fault| match fault {
                Fault::AckDelay { ms } => Some(AckFate::After(Duration::from_millis(ms))),
                _ => None,
            })
        };
        refused.or_else(lost).or_else(late).unwrap_or(AckFate::Prompt)
    }

    pub(super) fn refuses_everybody(&self) -> bool {
        super::lock::read(&self.active)
            .get(&FaultTarget::All)
            .is_some_and(|faults| faults.contains(&Fault::RefuseConnections))
    }

    pub(super) fn refuses_connection(&self, phone: &str) -> bool {
        self.find(phone, |fault| (fault == Fault::RefuseConnections).then_some(())).is_some()
    }

    pub(super) fn login_failure(&self, phone: &str) -> Option<u16> {
        self.find(phone, |fault| match fault {
            Fault::RefuseLogins { code } => Some(code),
            _ => None,
        })
    }

    pub(super) fn drops_receipts(&self, phone: &str) -> bool {
        self.find(phone, |fault| (fault == Fault::DropReceipts).then_some(())).is_some()
    }

    pub(super) fn garbles_bundles(&self, phone: &str) -> bool {
        self.find(phone, |fault| (fault == Fault::GarbleBundles).then_some(())).is_some()
    }

    /// What the media servers answer a phone with, or somebody of whom they do not know.
    pub(super) fn media_failure(&self, phone: Option<&str>) -> Option<StatusCode> {
        let code = self.find(phone.unwrap_or_default(), |fault| match fault {
            Fault::Media { code } => Some(code),
            _ => None,
        });
        code.map(|code| StatusCode::from_u16(code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR))
    }

    pub(super) fn wants_passkey(&self, phone: &str) -> bool {
        self.find(phone, |fault| (fault == Fault::Passkey).then_some(())).is_some()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn every_fault_reads_back_what_it_prints() {
        for fault in [
            Fault::AckDelay { ms: 200 },
            Fault::AckLost,
            Fault::Nack { code: 463 },
            Fault::Cut,
            Fault::CutMidFrame,
            Fault::RefuseConnections,
            Fault::RefuseLogins { code: 402 },
            Fault::Replaced,
            Fault::LoggedOut,
            Fault::StreamError { code: 429 },
            Fault::DropReceipts,
            Fault::GarbleBundles,
            Fault::Media { code: 410 },
            Fault::Passkey,
        ] {
            assert_eq!(fault.to_string().parse::<Fault>().unwrap(), fault);
            let json = serde_json::to_string(&fault).unwrap();
            assert_eq!(serde_json::from_str::<Fault>(&json).unwrap(), fault);
        }
    }

    #[test]
    fn wrong_words_and_numbers_are_refused() {
        for text in ["", "explode", "nack", "nack x", "nack 7", "cut now", "ack-delay -1", "ack-delay 1 2"] {
            assert!(text.parse::<Fault>().is_err(), "{text:?} was taken");
        }
    }

    #[test]
    fn a_fault_of_one_phone_leaves_the_others_alone() {
        let faults = Faults::default();
        faults.set(Fault::AckLost, FaultTarget::Phone("1".into()));
        assert_eq!(faults.ack_fate("1"), AckFate::Lost);
        assert_eq!(faults.ack_fate("2"), AckFate::Prompt);
        faults.set(Fault::AckDelay { ms: 5 }, FaultTarget::All);
        faults.set(Fault::AckDelay { ms: 7 }, FaultTarget::All);
        assert_eq!(faults.ack_fate("2"), AckFate::After(Duration::from_millis(7)));
        assert_eq!(faults.list().len(), 2);
        faults.clear(&FaultTarget::All);
        assert!(faults.list().is_empty());
    }
}
