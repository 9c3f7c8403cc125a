//! Whether the account is shown as online: only when the user wants it, because WhatsApp rings the phone only while no
//! other device is.
//!
//! The library says "available" by itself, at each login and whenever the account's name comes. One task a client, so
//! that its words cannot overtake each other; woken by [`Said`] and by the setting. It ends with the client.

use std::sync::{Arc, Weak};
use std::time::Duration;

use tokio::sync::watch;
use whatsapp_rust::wacore::iq::keepalive::KeepaliveSpec;
use whatsapp_rust::{Client, NodeFilter};

/// How long the library may take to say it after the account's name came.
const SAYING_TAKES: Duration = Duration::from_secs(30);
/// How long a sign of life may take.
const PONG_TAKES: Duration = Duration::from_secs(10);

/// Tells the task that the library may just have said something else than what is wanted.
#[derive(Debug, Clone, Default)]
pub struct Said(watch::Sender<()>);

impl Said {
    /// It may have said it.
    pub fn now(&self) {
        self.0.send_replace(());
    }

    /// The account's name came: the library is about to say "available", once it is through with this event.
    pub fn soon(&self, client: &Arc<Client>) {
        let said = client.wait_for_sent_node(NodeFilter::tag("presence").attr("type", "available"));
        let (this, client) = (self.clone(), Arc::downgrade(client));
        tokio::spawn(async move {
            if !matches!(tokio::time::timeout(SAYING_TAKES, said).await, Ok(Ok(_))) {
                return;
            }
            // That was just before it was written; once the server has answered something asked later, it was.
            if let Some(client) = client.upgrade() {
                let _ = client.execute(KeepaliveSpec::with_timeout(PONG_TAKES)).await;
            }
            this.now();
        });
    }

    /// Says what is wanted, each time that changes and each time it may have been gainsaid.
    pub fn keep(&self, wanted: Option<watch::Receiver<bool>>, client: Weak<Client>) {
        let mut said = self.0.subscribe();
        let mut wanted = wanted.unwrap_or_else(|| watch::channel(false).1);
        tokio::spawn(async move {
            loop {
                tokio::select! {
                    alive = said.changed() => if alive.is_err() { return },
                    Ok(()) = wanted.changed() => {}
                }
                let Some(client) = client.upgrade() else { return };
                let online = *wanted.borrow_and_update();
                if client.is_logged_in() {
                    say(&client, online).await;
                }
            }
        });
    }
}

/// Says it, as far as there is anybody to say it to.
pub(super) async fn say(client: &Client, online: bool) {
    let presence = client.presence();
    let said = if online { presence.set_available().await } else { presence.set_unavailable().await };
    if let Err(error) = said {
        tracing::debug!(%error, online, "the presence could not be told");
    }
}
