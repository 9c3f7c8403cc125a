//! What can go wrong, by name.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// One thing that goes wrong. Its text form (`ack-delay 200`) is also its serialised form.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub enum Fault {
    /// Server acks of the target's messages are held for `ms` milliseconds; the message is relayed at once.
    AckDelay {
        /// Milliseconds.
        ms: u64,
    },
    /// The target's messages are relayed, their acks never leave.
    AckLost,
    /// The target's messages are refused with this code and not relayed.
    Nack {
        /// WhatsApp's error code, for example 463.
        code: u16,
    },
    /// The target's messages to people who gave it no privacy token, or another, are refused with 463 and not relayed.
    Strangers,
    /// Messages for the target get lost on the way; they are kept, and come with its next login.
    Drop,
    /// Messages for the target arrive twice.
    Double,
    /// A message for the target comes after the next one, or two seconds late.
    Reorder,
    /// Messages for the target arrive with a broken ciphertext.
    Garble,
    /// Whatever is for the target takes `ms` milliseconds longer, one after another.
    Slow {
        /// Milliseconds.
        ms: u64,
    },
    /// The server's clock is wrong by so much in whatever it tells the target.
    ClockSkew {
        /// Seconds; negative ones lie in the past.
        seconds: i64,
    },
    /// The target's key bundles are given out with a one-time key that it does not have any more.
    StalePreKeys,
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
    /// Every connection is cut, and the server starts anew from what it wrote down. One-shot, for everybody.
    Restart,
    /// Delivery, read and played receipts are taken from the target and go nowhere.
    DropReceipts,
    /// The target's key bundles are given out with a signature that does not fit.
    GarbleBundles,
    /// Uploads and downloads are refused with this HTTP status. A download says whose it is only where the client
    /// sends its token along; the token names the device.
    Media {
        /// For example 403, 404, 410 or 500.
        code: u16,
    },
    /// Linking a device to the target is guarded by a passkey: the client is asked for it.
    Passkey,
}

/// A fault's name, what it takes, and what it does, for who looks for one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct FaultKind {
    /// The first word.
    pub name: &'static str,
    /// The second, where there is one.
    pub argument: Option<&'static str>,
    /// In a few words.
    pub does: &'static str,
}

/// All faults there are.
pub const FAULT_KINDS: [FaultKind; 23] = {
    const fn kind(name: &'static str, argument: Option<&'static str>, does: &'static str) -> FaultKind {
        FaultKind { name, argument, does }
    }
    [
        kind("ack-delay", Some("MS"), "acks of the target's messages come late"),
        kind("ack-lost", None, "the target's messages go out, their acks never come"),
        kind("nack", Some("CODE"), "the target's messages are refused"),
        kind("strangers", None, "the target's messages to people who never wrote to it are refused with 463"),
        kind("drop", None, "messages for the target are lost on the way and come with its next login"),
        kind("double", None, "messages for the target arrive twice"),
        kind("reorder", None, "a message for the target comes after the next one"),
        kind("garble", None, "messages for the target cannot be decrypted"),
        kind("slow", Some("MS"), "whatever is for the target comes late"),
        kind("clock-skew", Some("SECONDS"), "the server's clock is wrong in what it tells the target"),
        kind("stale-prekeys", None, "others encrypt for the target with a key it does not have any more"),
        kind("cut", None, "connections end now"),
        kind("cut-mid-frame", None, "connections end now, in the middle of a frame"),
        kind("refuse", None, "new connections are closed"),
        kind("refuse-logins", Some("CODE"), "logins fail: 401 logged out, 402 banned, 405 outdated, 503 busy"),
        kind("replaced", None, "connections are told that another client took their place"),
        kind("logged-out", None, "the phone unlinks the devices"),
        kind("stream-error", Some("CODE"), "connections are told of an error, and left open"),
        kind("restart", None, "the server starts anew from what it wrote down"),
        kind("no-receipts", None, "receipts of and for the target go nowhere"),
        kind("garble-bundles", None, "the target's key bundles are signed wrongly"),
        kind("media", Some("CODE"), "uploads and downloads are refused with this HTTP status"),
        kind("passkey", None, "linking a device to the target asks for a passkey"),
    ]
};

impl Fault {
    /// Whether the fault acts once on the live connections instead of holding on.
    pub fn is_one_shot(self) -> bool {
        matches!(
            self,
            Self::Cut | Self::CutMidFrame | Self::Replaced | Self::LoggedOut | Self::StreamError { .. } | Self::Restart
        )
    }

    /// Whether it strikes where no device has its number yet.
    pub(in crate::emulator) fn is_before_devices(self) -> bool {
        self == Self::Passkey
    }

