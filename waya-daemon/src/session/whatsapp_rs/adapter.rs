//! [`WhatsApp`] on the client library.

use std::fmt;
use std::fs::File;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::watch;
use whatsapp_rust::error::ErrorChainExt;
use whatsapp_rust::features::ContactError;
use whatsapp_rust::wacore::iq::keepalive::KeepaliveSpec;
use whatsapp_rust::{Client, ClientError, IqError, IsOnWhatsAppResult, Jid, SendOptions};

use super::driver::WaDriver;
use super::outgoing::{self, Envelope};
use super::{convert, download, keys, membership, passkey, typing, upload};
use crate::model::{ChatId, LinkState, PairingMethod, PasskeyStep, Timestamp};
use crate::session::passkey::PasskeyAnswer;
use crate::session::supervisor::Handle;
use crate::session::{
    ChatState, FileTold, Link, Outgoing, SendError, SessionError, Unlinked, Upload, Uploaded, WhatsApp,
};

/// A hand-over may ask the server for devices and keys first; the library would wait 75 s for each answer.
const HAND_OVER_TAKES: Duration = Duration::from_secs(30);
/// How long the answer to a question may take.
const ANSWER_TAKES: Duration = Duration::from_secs(20);
/// How long a sign of life may take.
const PONG_TAKES: Duration = Duration::from_secs(10);
/// How many numbers are asked for at once.
const NUMBERS_A_QUESTION: usize = 50;

/// The session of one account.
pub struct Adapter {
    driver: Arc<WaDriver>,
    handle: Handle,
    heard: AtomicU64,
}

impl Adapter {
    /// On a running supervisor.
    #[must_use]
    pub const fn new(driver: Arc<WaDriver>, handle: Handle) -> Self {
        Self { driver, handle, heard: AtomicU64::new(0) }
    }

    /// The client while it is logged in.
    fn connected(&self) -> Option<Arc<Client>> {
        self.driver.current().filter(|client| self.handle.is_connected() && client.is_logged_in())
    }

    /// Asks about at most [`NUMBERS_A_QUESTION`] numbers.
    async fn ask(&self, client: &Client, phones: &[String]) -> Result<Vec<bool>, SendError> {
        let jids: Vec<Jid> = phones.iter().map(Jid::pn).collect();
        let contacts = client.contacts();
        let results = match tokio::time::timeout(ANSWER_TAKES, contacts.is_on_whatsapp(&jids)).await {
            Ok(results) => results.map_err(|error| contact_error(&error))?,
            Err(_) => return Err(SendError::Transient("WhatsApp did not say which numbers it knows".to_owned())),
        };
        for result in &results {
            self.learn(result);
        }
        let answers: Option<Vec<bool>> = phones.iter().map(|phone| is_registered(&results, phone)).collect();
        answers.ok_or_else(|| SendError::Transient("WhatsApp did not say whether it knows the number".to_owned()))
    }

    /// The chat of a person addressed by LID whose phone the library knows; the daemon is told of it.
    async fn known_by_phone(&self, client: &Client, to: &Jid) -> Option<ChatId> {
        if !to.is_lid() {
            return None;
        }
        let address = convert::address(client, to, None).await?;
        let context = &self.driver.context;
        context.people.named(&address).into_iter().for_each(|person| context.tell(person));
        Some(address.chat)
    }

    fn learn(&self, result: &IsOnWhatsAppResult) {
        let second = result.lid.as_ref().or(result.pn_jid.as_ref());
        let (phone, lid) = convert::phone_and_lid(&result.jid, second);
        let context = &self.driver.context;
        context.people.note(phone, lid, None).into_iter().for_each(|person| context.tell(person));
    }
}

/// What the answer says of a number; `None` when it says nothing, or that it could not be found out.
fn is_registered(results: &[IsOnWhatsAppResult], phone: &str) -> Option<bool> {
    let named = |jid: &Jid| jid.is_pn() && jid.user_base() == phone;
    let result = results.iter().find(|result| named(&result.jid) || result.pn_jid.as_ref().is_some_and(named))?;
    (result.is_registered || result.contact_error.is_none()).then_some(result.is_registered)
}

/// What a failed hand-over means. Before anything is encrypted the library asks the server; when that finds no
/// connection, nothing left. A failing write is another matter: part of it may have.
fn send_error(error: &whatsapp_rust::SendError) -> SendError {
    use whatsapp_rust::SendError as Library;
    match error {
        Library::NotLoggedIn | Library::Client(ClientError::NotConnected | ClientError::NotLoggedIn) => {
            SendError::Offline
        }
        Library::Iq(error) => iq_error(error),
        Library::InvalidRequest(reason) => SendError::Permanent(format!("it cannot be sent: {reason}")),
        _ if matches!(error.server_rejection(), Some(rejection) if rejection.code == 404) => {
            SendError::Permanent("WhatsApp knows no such chat".to_owned())
        }
        _ => SendError::Transient(error.to_string()),
    }
}

