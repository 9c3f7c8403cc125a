//! What every part of one account's session shares.

use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use reqwest::Url;
use tokio::sync::{Notify, mpsc};
use whatsapp_rust::http::HttpClient;

use super::dial::Dialer;
use super::guard::Guard;
use super::http::Http;
use super::people::People;
use super::phone::Phone;
use super::progress::Progress;
use super::storage::KeyFiles;
use super::timers::Timers;
use super::typing::Seen;
use super::{OpenError, SessionConfig, Version, version};
use crate::clock::Clock;
use crate::session::state::Input;
use crate::session::{Inbox, WaEvent};

/// Where things are told.
#[derive(Debug)]
pub struct Outlets {
    /// Incoming messages.
    pub inbox: Arc<dyn Inbox>,
    /// Everything else.
    pub events: mpsc::UnboundedSender<WaEvent>,
    /// What concerns the link.
    pub inputs: mpsc::UnboundedSender<Input>,
    /// The time.
    pub clock: Arc<dyn Clock>,
}

/// What every part shares.
pub struct Context {
    /// As opened.
    pub config: SessionConfig,
    /// Where things are told.
    pub out: Outlets,
    /// The way to the server.
    pub dialer: Arc<Dialer>,
    /// How the connection fares.
    pub progress: Arc<Progress>,
    /// The library's HTTP.
    pub http: Arc<dyn HttpClient>,
    /// The keys.
    pub keys: KeyFiles,
    /// Who was told of already.
    pub people: People,
    /// When the phone was heard of.
    pub phone: Phone,
    /// The chats' disappearing timers.
    pub timers: Timers,
    /// The chats that see this account type.
    pub seen: Seen,
    /// The pairing under way shows a code to type, and no QR code.
    pub pairing_by_code: AtomicBool,
    /// The code to type is of no use any more.
    pub code_is_stale: Notify,
    /// The connection's pairing turned into a request for a passkey: codes are of no use any more.
    pub passkey_asked: AtomicBool,
    /// A newer version is being looked for.
    pub is_seeking_version: AtomicBool,
    is_local: bool,
    version: Mutex<Version>,
}

impl Context {
    /// Puts it together.
    ///
    /// # Errors
    /// When TLS cannot be set up.
    pub fn new(config: SessionConfig, url: Url, guard: Guard, out: Outlets) -> Result<Self, OpenError> {
        let progress = Arc::new(Progress::default());
        Ok(Self {
            dialer: Arc::new(Dialer::new(url, config.proxy.clone(), guard, Arc::clone(&progress))),
            progress,
            http: Arc::new(Http::new(guard, config.proxy.as_ref())?),
            keys: KeyFiles::new(&config.data_dir),
            people: People::default(),
            phone: Phone::default(),
            timers: Timers::load(&config.data_dir),
            seen: Seen::default(),
            pairing_by_code: AtomicBool::new(false),
            code_is_stale: Notify::new(),
            passkey_asked: AtomicBool::new(false),
            is_seeking_version: AtomicBool::new(false),
            is_local: guard.is_loopback_only(),
            version: Mutex::new(version::DEFAULT),
            config,
            out,
        })
    }

    /// Tells the supervisor.
    pub fn input(&self, input: Input) {
        // Nobody listens only when the session has stopped.
        let _ = self.out.inputs.send(input);
    }

    /// Tells the daemon.
    pub fn tell(&self, event: WaEvent) {
        let _ = self.out.events.send(event);
    }

    /// What was told of people and chats belongs to an account that is linked no more.
    pub fn forget_people(&self) {
        self.people.forget();
        self.phone.forget();
        self.timers.forget();
        self.tell(WaEvent::Forgotten);
    }

    /// The version to claim: what the config says, else the newest known.
    pub fn version(&self) -> Version {
        version::choose(self.config.version, *self.known_version())
    }

    /// Takes in a version that was current once: from WhatsApp, or from the last time the keys were saved.
    pub fn learn_version(&self, version: Version) {
        let mut known = self.known_version();
        *known = version.max(*known);
    }

    fn known_version(&self) -> MutexGuard<'_, Version> {
        self.version.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// There is somebody to ask for a newer version, and nobody fixed it.
    pub const fn may_renew_version(&self) -> bool {
        !self.is_local && self.config.version.is_none()
    }

    /// Asks WhatsApp for its current version; `true` when it is newer and will be claimed from now on.
    pub async fn renew_version(&self) -> bool {
        if !self.may_renew_version() {
            return false;
        }
        let newer = version::newer(&self.http, self.version()).await;
        if let Some(version) = newer {
            self.learn_version(version);
        }
        newer.is_some()
    }
}
