//! The words of the link-state machine: what goes in and what comes out.

use crate::model::{PairingMethod, Timestamp};

/// Something that happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Input {
    /// Somebody wants to link an account.
    PairAsked(PairingMethod),
    /// A code to show.
    Shown {
        /// The QR code's text.
        qr: Option<String>,
        /// The code to type.
        code: Option<String>,
        /// When it stops working.
        expires_at: Timestamp,
    },
    /// Pairing did not work this time.
    PairingFailed(String),
    /// The server refused to let anybody pair now.
    PairingRefused(String),
    /// The account is linked; the server closes and wants a login.
    Paired,
    /// Logged in and ready.
    LoggedIn,
    /// The account's own name changed; nothing else.
    MeChanged,
    /// Another client took over.
    Replaced,
    /// Unlinked.
    LoggedOut {
        /// In words.
        reason: String,
        /// The server said beyond doubt that this device was removed.
        certain: bool,
    },
    /// The account is locked.
    Locked,
    /// The account is banned.
    Banned {
        /// Until when.
        until: Option<Timestamp>,
    },
    /// The client version is too old.
    Outdated,
    /// A newer client version was found.
    VersionRenewed,
    /// Something about the passkey that WhatsApp wants.
    Passkey(PasskeyInput),
    /// The connection is over.
    Ended(Ended),
    /// A time the machine waited for has come (or any other reason to look at the clock).
    Tick,
    /// Somebody wants a connection now.
    ReconnectAsked,
    /// The keys are gone, on the user's word.
    Forgotten,
    /// The daemon stops.
    Stopped,
}

/// What happened to the passkey that WhatsApp wants.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PasskeyInput {
    /// It is asked for.
    Asked {
        /// What it is to sign, as JSON.
        request: String,
        /// When the request stops being of use, as far as it says so.
        expires_at: Option<Timestamp>,
    },
    /// WhatsApp took the answer.
    Answered,
    /// The code to compare.
    Code(String),
    /// WhatsApp was told that the codes are the same.
    Confirmed,
}

/// How a connection ended.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Ended {
    /// Why, when it was not meant to.
    pub trouble: Option<String>,
    /// The server says that we do too much: wait longer.
    pub throttled: bool,
}

/// What a connection is for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Task {
    /// Link an account.
    Pair(PairingMethod),
    /// Log in with the keys there are.
    LogIn,
}

/// What to do next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Plan {
    /// Nothing, until somebody asks.
    Rest,
    /// Look again at this time.
    Wait(Timestamp),
    /// Have a connection.
    Connect(Task),
}

/// What becomes of the keys.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Discard {
    /// They are of no use any more: the device was removed beyond doubt, or the user said so.
    Delete,
    /// They seem to be of no use: out of the way, but kept.
    SetAside,
}
