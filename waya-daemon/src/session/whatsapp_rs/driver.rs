//! Connections of the client library, for the supervisor.
//!
//! One client serves many connections: its caches of the encryption's state are written late, so two clients on the
//! same keys must never overlap. A new one is built only after the old one was shut down.

use std::pin::pin;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use futures_util::FutureExt as _;
use whatsapp_rust::pair_code::PairCodeOptions;
use whatsapp_rust::wacore::iq::devices::RemoveCompanionDeviceSpec;
use whatsapp_rust::{Client, NodeFilter};

use super::OpenError;
use super::client::{self, Live};
use super::context::Context;
use crate::model::PairingMethod;
use crate::session::state::{Discard, Ended, Task};
use crate::session::supervisor::Driver;
use crate::session::{Me, SessionError, Unlinked};

/// How long the server may take to acknowledge that this device leaves.
const SIGNING_OFF_TAKES: Duration = Duration::from_secs(10);
/// How long the library may take to write down and close.
const CLOSING_TAKES: Duration = Duration::from_secs(4);
/// How long a server that told of an error may leave the connection open.
const SERVER_CLOSES_WITHIN: Duration = Duration::from_secs(5);
/// How long a code to type is of use.
const CODE_LASTS: Duration = Duration::from_secs(175);

/// The way to the client library.
pub struct WaDriver {
    /// Shared with the parts of the client.
    pub context: Arc<Context>,
    live: tokio::sync::Mutex<Option<Live>>,
    current: Mutex<Option<Arc<Client>>>,
    me: Mutex<Option<Me>>,
}

impl WaDriver {
    /// Without a client yet.
    #[must_use]
    pub fn new(context: Arc<Context>) -> Self {
        Self { context, live: tokio::sync::Mutex::default(), current: Mutex::default(), me: Mutex::default() }
    }

    /// The client to use now: the one there is, or a new one when that was shut down for good or claims a version
    /// that is known to be old. Only without a connection.
    ///
    /// # Errors
    /// When the keys cannot be read.
    pub async fn client(&self) -> Result<Arc<Client>, OpenError> {
        let mut live = self.live.lock().await;
        if let Some(old) = live.take() {
            let is_over = old.client.shutdown_signal().is_fired();
            if !is_over && old.version == self.context.version() {
                let client = Arc::clone(&old.client);
                *live = Some(old);
                return Ok(client);
            }
            shut_down(&old).await;
        }
        let built = client::build(&self.context).await?;
        let client = Arc::clone(&built.client);
        *live = Some(built);
        drop(live);
        self.set_current(Some(Arc::clone(&client)));
        Ok(client)
    }

    /// The client, when there is one.
    #[must_use]
    pub fn current(&self) -> Option<Arc<Client>> {
        self.current.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn set_current(&self, client: Option<Arc<Client>>) {
        *self.current.lock().unwrap_or_else(PoisonError::into_inner) = client;
    }
}

/// Writes down what the client still holds, and closes it for good.
async fn shut_down(live: &Live) {
    if tokio::time::timeout(CLOSING_TAKES, live.client.disconnect()).await.is_err() {
        tracing::warn!("the WhatsApp client took too long to close");
    }
}

/// Asks WhatsApp to unlink this device; whether it said yes.
async fn is_unlinked(client: &Client) -> bool {
    let Some(own) = client.pn().filter(|_| client.is_connected()) else { return false };
    let asked = tokio::time::timeout(SIGNING_OFF_TAKES, client.execute(RemoveCompanionDeviceSpec::new(&own))).await;
    match asked {
        Ok(Ok(())) => return true,
        Ok(Err(error)) => tracing::warn!(%error, "WhatsApp did not confirm the logout"),
        Err(_) => tracing::warn!("WhatsApp did not confirm the logout in time"),
    }
    false
}

fn me_of(client: &Client) -> Option<Me> {
    let phone = client.pn()?.user_base().to_owned();
    let lid = client.lid().map(|lid| lid.user_base().to_owned());
    Some(Me { phone, lid, push_name: client.push_name() })
}

/// Has the connection until it ends; the stream error that did it, where the library tells of it by its log only.
async fn until_it_ends(client: &Arc<Client>) -> Option<(&'static str, bool)> {
    let mut told = pin!(stream_error(client));
    let mut running = pin!(client.run());
    tokio::select! {
        biased;
        told = &mut told => {
            // The library sends nothing any more and leaves it to the server to close.
            if tokio::time::timeout(SERVER_CLOSES_WITHIN, &mut running).await.is_err() {
                tokio::join!(client.reconnect_immediately(), running);
            }
            Some(told)
        }
        () = &mut running => told.now_or_never(),
    }
}

/// Waits for a stream error that ends the connection without an event.
async fn stream_error(client: &Client) -> (&'static str, bool) {
    loop {
        let Ok(node) = client.wait_for_node(NodeFilter::tag("stream:error")).await else {
            return std::future::pending().await;
        };
        let words = node.get().get_attr("code").and_then(|code| stream_error_words(&code.as_str()));
        if let Some(words) = words {
            return words;
        }
    }
}

/// What a stream error that has no event of its own means, and whether it says to slow down.
fn stream_error_words(code: &str) -> Option<(&'static str, bool)> {
    match code {
        "429" => Some(("WhatsApp says that this account connects or sends too often (429)", true)),
        "503" => Some(("WhatsApp is not available now (503)", false)),
        _ => None,
    }
}

/// Asks for a code to type, and for a new one each time the last one is of no use any more.
async fn show_codes(context: Arc<Context>, client: Arc<Client>, phone: String) {
    if client.wait_for_socket(Duration::from_secs(30)).await.is_err() {
        return;
    }
    loop {
        client.cancel_pair_code().await;
        let options = PairCodeOptions { phone_number: phone.clone(), ..Default::default() };
        // Both outcomes come as events too.
        if client.pair_with_code(options).await.is_err() {
            return;
        }
        tokio::select! {
            () = tokio::time::sleep(CODE_LASTS) => {}
            () = context.code_is_stale.notified() => {}
        }
        if context.passkey_asked.load(Ordering::Relaxed) {
            return;
        }
    }
}

#[async_trait]
impl Driver for WaDriver {
    fn me(&self) -> Option<Me> {
        let mut me = self.me.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(client) = self.current() {
            *me = me_of(&client);
        }
        me.clone()
    }

