//! The session on the `whatsapp-rust` client library. Nothing outside this folder names that crate.
//!
//! ```text
//! supervisor ─run/close▶ driver ─builds▶ Client ─dials through▶ dial, net ─only where▶ guard allows
//!     ▲                                    │
//!     │  Input                             ├─ events ─▶ sink (link: at once) ─▶ pump (acks, receipts: in order)
//!     └────────────────────────────────────┤
//!                                          └─ messages ─▶ inbound ─▶ Inbox, and only then acknowledged
//! ```

mod adapter;
mod client;
mod context;
mod convert;
mod dial;
mod download;
mod driver;
mod guard;
mod history;
mod http;
mod inbound;
mod keys;
mod kind;
mod membership;
mod outgoing;
mod passkey;
mod people;
mod phone;
mod presence;
mod progress;
mod pump;
mod sink;
mod storage;
mod timers;
mod typing;
mod upload;
mod version;

use std::path::PathBuf;
use std::sync::Arc;

use reqwest::Url;
use tokio::sync::{mpsc, watch};
use whatsapp_rust::wacore::net::WHATSAPP_WEB_WS_URL;

use super::resting::RestingFile;
use super::supervisor::{self, Parts};
use super::{Inbox, WaEvent, WhatsApp};
use crate::clock::Clock;
use crate::net::Proxy;
pub use guard::Forbidden;
pub use storage::Unreadable;
pub use version::Version;

/// How the session connects and behaves.
#[derive(Debug, Clone, Default)]
pub struct SessionConfig {
    /// Where the keys are kept.
    pub data_dir: PathBuf,
    /// WhatsApp's WebSocket address (`ws://` or `wss://`); the real one when not given.
    pub url: Option<String>,
    /// What everything goes through, WebSocket and media; nothing when not given.
    pub proxy: Option<Proxy>,
    /// The client version to claim, instead of the newest known.
    pub version: Option<Version>,
    /// Against the emulator: fewer one-time keys are made.
    pub sandbox: bool,
    /// Whether to show the account as online, which stops the owner's phone from ringing; as it changes. Never when
    /// absent.
    pub presence_online: Option<watch::Receiver<bool>>,
    /// Overwrites the account's own name. For the emulator, which knows companions of one phone by it.
    pub push_name: Option<String>,
}

/// The session cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The address is none.
    #[error("{url:?} is not a WhatsApp address; expected ws://HOST[:PORT]/PATH or wss://HOST[:PORT]/PATH")]
    BadUrl {
        /// What was given.
        url: String,
    },
    /// This build may not connect there.
    #[error(transparent)]
    Forbidden(#[from] Forbidden),
    /// The keys cannot be read.
    #[error(transparent)]
    Keys(#[from] Unreadable),
    /// TLS cannot be set up.
    #[error("HTTP cannot be set up: {0}")]
    Http(#[from] reqwest::Error),
    /// The client library refuses.
    #[error("the WhatsApp client cannot be built: {0}")]
    Client(String),
}

/// Opens the session: connecting when an account is linked, else waiting to be asked. Returns without waiting for
/// the network.
///
/// # Errors
/// [`OpenError`] for a bad address and for keys that cannot be read.
pub async fn open(
    config: SessionConfig,
    inbox: Arc<dyn Inbox>,
    events: mpsc::UnboundedSender<WaEvent>,
    clock: Arc<dyn Clock>,
) -> Result<Arc<dyn WhatsApp>, OpenError> {
    let guard = guard::Guard::probe();
    let url = check_url(config.url.as_deref().unwrap_or(WHATSAPP_WEB_WS_URL), guard)?;
    if let Some(proxy) = &config.proxy {
        guard.check_host(proxy.host())?;
        tracing::info!("WhatsApp is reached through {proxy}");
    }
    let (inputs, told) = mpsc::unbounded_channel();
    let outlets = context::Outlets { inbox, events: events.clone(), inputs, clock: Arc::clone(&clock) };
    let resting = RestingFile::new(&config.data_dir);
    let context = Arc::new(context::Context::new(config, url, guard, outlets)?);
    let driver = Arc::new(driver::WaDriver::new(context));
    driver.client().await?;
    let handle = supervisor::spawn(Parts { driver: Arc::clone(&driver), inputs: told, events, clock, resting });
    Ok(Arc::new(adapter::Adapter::new(driver, handle)))
}

/// The address as a URL that this build may connect to.
fn check_url(text: &str, guard: guard::Guard) -> Result<Url, OpenError> {
    let bad = || OpenError::BadUrl { url: text.to_owned() };
    let url = Url::parse(text).map_err(|_| bad())?;
    let host = url.host_str().filter(|host| !host.is_empty()).ok_or_else(bad)?;
    if !matches!(url.scheme(), "ws" | "wss") {
        return Err(bad());
    }
    guard.check_host(host)?;
    Ok(url)
}

#[cfg(test)]
#[path = "tests.rs"]
mod tests;
