//! The simulated people: real clients with their own keys, linked to the emulator like any other.
//!
//! Owns who they are, their connections, and what they received. Nothing here is privileged: the
//! people see only what the emulator relays to them, encrypted end to end. The one thing they are
//! spared is holding a phone: their codes are scanned for them.
//!
//! In reading order: [`roster`] (names and numbers), [`content`] (what a message says), `journal`
//! and [`inbox`] (what arrived), `hook` (from the client into the inbox), `reader` (receipts back),
//! `events`, `link` (the connection), [`speech`] (what is said), [`person`].

use std::path::{Path, PathBuf};
use std::sync::Arc;

use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use whatsapp_rust::bot::BotBuilderError;
use whatsapp_rust::store::error::StoreError;

mod acks;
pub mod content;
mod dial;
mod events;
mod hook;
mod http;
pub mod inbox;
mod journal;
mod keys;
mod link;
pub mod person;
mod reader;
pub mod roster;
pub mod speech;

pub use journal::JournalError;
pub use person::Person;
pub use roster::Profile;

use crate::emulator::{Emulator, GroupInfo};
use roster::{GROUP_PEOPLE, GROUP_SUBJECT, OWN_NAME, OWN_PHONE};

/// Why a person could not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum PeopleError {
    /// More people than a sandbox simulates.
    #[error("{asked} people are too many: ask for at most {}", roster::MAX_PEOPLE)]
    TooMany {
        /// How many were asked for.
        asked: usize,
    },
    /// A person's folder cannot be made.
    #[error("cannot make the folder {path}: {source}")]
    Folder {
        /// The folder.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The inbox cannot be read or written.
    #[error(transparent)]
    Journal(#[from] JournalError),
    /// The keys cannot be read or written.
    #[error("cannot use the keys of a person: {0}")]
    Keys(#[from] StoreError),
    /// The client could not be built.
    #[error("cannot build the client of a person: {0}")]
    Client(#[from] BotBuilderError),
    /// The HTTP client could not be built.
    #[error("cannot build the HTTP client of a person: {0}")]
    Http(#[from] reqwest::Error),
    /// The person was taken offline.
    #[error("{0} is offline: bring them online first")]
    Offline(String),
    /// The person does not come online, or the server does not answer them.
    #[error("{0} gets no connection to the emulator: see whether a fault is switched on")]
    Stuck(String),
    /// The client refused to send.
    #[error("it could not be sent: {0}")]
    NotSent(String),
}

/// How many people, and where they keep their things.
#[derive(Debug, Clone)]
pub struct PeopleConfig {
    /// How many.
    pub count: usize,
    /// Folder for their keys and inboxes; without it they forget everything with the process.
    pub data_dir: Option<PathBuf>,
}

/// Everybody. A cheap handle.
#[derive(Clone)]
pub struct People(Arc<Crowd>);

struct Crowd {
    people: Vec<Arc<Person>>,
    shutdown: CancellationToken,
    tasks: TaskTracker,
}

impl People {
    /// Makes the accounts and the first group, and opens what is kept of the people. They are
    /// offline until [`People::go_online`].
    pub fn open(emulator: &Emulator, config: &PeopleConfig) -> Result<Self, PeopleError> {
        if config.count > roster::MAX_PEOPLE {
            return Err(PeopleError::TooMany { asked: config.count });
        }
        let shutdown = CancellationToken::new();
        let tasks = TaskTracker::new();
        let mut people = Vec::with_capacity(config.count);
        emulator.ensure_account(OWN_PHONE, OWN_NAME);
        for profile in (0..config.count).map(roster::person) {
            emulator.ensure_account(&profile.phone, &profile.name);
            let folder = config.data_dir.as_deref().map(|dir| folder(dir, &profile));
            let (person, link) = Person::open(profile, folder.as_deref(), emulator, shutdown.clone())?;
            tasks.spawn(link.run());
            people.push(Arc::new(person));
        }
        tasks.close();
        found_group(emulator, &people);
        Ok(Self(Arc::new(Crowd { people, shutdown, tasks })))
    }

    /// Brings everybody online at the same time and returns once all of them are.
    pub async fn go_online(&self) -> Result<(), PeopleError> {
        let mut coming = JoinSet::new();
        for person in &self.0.people {
            let person = person.clone();
            coming.spawn(async move { person.go_online().await });
        }
        coming.join_all().await.into_iter().collect()
    }

    /// Everybody, in the order of their numbers.
    pub fn all(&self) -> &[Arc<Person>] {
        &self.0.people
    }

    /// The person with this name (in any case) or number.
    pub fn find(&self, who: &str) -> Option<&Arc<Person>> {
        self.0.people.iter().find(|person| person.profile().is(who))
    }

    /// Tells everybody to disconnect, without waiting for it.
    pub fn stop(&self) {
        self.0.shutdown.cancel();
    }

    /// Disconnects everybody and waits until they are gone.
    pub async fn shutdown(&self) {
        self.stop();
        self.0.tasks.wait().await;
    }
}

fn folder(dir: &Path, profile: &Profile) -> PathBuf {
    dir.join("people").join(&profile.phone)
}

/// The first group: the own account and the first people.
fn found_group(emulator: &Emulator, people: &[Arc<Person>]) -> GroupInfo {
    let phones = people.iter().take(GROUP_PEOPLE).map(|person| person.profile().phone.clone());
    let members: Vec<String> = std::iter::once(OWN_PHONE.to_owned()).chain(phones).collect();
    emulator.ensure_group(GROUP_SUBJECT, &members)
}