fn iq_error(error: &IqError) -> SendError {
    match error {
        IqError::NotConnected | IqError::Disconnected(_) | IqError::InternalChannelClosed => SendError::Offline,
        IqError::Timeout => SendError::Transient("WhatsApp did not answer in time".to_owned()),
        IqError::ServerError { code: code @ (403 | 404 | 406), .. } => {
            SendError::Permanent(format!("WhatsApp refused it ({code})"))
        }
        IqError::ServerError { code, .. } => SendError::Transient(format!("WhatsApp refused it ({code})")),
        other => SendError::Transient(other.to_string()),
    }
}

/// The end of a restriction: seconds since the epoch as text, or a date.
fn end_of_lock(text: &str) -> Option<Timestamp> {
    let millis = match text.parse::<i64>() {
        Ok(seconds) => seconds.checked_mul(1000)?,
        Err(_) => text.parse::<jiff::Timestamp>().ok()?.as_millisecond(),
    };
    (millis > 0).then(|| convert::timestamp(millis))
}

fn contact_error(error: &ContactError) -> SendError {
    match error {
        ContactError::Iq(error) => iq_error(error),
        other => SendError::Permanent(other.to_string()),
    }
}

#[async_trait]
impl WhatsApp for Adapter {
    fn link(&self) -> watch::Receiver<Link> {
        self.handle.link()
    }

    fn last_traffic(&self) -> Option<Timestamp> {
        // The library forgets it with each connection.
        let now = self.driver.current().map_or(0, |client| client.stats().last_data_received_ms);
        let heard = self.heard.fetch_max(now, Ordering::Relaxed).max(now);
        (heard > 0).then(|| Timestamp::from_millis(heard))
    }

    async fn send(&self, outgoing: Outgoing) -> Result<(), SendError> {
        let client = self.connected().ok_or(SendError::Offline)?;
        let to = convert::jid(&outgoing.chat);
        let me = client.pn().ok_or(SendError::Offline)?;
        let chat = self.known_by_phone(&client, &to).await;
        let context = &self.driver.context;
        let message = outgoing::message(
            &outgoing,
            &Envelope {
                to: &to,
                me: &me.to_non_ad(),
                disappears_after: context.timers.of(chat.as_ref().unwrap_or(&outgoing.chat)),
                now: i64::try_from(context.out.clock.now().as_millis()).unwrap_or(i64::MAX),
            },
        )?;
        let options = SendOptions::default().with_message_id(outgoing.whatsapp_id.0);
        let sending = async {
            if to.is_pn() || to.is_lid() {
                keys::at_hand(&client, &to).await?;
            }
            client.send_message_with_options(to, message, options).await.map_err(|error| send_error(&error))
        };
        match tokio::time::timeout(HAND_OVER_TAKES, sending).await {
            Ok(outcome) => outcome.map(|_| ()),
            Err(_) => Err(SendError::Transient("WhatsApp did not answer while the message was prepared".to_owned())),
        }
    }

    async fn show(&self, chat: &ChatId, state: ChatState) -> Result<(), SendError> {
        let context = &self.driver.context;
        let online = context.config.presence_online.as_ref().is_some_and(|online| *online.borrow());
        typing::show(self.connected().as_deref(), &context.seen, chat, state, online).await
    }

    async fn upload(&self, upload: Upload) -> Result<Uploaded, SendError> {
        let client = self.connected().ok_or(SendError::Offline)?;
        upload::upload(&client, upload, &self.driver.context.config.data_dir).await
    }

    async fn download(&self, raw: Vec<u8>, into: File, limit: u64) -> Result<(), SendError> {
        let client = self.connected().ok_or(SendError::Offline)?;
        download::download(&client, &raw, into, limit).await
    }

    fn file_of(&self, raw: &[u8]) -> Option<FileTold> {
        download::file_of(raw)
    }

    async fn is_in_group(&self, group: &ChatId) -> Option<bool> {
        let client = self.connected()?;
        membership::is_in_group(&client, &convert::jid(group)).await
    }

    async fn members(&self, group: &ChatId) -> Option<Vec<ChatId>> {
        let client = self.connected()?;
        membership::members(&client, &convert::jid(group)).await
    }

    async fn registered(&self, phones: &[String]) -> Result<Vec<bool>, SendError> {
        let client = self.connected().ok_or(SendError::Offline)?;
        let mut registered = Vec::with_capacity(phones.len());
        for some in phones.chunks(NUMBERS_A_QUESTION) {
            registered.extend(self.ask(&client, some).await?);
        }
        Ok(registered)
    }

