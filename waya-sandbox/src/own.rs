//! The own account's phone: scans whatever QR code the daemon shows, so that nobody has to.
//!
//! Wakes when the link changes. Asks for a code once, at the start, if the link is `unpaired`; a log-out
//! by WhatsApp is left alone until somebody wants to link again.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use waya_daemon::model::{LinkState, PairingMethod};
use waya_daemon::session::{Link, WhatsApp};
use waya_sandbox::control::SandboxControl;
use waya_sandbox::people::roster::OWN_PHONE;

/// Pause before a code is scanned again, when the sandbox did not answer.
const PAUSE: Duration = Duration::from_millis(500);

/// Runs until the session is gone.
pub async fn scan_codes(session: Arc<dyn WhatsApp>, control: Arc<dyn SandboxControl>) {
    let mut link = session.link();
    if link.borrow_and_update().state == LinkState::Unpaired
        && let Err(error) = session.pair(PairingMethod::Qr).await
    {
        tracing::warn!(%error, "cannot ask for a code to link with");
    }
    let mut scanned = None;
    loop {
        if let Some(code) = shown(&link)
            && scanned.as_ref() != Some(&code)
        {
            match control.scan_qr(&code, Some(OWN_PHONE)).await {
                Ok(_) => scanned = Some(code),
                // The user has that to do; nothing is gained by scanning again.
                Err(error) if error.code() == "passkey_asked" => scanned = Some(code),
                Err(error) => {
                    tracing::warn!(%error, "the own account's phone could not scan the code");
                    tokio::time::sleep(PAUSE).await;
                    continue;
                }
            }
        }
        if link.changed().await.is_err() {
            return;
        }
    }
}

/// Resolves once the daemon is connected, or something is in the way that does not pass by itself; with
/// `offline_counts` also when the emulator cannot be reached.
pub async fn settled(session: &Arc<dyn WhatsApp>, offline_counts: bool) {
    let mut link = session.link();
    let settled = link.wait_for(|link| match &link.state {
        LinkState::Unpaired | LinkState::Pairing { .. } | LinkState::Connecting => false,
        LinkState::Offline { .. } => offline_counts,
        _ => true,
    });
    // Fails only when the session is gone; whoever waits here ends with it then.
    let _ = settled.await;
}

fn shown(link: &watch::Receiver<Link>) -> Option<String> {
    match &link.borrow().state {
        LinkState::Pairing { qr, .. } => qr.clone(),
        _ => None,
    }
}