    /// Whether it bites on the way to a client.
    pub(super) fn is_on_the_way(self) -> bool {
        matches!(
            self,
            Self::Drop | Self::Double | Self::Reorder | Self::Garble | Self::Slow { .. } | Self::ClockSkew { .. }
        )
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::AckDelay { ms } => write!(out, "ack-delay {ms}"),
            Self::AckLost => out.write_str("ack-lost"),
            Self::Nack { code } => write!(out, "nack {code}"),
            Self::Strangers => out.write_str("strangers"),
            Self::Drop => out.write_str("drop"),
            Self::Double => out.write_str("double"),
            Self::Reorder => out.write_str("reorder"),
            Self::Garble => out.write_str("garble"),
            Self::Slow { ms } => write!(out, "slow {ms}"),
            Self::ClockSkew { seconds } => write!(out, "clock-skew {seconds}"),
            Self::StalePreKeys => out.write_str("stale-prekeys"),
            Self::Cut => out.write_str("cut"),
            Self::CutMidFrame => out.write_str("cut-mid-frame"),
            Self::RefuseConnections => out.write_str("refuse"),
            Self::RefuseLogins { code } => write!(out, "refuse-logins {code}"),
            Self::Replaced => out.write_str("replaced"),
            Self::LoggedOut => out.write_str("logged-out"),
            Self::StreamError { code } => write!(out, "stream-error {code}"),
            Self::Restart => out.write_str("restart"),
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
    #[error("unknown fault {0:?}: use {known}", known = known())]
    Unknown(String),
    /// A number is missing, wrong or superfluous.
    #[error("{kind} needs {needs}")]
    Argument {
        /// The fault's first word.
        kind: &'static str,
        /// What it needs.
        needs: &'static str,
    },
    /// It cannot be limited, for it is over at once.
    #[error("{0} acts once and at once: it takes no count and no time")]
    OneShot(Fault),
    /// It is for everybody.
    #[error("{0} hits everybody: name no target")]
    Everybody(Fault),
    /// It strikes before there is a device.
    #[error("{0} strikes before a device has its number: name the account without one")]
    NoDevice(Fault),
}

/// All names with their arguments, as a sentence.
fn known() -> String {
    let names = FAULT_KINDS.map(|kind| match kind.argument {
        Some(argument) => format!("{} {argument}", kind.name),
        None => kind.name.to_owned(),
    });
    let (last, names) = names.split_last().map_or(("", &[][..]), |(last, names)| (last.as_str(), names));
    format!("{} or {last}", names.join(", "))
}

impl FromStr for Fault {
    type Err = FaultError;

    fn from_str(text: &str) -> Result<Self, FaultError> {
        let mut words = text.split_whitespace();
        let name = words.next().unwrap_or_default();
        let Some(FaultKind { name: kind, argument: takes, .. }) = FAULT_KINDS.iter().find(|kind| kind.name == name)
        else {
            return Err(FaultError::Unknown(name.to_owned()));
        };
        let needs = match *takes {
            None => "no argument",
            Some("CODE") => "a code from 100 to 999",
            Some("MS") => "milliseconds",
            Some(_) => "seconds, which may be negative",
        };
        let wrong = FaultError::Argument { kind, needs };
        let argument = words.next();
        if words.next().is_some() || argument.is_some() != takes.is_some() {
            return Err(wrong);
        }
        let code = || argument.and_then(|word| word.parse().ok()).filter(|code| (100..1000).contains(code));
        let ms = || argument.and_then(|word| word.parse().ok());
        let fault = match *kind {
            "ack-delay" => ms().map(|ms| Self::AckDelay { ms }),
            "ack-lost" => Some(Self::AckLost),
            "nack" => code().map(|code| Self::Nack { code }),
            "strangers" => Some(Self::Strangers),
            "drop" => Some(Self::Drop),
            "double" => Some(Self::Double),
            "reorder" => Some(Self::Reorder),
            "garble" => Some(Self::Garble),
            "slow" => ms().map(|ms| Self::Slow { ms }),
            "clock-skew" => argument.and_then(|word| word.parse().ok()).map(|seconds: i64| Self::ClockSkew { seconds }),
            "stale-prekeys" => Some(Self::StalePreKeys),
            "cut" => Some(Self::Cut),
            "cut-mid-frame" => Some(Self::CutMidFrame),
            "refuse" => Some(Self::RefuseConnections),
            "refuse-logins" => code().map(|code| Self::RefuseLogins { code }),
            "replaced" => Some(Self::Replaced),
            "logged-out" => Some(Self::LoggedOut),
            "stream-error" => code().map(|code| Self::StreamError { code }),
            "restart" => Some(Self::Restart),
            "no-receipts" => Some(Self::DropReceipts),
            "garble-bundles" => Some(Self::GarbleBundles),
            "media" => code().map(|code| Self::Media { code }),
            "passkey" => Some(Self::Passkey),
            _ => None,
        };
        fault.ok_or(wrong)
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

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_is_read_and_reads_back_what_it_prints() {
        for kind in FAULT_KINDS {
            let text = match kind.argument {
                Some("SECONDS") => format!("{} -3600", kind.name),
                Some(_) => format!("{} 463", kind.name),
                None => kind.name.to_owned(),
            };
            let fault: Fault = text.parse().unwrap();
            assert_eq!(fault.to_string(), text);
            let json = serde_json::to_string(&fault).unwrap();
            assert_eq!(serde_json::from_str::<Fault>(&json).unwrap(), fault);
        }
    }

    #[test]
    fn wrong_words_and_numbers_are_refused() {
        let wrong = [
            "",
            "explode",
            "nack",
            "nack x",
            "nack 7",
            "cut now",
            "ack-delay -1",
            "ack-delay 1 2",
            "slow",
            "slow x",
            "clock-skew",
            "clock-skew soon",
            "drop 3",
            "media 20",
        ];
        for text in wrong {
            assert!(text.parse::<Fault>().is_err(), "{text:?} was taken");
        }
        let said = "explode".parse::<Fault>().unwrap_err().to_string();
        assert!(said.contains("ack-delay MS, ack-lost, nack CODE") && said.ends_with("or passkey"), "{said}");
    }
}