    async fn reach_out_locked_until(&self) -> Option<Timestamp> {
        let client = self.connected()?;
        let mex = client.mex();
        let lock = tokio::time::timeout(ANSWER_TAKES, mex.fetch_reachout_timelock()).await.ok()?;
        let lock =
            lock.inspect_err(|error| tracing::debug!(%error, "WhatsApp did not tell of the restriction")).ok()?;
        if lock.is_active == Some(false) { None } else { end_of_lock(lock.time_enforcement_ends.as_deref()?) }
    }

    async fn probe(&self) -> bool {
        let Some(client) = self.connected() else { return false };
        if client.execute(KeepaliveSpec::with_timeout(PONG_TAKES)).await.is_ok() {
            return true;
        }
        tracing::warn!("WhatsApp did not answer a ping; connecting anew");
        client.reconnect_immediately().await;
        false
    }

    async fn pair(&self, method: PairingMethod) -> Result<(), SessionError> {
        self.handle.pair(method).await
    }

    async fn answer_passkey(&self, answer: PasskeyAnswer) -> Result<(), SessionError> {
        match self.handle.link().borrow().state {
            LinkState::PasskeyRequired { step: PasskeyStep::Asked { .. } } => {}
            _ => return Err(SessionError::NoPasskeyAsked),
        }
        passkey::answer(&self.driver, answer).await
    }

    async fn confirm_passkey(&self) -> Result<(), SessionError> {
        // The library would give the whole attempt up over a word out of place.
        match self.handle.link().borrow().state {
            LinkState::PasskeyRequired { step: PasskeyStep::Compare { .. } } => {}
            _ => return Err(SessionError::NoCodeToConfirm),
        }
        passkey::confirm(&self.driver).await
    }

    async fn reconnect(&self) -> Result<(), SessionError> {
        self.handle.reconnect().await
    }

    async fn logout(&self) -> Result<Unlinked, SessionError> {
        self.handle.log_out().await
    }

    async fn shutdown(&self) {
        self.handle.stop().await;
    }
}

impl fmt::Debug for Adapter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Adapter").field("state", &self.handle.link().borrow().state.name()).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use whatsapp_rust::NodeBuilder;
    use whatsapp_rust::wacore::iq::spec::IqSpec as _;
    use whatsapp_rust::wacore::iq::usync::{IsOnWhatsAppQueryType, IsOnWhatsAppSpec};

    use super::*;

    #[test]
    fn only_a_clear_no_means_that_a_number_is_not_there() {
        let (asked, other) = ("6281200000002", "6281200000003");
        let answer = |phone: &str, registered, error: Option<u16>| {
            let contact = match (registered, error) {
                (true, _) => NodeBuilder::new("contact").attr("type", "in").build(),
                (false, None) => NodeBuilder::new("contact").attr("type", "out").build(),
                (false, Some(code)) => {
                    let error = NodeBuilder::new("error").attr("code", code.to_string()).build();
                    NodeBuilder::new("contact").children([error]).build()
                }
            };
            let user = NodeBuilder::new("user").attr("jid", Jid::pn(phone).to_string()).children([contact]).build();
            let list = NodeBuilder::new("list").children([user]).build();
            let usync = NodeBuilder::new("usync").children([list]).build();
            let iq = NodeBuilder::new("iq").attr("type", "result").children([usync]).build();
            let asked = IsOnWhatsAppSpec::new(Vec::new(), "sid", IsOnWhatsAppQueryType::Pn);
            asked.parse_response(&iq.as_node_ref()).unwrap()
        };
        assert_eq!(is_registered(&answer(asked, true, None), asked), Some(true));
        assert_eq!(is_registered(&answer(asked, false, None), asked), Some(false));
        assert_eq!(is_registered(&answer(asked, false, Some(503)), asked), None);
        assert_eq!(is_registered(&answer(other, true, None), asked), None);
        assert_eq!(is_registered(&[], asked), None);
    }

    #[test]
    fn the_end_of_a_restriction_is_read_in_either_shape() {
        let end = Some(Timestamp::from_millis(1_790_000_000_000));
        assert_eq!(end_of_lock("1790000000"), end);
        assert_eq!(end_of_lock("2026-09-21T14:13:20Z"), end);
        for text in ["", "0", "soon", "-5"] {
            assert_eq!(end_of_lock(text), None, "{text}");
        }
    }

    #[test]
    fn errors_say_whether_another_attempt_makes_sense() {
        use whatsapp_rust::SendError as Library;
        let offline = [Library::NotLoggedIn, Library::Client(ClientError::NotConnected), IqError::NotConnected.into()];
        for error in offline {
            assert_eq!(send_error(&error), SendError::Offline);
        }
        let failed = anyhow::anyhow!("encryption failed for all 1 recipient device(s)");
        for error in [Library::Internal(failed), IqError::Timeout.into()] {
            assert!(matches!(send_error(&error), SendError::Transient(_)));
        }
        let invalid = Library::InvalidRequest("no such thing".to_owned());
        assert!(matches!(send_error(&invalid), SendError::Permanent(_)));
    }
}
