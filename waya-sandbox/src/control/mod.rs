//! Everything a sandbox can be asked to do, as one trait with two implementations: [`Local`] in the
//! process of emulator and people, [`Remote`] over the admin HTTP of another process.
//!
//! The admin HTTP and the gRPC service are both thin layers on it. It decides nothing about the
//! protocol; it finds who is meant, checks what is asked, and turns answers into plain shapes.

mod clock;
mod local;
mod remote;
mod types;

use async_trait::async_trait;

pub use clock::{ClockRequest, ClockView};
pub use local::Local;
pub use remote::Remote;
pub use types::{
    FaultList, FaultRequest, FaultView, GroupRequest, GroupView, InboxList, KindView, Linked, PeopleList,
    PersonRequest, PersonView, ReadDone, Said, SayMedia, SayRequest, TypingList, Word, Words,
};

use crate::emulator::ScanError;
use crate::people::PeopleError;

/// Commands on a sandbox. `who` is always a name in any case, or a number.
#[async_trait]
pub trait SandboxControl: Send + Sync + 'static {
    /// The people and the groups.
    async fn people(&self) -> Result<PeopleList, ControlError>;
    /// What a person received.
    async fn inbox(&self, who: &str) -> Result<InboxList, ControlError>;
    /// Whom a person saw typing or recording.
    async fn typing(&self, who: &str) -> Result<TypingList, ControlError>;
    /// The file of a message that a person received, as their client decrypts it.
    async fn load(&self, who: &str, id: &str) -> Result<Vec<u8>, ControlError>;
    /// Lets a person send something.
    async fn say(&self, request: SayRequest) -> Result<Said, ControlError>;
    /// Somebody new comes, and is online.
    async fn person(&self, request: PersonRequest) -> Result<PersonView, ControlError>;
    /// Gives a person, or the own account (`me`), another name.
    async fn rename(&self, who: &str, name: &str) -> Result<PersonView, ControlError>;
    /// Makes a group, or adds to the one of this name.
    async fn group(&self, request: GroupRequest) -> Result<GroupView, ControlError>;
    /// Lets a person read everything unread, and play the voice messages if wanted.
    async fn read(&self, who: &str, play: bool) -> Result<ReadDone, ControlError>;
    /// Whether a person reads messages as soon as they arrive.
    async fn set_autoread(&self, who: &str, on: bool) -> Result<PersonView, ControlError>;
    /// Connects or disconnects a person; returns when that is done.
    async fn set_online(&self, who: &str, online: bool) -> Result<PersonView, ControlError>;
    /// Switches a fault on or off; returns what is on then.
    async fn fault(&self, request: FaultRequest) -> Result<FaultList, ControlError>;
    /// Switches somebody's handset on or off: that of the own account if nobody is named.
    async fn set_phone_online(&self, who: Option<&str>, online: bool) -> Result<(), ControlError>;
    /// Moves the clock, or shows it.
    async fn clock(&self, request: ClockRequest) -> Result<ClockView, ControlError>;
    /// The emulator's counters.
    async fn stats(&self) -> Result<serde_json::Value, ControlError>;
    /// Lets a handset scan a pairing QR.
    async fn scan_qr(&self, qr: &str, phone: Option<&str>) -> Result<Linked, ControlError>;
    /// Types a pairing code into a handset.
    async fn enter_code(&self, phone: &str, code: &str) -> Result<Linked, ControlError>;
}

/// Why a command was not carried out.
#[derive(Debug, thiserror::Error)]
pub enum ControlError {
    /// No such person.
    #[error("there is no {who:?} here: ask {known}")]
    UnknownPerson {
        /// What was asked for.
        who: String,
        /// The names there are.
        known: String,
    },
    /// No such group.
    #[error("there is no group {group:?} here: take {known}")]
    UnknownGroup {
        /// What was asked for.
        group: String,
        /// The groups there are.
        known: String,
    },
    /// A field holds something that cannot be used.
    #[error("{problem}")]
    Invalid {
        /// The field.
        field: &'static str,
        /// What is wrong, and what to give instead.
        problem: String,
    },
    /// There is no text to send.
    #[error("there is nothing to say: give a text")]
    NothingToSay,
    /// The person cannot do it now.
    #[error(transparent)]
    People(#[from] PeopleError),
    /// The code was not accepted.
    #[error(transparent)]
    Scan(#[from] ScanError),
    /// The sandbox in the other process refused.
    #[error("{message}")]
    Refused {
        /// Its HTTP status.
        status: u16,
        /// Its error code.
        code: String,
        /// Its words.
        message: String,
    },
    /// The sandbox in the other process does not answer.
    #[error("no answer from the sandbox at {address}: {problem}")]
    Unreachable {
        /// Its admin address.
        address: String,
        /// What went wrong.
        problem: String,
    },
    /// The counters could not be shown.
    #[error("cannot show the counters: {0}")]
    Encode(#[from] serde_json::Error),
}

impl ControlError {
    /// The code a program can tell the error by.
    pub fn code(&self) -> &str {
        match self {
            Self::UnknownPerson { .. } | Self::UnknownGroup { .. } => "not_found",
            Self::Invalid { .. } | Self::People(PeopleError::BadName { .. } | PeopleError::BadNumber { .. }) => {
                "invalid_field"
            }
            Self::NothingToSay => "nothing_to_send",
            Self::People(PeopleError::Offline(_)) => "person_offline",
            Self::People(PeopleError::Stuck(_)) => "person_stuck",
            Self::People(PeopleError::NotSent(_)) => "not_sent",
            Self::People(PeopleError::NotLoaded(_)) => "not_loaded",
            Self::People(PeopleError::Taken { .. } | PeopleError::TooMany { .. }) | Self::Scan(ScanError::Full) => {
                "conflict"
            }
            Self::People(_) => "store_unavailable",
            Self::Scan(ScanError::UnknownCode) => "unknown_code",
            Self::Scan(ScanError::PasskeyAsked) => "passkey_asked",
            Self::Scan(ScanError::Unfinished | ScanError::Refused(_)) => "pairing_failed",
            Self::Scan(_) => "invalid_code",
            Self::Refused { code, .. } => code,
            Self::Unreachable { .. } => "unreachable",
            Self::Encode(_) => "internal",
        }
    }

    /// The HTTP status it is answered with.
    pub fn status(&self) -> u16 {
        match self.code() {
            "not_found" | "unknown_code" => 404,
            "invalid_field" | "nothing_to_send" | "invalid_code" => 422,
            "conflict" | "person_offline" | "pairing_failed" | "passkey_asked" => 409,
            "person_stuck" => 504,
            "not_sent" => 502,
            "internal" => 500,
            _ => match self {
                Self::Refused { status, .. } => *status,
                _ => 503,
            },
        }
    }

    /// The field that is wrong, where one is.
    pub fn field(&self) -> Option<&'static str> {
        match self {
            Self::Invalid { field, .. } => Some(field),
            Self::NothingToSay => Some("text"),
            Self::People(PeopleError::BadName { .. }) => Some("name"),
            Self::People(PeopleError::BadNumber { .. }) => Some("number"),
            _ => None,
        }
    }
}
