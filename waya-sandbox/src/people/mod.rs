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
use std::sync::{Arc, PoisonError, RwLock};

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
mod newcomer;
pub mod person;
mod reader;
pub mod roster;
pub mod speech;
pub mod typing;
mod who;

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
    /// Nobody can be called that.
    #[error(
        "{name:?} is no name for a person: take 1 to {} characters, not all of them digits, and neither me nor all",
        roster::MAX_NAME
    )]
    BadName {
        /// The name.
        name: String,
    },
    /// That is no phone number.
    #[error("{number:?} is no phone number: take 7 to 15 digits with the country code")]
    BadNumber {
        /// What was given.
        number: String,
    },
    /// A new name could not be kept.
    #[error("{0} could not be renamed: see whether the data folder can be written to")]
    NotRenamed(String),
    /// Somebody has that name or number.
    #[error("there is somebody called {name} with the number {number} already")]
    Taken {
        /// Their name.
        name: String,
        /// Their number.
        number: String,
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
    /// A file could not be loaded.
    #[error("the file could not be loaded: {0}")]
    NotLoaded(String),
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
    emulator: Emulator,
    people: RwLock<Vec<Arc<Person>>>,
    data_dir: Option<PathBuf>,
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
        let tasks = TaskTracker::new();
        tasks.close();
        let people = Self(Arc::new(Crowd {
            emulator: emulator.clone(),
            people: RwLock::default(),
            data_dir: config.data_dir.clone(),
            shutdown: CancellationToken::new(),
            tasks,
        }));
        if emulator.account(OWN_PHONE).is_none() {
            emulator.ensure_account(OWN_PHONE, OWN_NAME);
        }
        for profile in (0..config.count).map(roster::person) {
            people.open_one(as_called_last(emulator, profile))?;
        }
        found_group(emulator, &people.all());
        people.open_newcomers()?;
        Ok(people)
    }

    /// Opens what is kept of one person, who is offline then.
    fn open_one(&self, profile: Profile) -> Result<Arc<Person>, PeopleError> {
        let crowd = &self.0;
        crowd.emulator.ensure_account(&profile.phone, &profile.name);
        let folder = crowd.data_dir.as_deref().map(|dir| folder(dir, &profile));
        let (person, link) = Person::open(profile, folder.as_deref(), &crowd.emulator, crowd.shutdown.clone())?;
        crowd.tasks.spawn(link.run());
        let person = Arc::new(person);
        let mut people = crowd.people.write().unwrap_or_else(PoisonError::into_inner);
        people.push(person.clone());
        people.sort_by_key(|person| person.profile().phone.parse::<u64>().unwrap_or(u64::MAX));
        drop(people);
        Ok(person)
    }

    /// Brings everybody online at the same time and returns once all of them are.
    pub async fn go_online(&self) -> Result<(), PeopleError> {
        let mut coming = JoinSet::new();
        for person in self.all() {
            coming.spawn(async move { person.go_online().await });
        }
        coming.join_all().await.into_iter().collect()
    }

    /// Everybody, in the order of their numbers.
    pub fn all(&self) -> Vec<Arc<Person>> {
        self.0.people.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The person with this name (in any case) or number.
    pub fn find(&self, who: &str) -> Option<Arc<Person>> {
        self.all().into_iter().find(|person| person.profile().is(who))
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

/// Who was renamed while an earlier process ran has kept that name.
fn as_called_last(emulator: &Emulator, profile: Profile) -> Profile {
    let kept = emulator.account(&profile.phone).map(|account| account.name).filter(|name| !name.is_empty());
    Profile { name: kept.unwrap_or(profile.name), ..profile }
}

fn folder(dir: &Path, profile: &Profile) -> PathBuf {
    dir.join("people").join(&profile.phone)
}

/// The first group: the own account and the first people.
fn found_group(emulator: &Emulator, people: &[Arc<Person>]) -> GroupInfo {
    let phones = people.iter().take(GROUP_PEOPLE).map(|person| person.profile().phone);
    let members: Vec<String> = std::iter::once(OWN_PHONE.to_owned()).chain(phones).collect();
    emulator.ensure_group(GROUP_SUBJECT, &members)
}
