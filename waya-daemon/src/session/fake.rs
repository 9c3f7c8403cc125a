//! A scripted [`WhatsApp`] for tests of what the emulator cannot be made to do: any error at any call, at once.

use std::collections::{HashSet, VecDeque};
use std::fs::File;
use std::io::Write as _;
use std::sync::{Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use sha2::{Digest as _, Sha256};
use tokio::sync::{mpsc, watch};

use super::passkey::PasskeyAnswer;
use super::{
    ChatState, FileTold, Link, Me, Outgoing, SendError, SessionError, Unlinked, Upload, Uploaded, WaEvent, WhatsApp,
};
use crate::model::{ChatId, LinkState, MediaHash, PairingMethod, PasskeyStep, Timestamp};

/// What the next hand-over does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SendStep {
    /// Gives this.
    Give(Result<(), SendError>),
    /// Never comes back.
    Hang,
}

/// Does what it is told, and remembers what it was asked. Without a script everything works.
#[derive(Debug)]
pub struct FakeWhatsApp {
    link: watch::Sender<Link>,
    events: mpsc::UnboundedSender<WaEvent>,
    sent: watch::Sender<usize>,
    script: Mutex<Script>,
}

#[derive(Debug, Default)]
struct Script {
    sends: VecDeque<SendStep>,
    sent: Vec<Outgoing>,
    unregistered: HashSet<String>,
    lookups: VecDeque<SendError>,
    asked: Vec<String>,
    probes: VecDeque<bool>,
    probed: usize,
    last_traffic: Option<Timestamp>,
    locked_until: Option<Timestamp>,
    paired: Vec<PairingMethod>,
    passkeys: Vec<PasskeyAnswer>,
    shown: Vec<(ChatId, ChatState)>,
    shows_nothing: bool,
    uploads: Vec<Upload>,
    files: bool,
    downloads: usize,
    download_errors: VecDeque<SendError>,
    upload_errors: VecDeque<SendError>,
    left_groups: HashSet<ChatId>,
    members: Option<Vec<ChatId>>,
    refusals: VecDeque<SessionError>,
}

impl FakeWhatsApp {
    /// Connected, as `6281200000001`; tells `events` what [`FakeWhatsApp::tell`] is given.
    #[must_use]
    pub fn connected(events: mpsc::UnboundedSender<WaEvent>) -> Self {
        let me = Me { phone: "6281200000001".to_owned(), lid: None, push_name: "Waya".to_owned() };
        let link = Link { state: LinkState::Connected, since: Timestamp::default(), me: Some(me) };
        Self { link: watch::channel(link).0, events, sent: watch::channel(0).0, script: Mutex::default() }
    }

    fn script(&self) -> MutexGuard<'_, Script> {
        self.script.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes the link, and tells it.
    pub fn set_link(&self, state: LinkState) {
        self.link.send_modify(|link| link.state = state.clone());
        self.tell(WaEvent::Link(state));
    }

    /// Tells an event as if it came from WhatsApp.
    pub fn tell(&self, event: WaEvent) {
        // A test that does not listen does not care.
        let _ = self.events.send(event);
    }

    /// The next hand-overs do this, in this order; after that they work again.
    pub fn next_sends(&self, steps: impl IntoIterator<Item = SendStep>) {
        self.script().sends.extend(steps);
    }

    /// These phone numbers are not on WhatsApp.
    pub fn not_registered(&self, phones: impl IntoIterator<Item = &'static str>) {
        self.script().unregistered.extend(phones.into_iter().map(str::to_owned));
    }

    /// The next questions whether a number is on WhatsApp fail like this.
    pub fn next_lookups_fail(&self, errors: impl IntoIterator<Item = SendError>) {
        self.script().lookups.extend(errors);
    }

    /// The next probes give this; after that they are answered.
    pub fn next_probes(&self, answers: impl IntoIterator<Item = bool>) {
        self.script().probes.extend(answers);
    }

    /// The next `pair`, `reconnect`, `logout`, or word on a passkey is refused like this.
    pub fn next_refusal(&self, error: SessionError) {
        self.script().refusals.push_back(error);
    }

    /// When something was last heard.
    pub fn set_last_traffic(&self, at: Option<Timestamp>) {
        self.script().last_traffic = at;
    }

