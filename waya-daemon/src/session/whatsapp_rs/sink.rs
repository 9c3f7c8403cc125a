//! Where the client library's events arrive. Runs on the library's own path and never waits: what concerns the link
//! goes to the supervisor at once (so that it is there before the connection's end), the rest is queued for `pump`.

use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};
use std::time::Duration;

use tokio::sync::mpsc;
use whatsapp_rust::Client;
use whatsapp_rust::types::events::{
    ConnectFailure, ConnectFailureReason, Event, EventHandler, EventInterest, EventKind, LazyHistorySync, LoggedOut,
    PairPasskeyConfirmation, TemporaryBan,
};
use whatsapp_rust::wacore_binary::Node;

use super::context::Context;
use super::presence::Said;
use super::{history, passkey};
use crate::model::Timestamp;
use crate::session::state::{Input, PasskeyInput};

/// How long to look for a newer version before trying again.
const VERSION_RETRY: Duration = Duration::from_hours(1);

/// No ban is taken for shorter.
const SHORTEST_BAN: Duration = Duration::from_mins(1);

/// The kinds that are used; the library does not even make the others.
const KINDS: [EventKind; 28] = [
    EventKind::Connected,
    EventKind::Disconnected,
    EventKind::PairSuccess,
    EventKind::PairError,
    EventKind::LoggedOut,
    EventKind::PairingQrCode,
    EventKind::PairingCode,
    EventKind::PairingCodeRefresh,
    EventKind::PairingCodeError,
    EventKind::QrScannedWithoutMultidevice,
    EventKind::ClientOutdated,
    EventKind::Messages,
    EventKind::Receipt,
    EventKind::ServerAck,
    EventKind::UndecryptableMessage,
    EventKind::ContactNumberChanged,
    EventKind::GroupUpdate,
    EventKind::SelfPushNameUpdated,
    EventKind::StreamReplaced,
    EventKind::TemporaryBan,
    EventKind::ConnectFailure,
    EventKind::StreamError,
    EventKind::AppStateSyncFailed,
    EventKind::PairPasskeyRequest,
    EventKind::PairPasskeyConfirmation,
    EventKind::PairPasskeyError,
    EventKind::PairingQrCodesExhausted,
    EventKind::HistorySync,
];

/// The handler that is subscribed.
pub struct Sink {
    context: Arc<Context>,
    // The client owns its handlers: a strong reference would keep it alive for ever.
    client: Weak<Client>,
    queue: mpsc::UnboundedSender<Arc<Event>>,
    history: mpsc::UnboundedSender<LazyHistorySync>,
    presence: Said,
}

impl Sink {
    /// The handler, and the queue of what it leaves to `pump`.
    #[must_use]
    pub fn new(context: Arc<Context>, client: &Arc<Client>) -> (Self, mpsc::UnboundedReceiver<Arc<Event>>) {
        let (queue, queued) = mpsc::unbounded_channel();
        let presence = Said::default();
        presence.keep(context.config.presence_online.clone(), Arc::downgrade(client));
        let (history, chunks) = mpsc::unbounded_channel();
        tokio::spawn(history::run(Arc::clone(&context), chunks));
        (Self { context, client: Arc::downgrade(client), queue, history, presence }, queued)
    }

    fn now(&self) -> Timestamp {
        self.context.out.clock.now()
    }

    fn input(&self, input: Input) {
        self.context.input(input);
    }

    fn blame(&self, trouble: impl Into<String>) {
        self.context.progress.blame(trouble);
    }

    fn show_code(&self, is_typed: bool, text: &str, lasts: Duration) {
        self.context.progress.through();
        if self.context.pairing_by_code.load(Ordering::Relaxed) != is_typed {
            return;
        }
        let (qr, code) = if is_typed { (None, Some(text.to_owned())) } else { (Some(text.to_owned()), None) };
        self.input(Input::Shown { qr, code, expires_at: self.now().plus(lasts) });
    }

    fn connected(&self) {
        self.context.progress.logged_in();
        self.input(Input::LoggedIn);
        self.presence.now();
    }

    fn name_came(&self) {
        self.input(Input::MeChanged);
        if let Some(client) = self.client.upgrade() {
            self.presence.soon(&client);
        }
    }

    fn outdated(&self) {
        self.input(Input::Outdated);
        let context = Arc::clone(&self.context);
        if context.is_seeking_version.swap(true, Ordering::Relaxed) {
            return;
        }
        tokio::spawn(async move {
            // The client is let go of now; the session goes on.
            while !context.out.inputs.is_closed() && context.may_renew_version() {
                if context.renew_version().await {
                    context.input(Input::VersionRenewed);
                    break;
                }
                tokio::time::sleep(VERSION_RETRY).await;
            }
            context.is_seeking_version.store(false, Ordering::Relaxed);
        });
    }

    fn logged_out(&self, event: &LoggedOut) {
        // Without a stanza it is our own logout, which the supervisor knows of.
        let Some(stanza) = &event.raw else { return };
        if event.reason == ConnectFailureReason::AccountLocked {
            return self.input(Input::Locked);
        }
        let certain = is_device_removed(stanza);
        let reason = match event.reason {
            _ if certain => "the device was unlinked from the phone".to_owned(),
            ConnectFailureReason::LoggedOut if event.on_connect => {
                "WhatsApp does not know this device any more (401); link it again".to_owned()
            }
            ConnectFailureReason::LoggedOut => "WhatsApp ended the session; link it again".to_owned(),
            _ => format!("WhatsApp ended the session ({}); link it again", event.reason.code()),
        };
        self.input(Input::LoggedOut { reason, certain });
    }

