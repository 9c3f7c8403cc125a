//! How the daemon stands with WhatsApp.

use serde::{Deserialize, Serialize};

use super::Timestamp;

/// How a new device is linked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PairingMethod {
    /// The phone scans a code.
    Qr,
    /// A code is typed on this phone (digits with country code).
    Code(String),
}

/// Why there is no connection, in words a user can act on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct OfflineReason(pub String);

/// The state of the link. `session/state.rs` says what leads from one to the other.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "snake_case")]
pub enum LinkState {
    /// No account is linked and nobody asked for it.
    Unpaired,
    /// Waits for the phone.
    Pairing {
        /// The text of the QR code to show now, when pairing by QR.
        qr: Option<String>,
        /// The code to type on the phone, when pairing by code.
        code: Option<String>,
        /// When what is shown stops working; then a new one comes.
        expires_at: Option<Timestamp>,
    },
    /// Dialling, or logging in.
    Connecting,
    /// Logged in; the last traffic says how alive.
    Connected,
    /// No connection; tried again by itself.
    Offline {
        /// Why.
        reason: OfflineReason,
        /// When it is tried again.
        retry_at: Option<Timestamp>,
    },
    /// Another client took the connection over; `waya login` takes it back.
    Replaced,
    /// The account was unlinked, from the phone or by the server.
    LoggedOut {
        /// Why.
        reason: String,
    },
    /// WhatsApp locked the account.
    Locked,
    /// WhatsApp banned the account for a while.
    Banned {
        /// Until when.
        until: Option<Timestamp>,
    },
    /// WhatsApp wants a newer client version.
    Outdated,
    /// WhatsApp asks for a passkey before it links.
    PasskeyRequired {
        /// How far that has come.
        #[serde(default)]
        step: PasskeyStep,
    },
}

/// How far the passkey that WhatsApp asked for has come.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "step", rename_all = "snake_case")]
pub enum PasskeyStep {
    /// Waits for an answer.
    Asked {
        /// What the passkey is to sign: WebAuthn's `PublicKeyCredentialRequestOptions` as JSON, as it came.
        request: String,
        /// When the request stops being of use, as far as it says so itself.
        expires_at: Option<Timestamp>,
    },
    /// WhatsApp has the answer, or the user's word that the codes are the same; it is WhatsApp's turn.
    Answered,
    /// The user is to compare this code with the one on the phone.
    Compare {
        /// `ABCD-EFGH`.
        code: String,
    },
    /// It came to nothing. No connection is held; pairing starts anew.
    Over {
        /// Why.
        reason: String,
    },
}

impl Default for PasskeyStep {
    /// Asked, with nothing to show.
    fn default() -> Self {
        Self::Asked { request: String::new(), expires_at: None }
    }
}

impl PasskeyStep {
    /// The contract's word.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Asked { .. } => "asked",
            Self::Answered => "answered",
            Self::Compare { .. } => "compare",
            Self::Over { .. } => "over",
        }
    }

    /// It may still lead to a linked account.
    #[must_use]
    pub const fn is_open(&self) -> bool {
        !matches!(self, Self::Over { .. })
    }
}

impl LinkState {
    /// The word of the contract.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Unpaired => "unpaired",
            Self::Pairing { .. } => "pairing",
            Self::Connecting => "connecting",
            Self::Connected => "connected",
            Self::Offline { .. } => "offline",
            Self::Replaced => "replaced",
            Self::LoggedOut { .. } => "logged_out",
            Self::Locked => "locked",
            Self::Banned { .. } => "banned",
            Self::Outdated => "outdated",
            Self::PasskeyRequired { .. } => "passkey_required",
        }
    }

    /// Messages can leave now.
    #[must_use]
    pub const fn is_connected(&self) -> bool {
        matches!(self, Self::Connected)
    }

    /// It stays like this until somebody does something.
    #[must_use]
    pub const fn needs_the_user(&self) -> bool {
        matches!(
            self,
            Self::Unpaired
                | Self::Pairing { .. }
                | Self::Replaced
                | Self::LoggedOut { .. }
                | Self::Locked
                | Self::Outdated
                | Self::PasskeyRequired { .. }
        )
    }

    /// Without what is good for seconds and for whoever sees it: the codes, and the request for a passkey.
    #[must_use]
    pub fn without_codes(self) -> Self {
        match self {
            Self::Pairing { .. } => Self::Pairing { qr: None, code: None, expires_at: None },
            Self::PasskeyRequired { step: PasskeyStep::Asked { .. } } => {
                Self::PasskeyRequired { step: PasskeyStep::default() }
            }
            Self::PasskeyRequired { step: PasskeyStep::Compare { .. } } => {
                Self::PasskeyRequired { step: PasskeyStep::Compare { code: String::new() } }
            }
            other => other,
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_journal_of_before_the_steps_is_still_read() {
        let old: LinkState = serde_json::from_str(r#"{"state":"passkey_required"}"#).unwrap();
        assert_eq!(old, LinkState::PasskeyRequired { step: PasskeyStep::default() });
    }

    #[test]
    fn every_step_reads_back_and_none_of_them_keeps_its_code() {
        let at = Some(Timestamp::from_millis(1));
        for step in [
            PasskeyStep::Asked { request: "{\"challenge\":\"c2VjcmV0\"}".to_owned(), expires_at: at },
            PasskeyStep::Answered,
            PasskeyStep::Compare { code: "SECR-ET00".to_owned() },
            PasskeyStep::Over { reason: "the connection ended".to_owned() },
        ] {
            let state = LinkState::PasskeyRequired { step };
            let json = serde_json::to_string(&state).unwrap();
            assert_eq!(serde_json::from_str::<LinkState>(&json).unwrap(), state);
            let kept = serde_json::to_string(&state.without_codes()).unwrap();
            assert!(!kept.contains("c2VjcmV0") && !kept.contains("SECR"), "{kept}");
        }
    }
}