    /// Until when writing to strangers is restricted.
    pub fn set_reach_out_locked_until(&self, until: Option<Timestamp>) {
        self.script().locked_until = until;
    }

    /// Every hand-over so far, those that failed too.
    #[must_use]
    pub fn sent(&self) -> Vec<Outgoing> {
        self.script().sent.clone()
    }

    /// Every number that was asked about.
    #[must_use]
    pub fn asked(&self) -> Vec<String> {
        self.script().asked.clone()
    }

    /// How often a sign of life was asked for.
    #[must_use]
    pub fn probed(&self) -> usize {
        self.script().probed
    }

    /// Every pairing that was asked for.
    #[must_use]
    pub fn paired(&self) -> Vec<PairingMethod> {
        self.script().paired.clone()
    }

    /// Every passkey's answer that was handed in.
    #[must_use]
    pub fn passkeys(&self) -> Vec<PasskeyAnswer> {
        self.script().passkeys.clone()
    }

    /// Every file that was to be uploaded.
    #[must_use]
    pub fn uploads(&self) -> Vec<Upload> {
        self.script().uploads.clone()
    }

    /// The next uploads fail like this.
    pub fn next_uploads_fail(&self, errors: impl IntoIterator<Item = SendError>) {
        self.script().upload_errors.extend(errors);
    }

    /// From now on each message that came in has a file: its encoded form itself.
    pub fn messages_have_files(&self) {
        self.script().files = true;
    }

    /// The next downloads fail like this.
    pub fn next_downloads_fail(&self, errors: impl IntoIterator<Item = SendError>) {
        self.script().download_errors.extend(errors);
    }

    /// How many files were asked for.
    #[must_use]
    pub fn downloads(&self) -> usize {
        self.script().downloads
    }

    /// What chats were to see, in order.
    #[must_use]
    pub fn shown(&self) -> Vec<(ChatId, ChatState)> {
        self.script().shown.clone()
    }

    /// From now on chats cannot be shown anything, or that never ends.
    pub fn show_nothing(&self) {
        self.script().shows_nothing = true;
    }

    /// This account is in no such group.
    pub fn not_in_group(&self, group: ChatId) {
        self.script().left_groups.insert(group);
    }

    /// These are in every group, beside this account.
    pub fn set_members(&self, members: Vec<ChatId>) {
        self.script().members = Some(members);
    }

    /// Waits until there were `count` hand-overs.
    pub async fn wait_for_sent(&self, count: usize) -> Vec<Outgoing> {
        // The sender lives as long as this.
        let _ = self.sent.subscribe().wait_for(|sent| *sent >= count).await;
        self.sent()
    }

    fn refused(&self) -> Result<(), SessionError> {
        self.script().refusals.pop_front().map_or(Ok(()), Err)
    }
}

#[async_trait]
impl WhatsApp for FakeWhatsApp {
    fn link(&self) -> watch::Receiver<Link> {
        self.link.subscribe()
    }

    fn last_traffic(&self) -> Option<Timestamp> {
        self.script().last_traffic
    }

    async fn send(&self, outgoing: Outgoing) -> Result<(), SendError> {
        if !self.link.borrow().state.is_connected() {
            return Err(SendError::Offline);
        }
        let step = {
            let mut script = self.script();
            script.sent.push(outgoing);
            script.sends.pop_front()
        };
        self.sent.send_modify(|sent| *sent += 1);
        match step {
            None => Ok(()),
            Some(SendStep::Give(result)) => result,
            Some(SendStep::Hang) => std::future::pending().await,
        }
    }

    async fn show(&self, chat: &ChatId, state: ChatState) -> Result<(), SendError> {
        if !self.link.borrow().state.is_connected() {
            return Err(SendError::Offline);
        }
        if self.script().shows_nothing {
            return std::future::pending().await;
        }
        self.script().shown.push((chat.clone(), state));
        Ok(())
    }

    async fn upload(&self, upload: Upload) -> Result<Uploaded, SendError> {
        if !self.link.borrow().state.is_connected() {
            return Err(SendError::Offline);
        }
        let mut script = self.script();
        script.uploads.push(upload);
        script.upload_errors.pop_front().map_or_else(|| Ok(Uploaded(vec![script.uploads.len() as u8])), Err)
    }