    fn banned(&self, ban: &TemporaryBan) {
        // One that seems to be over is looked into again, not at once and for ever.
        let lasts = ban.expire.to_std().unwrap_or_default().max(SHORTEST_BAN);
        tracing::warn!(reason = %ban.code, "WhatsApp banned the account for a while");
        self.input(Input::Banned { until: Some(self.now().plus(lasts)) });
    }

    fn login_refused(&self, failure: &ConnectFailure) {
        if failure.reason == ConnectFailureReason::TempBanned {
            return self.input(Input::Banned { until: None });
        }
        let code = failure.reason.code();
        self.blame(match failure.reason {
            ConnectFailureReason::ServiceUnavailable => format!("WhatsApp is not available now ({code})"),
            ConnectFailureReason::InternalServerError => format!("WhatsApp's server had trouble ({code})"),
            _ => format!("WhatsApp refused the login ({code})"),
        });
    }

    /// The library ends the connection then, also when it waits for a passkey.
    fn codes_ran_out(&self) {
        self.context.progress.through();
        if self.context.passkey_asked.load(Ordering::Relaxed) {
            self.blame("the QR codes ran out, and the connection ended with them");
        }
    }

    fn compare(&self, event: &PairPasskeyConfirmation) {
        if event.skip_handoff_ux {
            // The old link proved who we are: there is nothing for the user to compare.
            passkey::confirm_by_itself(&self.context, &self.client);
        } else {
            self.input(Input::Passkey(PasskeyInput::Code(event.code.clone())));
        }
    }

    fn pairing_failed(&self, reason: impl Into<String>) {
        self.input(Input::PairingFailed(reason.into()));
    }
}

/// Tells that the device was removed beyond doubt: the server's own word for it, not any 401.
fn is_device_removed(stanza: &Node) -> bool {
    stanza.tag == "stream:error"
        && stanza
            .get_optional_child("conflict")
            .is_some_and(|conflict| conflict.attrs.get("type").is_some_and(|kind| kind.as_str() == "device_removed"))
}

impl EventHandler for Sink {
    fn interest(&self) -> EventInterest {
        EventInterest::of(&KINDS)
    }

    fn handle_event(&self, event: Arc<Event>) {
        match &*event {
            Event::Connected(_) => self.connected(),
            Event::Disconnected(lost) => self.blame(format!("the connection was lost: {}", lost.reason)),
            Event::PairingQrCode(shown) => self.show_code(false, &shown.code, shown.timeout),
            Event::PairingCode(shown) => self.show_code(true, &shown.code, shown.timeout),
            Event::PairingCodeRefresh(_) => self.context.code_is_stale.notify_one(),
            Event::PairingCodeError(failed) => {
                let reason = format!("WhatsApp gave no pairing code: {}", failed.error);
                self.input(match failed.rejection {
                    Some(_) => Input::PairingRefused(reason),
                    None => Input::PairingFailed(reason),
                });
            }
            Event::PairError(failed) => self.pairing_failed(format!("pairing failed: {}", failed.error)),
            Event::QrScannedWithoutMultidevice(_) => {
                self.pairing_failed("the phone's WhatsApp is too old to link devices; update it");
            }
            Event::PairingQrCodesExhausted(_) => self.codes_ran_out(),
            Event::PairSuccess(_) => {
                self.context.progress.through();
                // It may be another account than the last one; the phone tells what it knows again.
                self.context.forget_people();
                self.input(Input::Paired);
            }
            Event::PairPasskeyRequest(asked) => self.input(passkey::asked(&self.context, &asked.request_options_json)),
            Event::PairPasskeyConfirmation(compare) => self.compare(compare),
            Event::PairPasskeyError(failed) => {
                self.pairing_failed(format!("WhatsApp's request for a passkey failed: {}", failed.error));
            }
            Event::LoggedOut(event) => self.logged_out(event),
            Event::StreamReplaced(_) => self.input(Input::Replaced),
            Event::TemporaryBan(ban) => self.banned(ban),
            Event::ClientOutdated(_) => self.outdated(),
            Event::ConnectFailure(failure) => self.login_refused(failure),
            Event::StreamError(error) if !error.code.is_empty() => {
                self.blame(format!("WhatsApp ended the connection ({})", error.code));
            }
            Event::AppStateSyncFailed(failed) if !failed.connected => {
                self.blame("WhatsApp did not hand over the account's settings");
            }
            Event::SelfPushNameUpdated(_) => self.name_came(),
            // The chunk is shared, not copied; its reader ends with the client only.
            Event::HistorySync(chunk) => drop(self.history.send(LazyHistorySync::clone(chunk))),
            Event::Messages(_)
            | Event::Receipt(_)
            | Event::ServerAck(_)
            | Event::UndecryptableMessage(_)
            | Event::ContactNumberChanged(_)
            | Event::GroupUpdate(_) => {
                // The pump ends with the client only.
                let _ = self.queue.send(event);
            }
            _ => {}
        }
    }
}
