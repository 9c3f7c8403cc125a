//! Emulator, people and admin HTTP as one thing that is started and stopped.
//!
//! Owns the order of it: the listener is bound, then served, then the people come online.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::admin;
use crate::control::Local;
use crate::emulator::{Emulator, EmulatorConfig, EmulatorError};
use crate::people::roster::OWN_PHONE;
use crate::people::{People, PeopleConfig, PeopleError};

/// How many people there are unless more or fewer are asked for.
pub const DEFAULT_PEOPLE: usize = 5;

/// What a sandbox is started with.
#[derive(Debug, Clone)]
pub struct SandboxConfig {
    /// Loopback address for WebSocket and admin HTTP; port 0 takes any free one.
    pub listen: SocketAddr,
    /// Folder for everything that outlives the process; without it nothing does.
    pub data_dir: Option<PathBuf>,
    /// How many simulated people.
    pub people: usize,
    /// Accounts are addressed by phone number alone.
    pub pn_only: bool,
    /// As in [`EmulatorConfig::bare_status_receipts`].
    pub bare_status_receipts: bool,
}

impl Default for SandboxConfig {
    fn default() -> Self {
        let emulator = EmulatorConfig::default();
        Self {
            listen: emulator.listen,
            data_dir: None,
            people: DEFAULT_PEOPLE,
            pn_only: emulator.pn_only,
            bare_status_receipts: emulator.bare_status_receipts,
        }
    }
}

/// Why a sandbox could not be started, or stopped by itself.
#[derive(Debug, thiserror::Error)]
pub enum SandboxError {
    /// The emulator failed.
    #[error(transparent)]
    Emulator(#[from] EmulatorError),
    /// The people failed.
    #[error(transparent)]
    People(#[from] PeopleError),
    /// The serving task panicked.
    #[error("the emulator broke down: {0}")]
    Broken(#[from] tokio::task::JoinError),
}

/// A running sandbox. Call [`Sandbox::shutdown`] to end it in order; dropped, it ends at once.
pub struct Sandbox {
    emulator: Emulator,
    people: People,
    serving: JoinHandle<Result<(), EmulatorError>>,
    shutdown: CancellationToken,
}

impl Sandbox {
    /// Starts everything and returns once all people are linked and online.
    pub async fn start(config: SandboxConfig) -> Result<Self, SandboxError> {
        let folder = |name: &str| config.data_dir.as_ref().map(|dir| dir.join(name));
        let emulator = Emulator::open(EmulatorConfig {
            listen: config.listen,
            data_dir: folder("emulator"),
            pn_only: config.pn_only,
            bare_status_receipts: config.bare_status_receipts,
            ..EmulatorConfig::default()
        })
        .await?;
        let people = People::open(&emulator, &PeopleConfig { count: config.people, data_dir: config.data_dir })?;
        let control = Arc::new(Local::new(emulator.clone(), people.clone()));
        let shutdown = CancellationToken::new();
        let serving = tokio::spawn({
            let (emulator, shutdown) = (emulator.clone(), shutdown.clone());
            async move { emulator.serve(admin::router(control), shutdown).await }
        });
        let mut sandbox = Self { emulator, people, serving, shutdown };
        let people = sandbox.people.clone();
        tokio::select! {
            online = people.go_online() => online?,
            ended = sandbox.ended() => ended?,
        }
        Ok(sandbox)
    }

    /// The server side.
    pub fn emulator(&self) -> &Emulator {
        &self.emulator
    }

    /// The simulated people.
    pub fn people(&self) -> &People {
        &self.people
    }

    /// Commands on both.
    pub fn control(&self) -> Local {
        Local::new(self.emulator.clone(), self.people.clone())
    }

    /// Where WhatsApp clients connect: `ws://127.0.0.1:PORT/ws/chat`.
    pub fn whatsapp_url(&self) -> String {
        self.emulator.whatsapp_url()
    }

    /// Where the admin HTTP is: `http://127.0.0.1:PORT/admin`.
    pub fn admin_url(&self) -> String {
        format!("http://{}/admin", self.emulator.address())
    }

    /// The number of the account that is there to be linked.
    pub fn own_phone(&self) -> &'static str {
        OWN_PHONE
    }

    /// Resolves when the sandbox ends by itself, which is always an error or a shutdown elsewhere.
    pub async fn ended(&mut self) -> Result<(), SandboxError> {
        Ok((&mut self.serving).await??)
    }

    /// Disconnects the people, then stops listening.
    pub async fn shutdown(mut self) -> Result<(), SandboxError> {
        self.people.shutdown().await;
        self.shutdown.cancel();
        if self.serving.is_finished() {
            return Ok(());
        }
        self.ended().await
    }
}

impl Drop for Sandbox {
    fn drop(&mut self) {
        self.people.stop();
        self.shutdown.cancel();
    }
}