    async fn download(&self, raw: Vec<u8>, mut into: File, limit: u64) -> Result<(), SendError> {
        {
            let mut script = self.script();
            script.downloads += 1;
            if let Some(error) = script.download_errors.pop_front() {
                return Err(error);
            }
        }
        if raw.len() as u64 > limit {
            return Err(SendError::Permanent("the file is too large".to_owned()));
        }
        into.write_all(&raw).map_err(|error| SendError::Transient(error.to_string()))
    }

    fn file_of(&self, raw: &[u8]) -> Option<FileTold> {
        let hash = Some(MediaHash(Sha256::digest(raw).into()));
        let told = FileTold { hash, size: Some(raw.len() as u64), mimetype: None, filename: None };
        self.script().files.then_some(told)
    }

    async fn is_in_group(&self, group: &ChatId) -> Option<bool> {
        self.link.borrow().state.is_connected().then(|| !self.script().left_groups.contains(group))
    }

    async fn members(&self, _group: &ChatId) -> Option<Vec<ChatId>> {
        self.script().members.clone().filter(|_| self.link.borrow().state.is_connected())
    }

    async fn registered(&self, phones: &[String]) -> Result<Vec<bool>, SendError> {
        if !self.link.borrow().state.is_connected() {
            return Err(SendError::Offline);
        }
        let mut script = self.script();
        script.asked.extend(phones.iter().cloned());
        if let Some(error) = script.lookups.pop_front() {
            return Err(error);
        }
        Ok(phones.iter().map(|phone| !script.unregistered.contains(phone)).collect())
    }

    async fn reach_out_locked_until(&self) -> Option<Timestamp> {
        self.script().locked_until
    }

    async fn probe(&self) -> bool {
        let mut script = self.script();
        script.probed += 1;
        script.probes.pop_front().unwrap_or(true)
    }

    async fn pair(&self, method: PairingMethod) -> Result<(), SessionError> {
        self.refused()?;
        self.script().paired.push(method);
        self.set_link(LinkState::Pairing { qr: None, code: None, expires_at: None });
        Ok(())
    }

    async fn answer_passkey(&self, answer: PasskeyAnswer) -> Result<(), SessionError> {
        self.refused()?;
        self.script().passkeys.push(answer);
        self.set_link(LinkState::PasskeyRequired { step: PasskeyStep::Answered });
        Ok(())
    }

    async fn confirm_passkey(&self) -> Result<(), SessionError> {
        self.refused()?;
        self.set_link(LinkState::PasskeyRequired { step: PasskeyStep::Answered });
        Ok(())
    }

    async fn reconnect(&self) -> Result<(), SessionError> {
        self.refused()?;
        self.set_link(LinkState::Connected);
        Ok(())
    }

    async fn logout(&self) -> Result<Unlinked, SessionError> {
        self.refused()?;
        let connected = self.link.borrow().state.is_connected();
        self.link.send_modify(|link| link.me = None);
        self.set_link(LinkState::Unpaired);
        Ok(if connected { Unlinked::Fully } else { Unlinked::HereOnly })
    }

    async fn shutdown(&self) {}
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Content, WhatsAppId};

    fn outgoing(id: &str) -> Outgoing {
        Outgoing {
            whatsapp_id: WhatsAppId(id.to_owned()),
            chat: ChatId::phone("6281200000002"),
            text: "Halo".to_owned(),
            content: Content::default(),
            uploaded: None,
            preview: None,
        }
    }

    #[tokio::test]
    async fn follows_its_script_and_then_works() {
        let (events, mut told) = mpsc::unbounded_channel();
        let fake = FakeWhatsApp::connected(events);
        let failure = Err(SendError::Transient("x".to_owned()));
        fake.next_sends([SendStep::Give(failure.clone())]);
        assert_eq!(fake.send(outgoing("A")).await, failure);
        assert_eq!(fake.send(outgoing("B")).await, Ok(()));
        let ids: Vec<_> = fake.wait_for_sent(2).await.into_iter().map(|sent| sent.whatsapp_id.0).collect();
        assert_eq!(ids, ["A", "B"]);

        fake.set_link(LinkState::Replaced);
        assert_eq!(fake.send(outgoing("C")).await, Err(SendError::Offline));
        assert_eq!(told.recv().await, Some(WaEvent::Link(LinkState::Replaced)));
    }
}