    async fn run(&self, task: Task) -> Ended {
        let client = match self.client().await {
            Ok(client) => client,
            Err(error) => return Ended { trouble: Some(error.to_string()), throttled: false },
        };
        self.context.progress.begin();
        // The library would come back by itself, at its own pace and without a word why.
        client.enable_auto_reconnect.store(false, Ordering::Relaxed);
        self.context.passkey_asked.store(false, Ordering::Relaxed);
        let by_code = matches!(task, Task::Pair(PairingMethod::Code(_)));
        self.context.pairing_by_code.store(by_code, Ordering::Relaxed);
        let codes = match task {
            Task::Pair(PairingMethod::Code(phone)) => {
                Some(tokio::spawn(show_codes(Arc::clone(&self.context), Arc::clone(&client), phone)))
            }
            _ => None,
        };
        let told = until_it_ends(&client).await;
        if let Some(codes) = codes {
            codes.abort();
        }
        if self.context.passkey_asked.load(Ordering::Relaxed) && client.pn().is_none() {
            // The library holds on to an attempt that was broken off, and would refuse the next one.
            self.close().await;
        }
        let throttled = told.is_some_and(|(_, throttled)| throttled);
        let trouble = told.map(|(words, _)| words.to_owned()).or_else(|| self.context.progress.trouble());
        Ended { trouble, throttled }
    }

    async fn interrupt(&self) {
        if let Some(client) = self.current().filter(|client| client.is_connected()) {
            client.reconnect_immediately().await;
        }
    }

    async fn close(&self) {
        let live = self.live.lock().await.take();
        let Some(live) = live else { return };
        self.me();
        self.set_current(None);
        shut_down(&live).await;
    }

    async fn sign_off(&self) -> Unlinked {
        let Some(client) = self.current() else { return Unlinked::HereOnly };
        let unlinked = if is_unlinked(&client).await { Unlinked::Fully } else { Unlinked::HereOnly };
        if tokio::time::timeout(CLOSING_TAKES, client.disconnect()).await.is_err() {
            tracing::warn!("the WhatsApp client took too long to close");
        }
        unlinked
    }

    async fn discard(&self, how: Discard) -> Result<(), SessionError> {
        let done = match how {
            Discard::Delete => {
                self.context.forget_people();
                self.context.keys.delete()
            }
            Discard::SetAside => self.context.keys.set_aside(),
        };
        *self.me.lock().unwrap_or_else(PoisonError::into_inner) = None;
        done.map_err(|error| {
            tracing::error!(%error, "the session's keys could not be removed");
            SessionError::Other(format!(
                "the session's keys could not be deleted ({error}); mend that and log out again"
            ))
        })
    }
}
