//! What an emulator is opened with, and what can go wrong with it.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

/// How an emulator is opened. Take [`EmulatorConfig::default`] and set what differs.
#[derive(Debug, Clone)]
pub struct EmulatorConfig {
    /// Loopback address to listen on; port 0 takes any free one.
    pub listen: SocketAddr,
    /// Folder the state is kept in; without it everything lives in memory.
    pub data_dir: Option<PathBuf>,
    /// Accounts are addressed by phone number alone, as before WhatsApp's move to LIDs.
    pub pn_only: bool,
    /// Pause between the handshake and the first server stanza, and before the first words of the handset to a device that
    /// has just handed in its keys. Some clients lose a stanza that arrives while they still set themselves up, so the
    /// default is 100 ms.
    pub first_stanza_grace: Duration,
    /// Receipts for status posts name their reader once, not by phone number and LID: which of the two WhatsApp does is
    /// not known, so clients should stand both.
    pub bare_status_receipts: bool,
    /// How long the address of an uploaded file is good for; WhatsApp's are for about a month.
    pub media_lifetime: Duration,
    /// A client that has not shaken hands by then is dropped.
    pub handshake_limit: Duration,
    /// A client that says nothing for so long is gone, whatever its socket says. Clients ping two to four times a minute.
    pub idle_limit: Duration,
    /// A client that takes nothing for so long is gone.
    pub write_limit: Duration,
    /// Bytes that may wait for a client that takes them too slowly; beyond that its connection ends.
    pub outgoing_limit: usize,
}

impl Default for EmulatorConfig {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 0)),
            data_dir: None,
            pn_only: false,
            first_stanza_grace: Duration::from_millis(100),
            bare_status_receipts: false,
            media_lifetime: Duration::from_hours(30 * 24),
            handshake_limit: Duration::from_secs(20),
            idle_limit: Duration::from_mins(3),
            write_limit: Duration::from_secs(30),
            outgoing_limit: 16 << 20,
        }
    }
}

/// Why an emulator could not be opened or stopped serving.
#[derive(Debug, thiserror::Error)]
pub enum EmulatorError {
    /// The address asked for can be reached from other machines.
    #[error("{0} is not a loopback address: listen on 127.0.0.1")]
    NotLoopback(SocketAddr),
    /// The listener could not be bound.
    #[error("cannot listen on {address}: {source}")]
    Bind {
        /// The address asked for.
        address: SocketAddr,
        /// What the system said.
        source: std::io::Error,
    },
    /// Another process holds the data folder.
    #[error("{0} is in use by another emulator: stop it or take another folder")]
    InUse(PathBuf),
    /// The data folder cannot be read or written.
    #[error("cannot use {path}: {source}")]
    Data {
        /// The file or folder.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The journal was damaged by something else than the end of a process.
    #[error("{path} is damaged at byte {at}, whole records follow from {next} on: put a copy of it back, or remove it")]
    Damaged {
        /// The file.
        path: PathBuf,
        /// Where reading stopped.
        at: usize,
        /// Where it could go on.
        next: usize,
    },
    /// The kept server key is not one.
    #[error("{0} does not hold a server key: remove it to start with a new one")]
    BadKey(PathBuf),
    /// The kept certificate of the media servers cannot be used.
    #[error("{path} does not hold a certificate with its key ({why}): remove it to start with a new one")]
    BadCertificate {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// `serve` was called a second time.
    #[error("this emulator is already being served")]
    AlreadyServed,
    /// The listener failed while serving.
    #[error("the listener failed: {0}")]
    Serve(std::io::Error),
    /// A change could not be written down.
    #[error("cannot keep the change: {0}")]
    NotKept(String),
    /// A cryptographic primitive refused its input; never seen with keys made here.
    #[error("cannot make keys: {0}")]
    Crypto(String),
}

/// Why a QR code or a pairing code was not accepted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ScanError {
    /// The text is not a pairing QR.
    #[error("this is not a pairing QR code: {0}")]
    NotAQr(String),
    /// No client that waits for pairing shows this code (any more).
    #[error("no waiting client shows this code: take a fresh one")]
    UnknownCode,
    /// The phone number holds something other than 7 to 15 digits.
    #[error("{0:?} is not a phone number: give 7 to 15 digits")]
    BadPhone(String),
    /// The code was typed wrongly: the client could not be read with it.
    #[error("the code does not fit the waiting client: check it and type it again")]
    WrongCode,
    /// The account is guarded by a passkey.
    #[error("the client was asked for the account's passkey: the pairing goes on when it answers")]
    PasskeyAsked,
    /// The client refused the pairing.
    #[error("the client refused the pairing: {0}")]
    Refused(String),
    /// The client did not answer within half a minute, or went away.
    #[error("the client did not finish the pairing: start it again")]
    Unfinished,
    /// The account has no free device slot left.
    #[error("this phone has no room for another linked device: unlink one first")]
    Full,
}
