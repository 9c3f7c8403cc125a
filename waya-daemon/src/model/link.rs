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
    PasskeyRequired,
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
            Self::PasskeyRequired => "passkey_required",
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
                | Self::PasskeyRequired
        )
    }
}
