//! One session against the emulator, with its journal played by the test.

use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::{Context as _, Result};
use async_trait::async_trait;
use tempfile::TempDir;
use tokio::sync::{mpsc, watch};
use waya_daemon::clock::SystemClock;
use waya_daemon::model::{ChatId, Content, Incoming, LinkState, PairingMethod, WhatsAppId};
use waya_daemon::net::Proxy;
use waya_daemon::session::whatsapp_rs::{SessionConfig, open};
use waya_daemon::session::{Inbox, Outgoing, WaEvent, WhatsApp};
use waya_sandbox::control::{SandboxControl as _, SayRequest};
use waya_sandbox::emulator::{DeviceInfo, Emulator, Fault, FaultTarget};
use waya_sandbox::{Sandbox, SandboxConfig};

/// Whether accounts are addressed by number, as before WhatsApp's move to LIDs.
pub fn pn_only() -> bool {
    std::env::var_os("WAYA_TEST_PN_ONLY").is_some_and(|value| value == "1")
}

/// Longer than anything takes on a busy machine.
pub const PATIENCE: Duration = Duration::from_mins(1);

/// A journal in memory that can be made to fail.
#[derive(Debug, Default)]
pub struct Journal {
    rows: Mutex<Vec<Incoming>>,
    failures: watch::Sender<usize>,
    fails: watch::Sender<bool>,
    changed: watch::Sender<usize>,
}

impl Journal {
    /// From now on nothing can be written, or everything can.
    pub fn set_failing(&self, fails: bool) {
        self.fails.send_replace(fails);
    }

    /// Waits until so many commits were refused.
    pub async fn refused(&self, count: usize) {
        let mut failures = self.failures.subscribe();
        let _ = tokio::time::timeout(PATIENCE, failures.wait_for(|seen| *seen >= count)).await.unwrap().unwrap();
    }

    /// Waits for `count` rows.
    pub async fn rows(&self, count: usize) -> Vec<Incoming> {
        let mut changed = self.changed.subscribe();
        let waiting = changed.wait_for(|_| self.rows.lock().unwrap().len() >= count);
        let waited = tokio::time::timeout(PATIENCE, waiting).await.map(drop);
        let rows = self.rows.lock().unwrap().clone();
        assert!(waited.is_ok(), "only {} of {count} messages came", rows.len());
        rows
    }
}

#[async_trait]
impl Inbox for Journal {
    async fn commit(&self, batch: Vec<Incoming>) -> Result<()> {
        if *self.fails.borrow() {
            self.failures.send_modify(|seen| *seen += 1);
            anyhow::bail!("the disk is full");
        }
        {
            let mut rows = self.rows.lock().unwrap();
            for message in batch {
                if !rows.iter().any(|row| row.is_same_as(&message)) {
                    rows.push(message);
                }
            }
        }
        self.changed.send_modify(|changed| *changed += 1);
        Ok(())
    }
}

/// The emulator, some people, and one session that is not linked yet.
pub struct World {
    pub sandbox: Sandbox,
    pub session: Arc<dyn WhatsApp>,
    pub journal: Arc<Journal>,
    pub folder: TempDir,
    /// The setting `presence.online`.
    pub online: watch::Sender<bool>,
    proxy: Option<Proxy>,
    events: mpsc::UnboundedReceiver<WaEvent>,
    told: Vec<WaEvent>,
}

impl World {
    /// With so many people.
    pub async fn unpaired(people: usize) -> Self {
        Self::unpaired_by(people, None).await
    }

    /// The same through this proxy.
    pub async fn unpaired_through(people: usize, proxy: &str) -> Self {
        Self::unpaired_by(people, Some(Proxy::parse(proxy).unwrap())).await
    }

    async fn unpaired_by(people: usize, proxy: Option<Proxy>) -> Self {
        let sandbox =
            Sandbox::start(SandboxConfig { people, pn_only: pn_only(), ..SandboxConfig::default() }).await.unwrap();
        let folder = tempfile::tempdir().unwrap();
        let journal = Arc::new(Journal::default());
        let online = watch::Sender::new(false);
        let presence = online.subscribe();
        let (session, events) =
            session_at(&sandbox.whatsapp_url(), folder.path(), proxy.clone(), Arc::clone(&journal), presence).await;
        Self { sandbox, session, journal, folder, online, proxy, events, told: Vec::new() }
    }

    /// Linked and connected.
    pub async fn connected(people: usize) -> Self {
        let world = Self::unpaired(people).await;
        world.session.pair(PairingMethod::Qr).await.unwrap();
        world.scan().await;
        world.until("connected").await;
        world
    }

    /// Opens another session on the same keys, as after a restart.
    pub async fn restart(&mut self) {
        self.session.shutdown().await;
        let url = self.sandbox.whatsapp_url();
        let (journal, presence) = (Arc::clone(&self.journal), self.online.subscribe());
        let (session, events) = session_at(&url, self.folder.path(), self.proxy.clone(), journal, presence).await;
        (self.session, self.events) = (session, events);
    }

    pub fn emulator(&self) -> &Emulator {
        self.sandbox.emulator()
    }

    /// Has the owner's phone scan what is shown.
    pub async fn scan(&self) {
        let mut link = self.session.link();
        let shown = link.wait_for(|link| matches!(link.state, LinkState::Pairing { qr: Some(_), .. }));
        let state = tokio::time::timeout(PATIENCE, shown).await.expect("a code").unwrap().state.clone();
        let LinkState::Pairing { qr: Some(qr), expires_at: Some(_), .. } = state else { panic!("{state:?}") };
        self.emulator().scan_qr(&qr, Some(self.sandbox.own_phone())).await.unwrap();
    }

    /// Waits for a state by its name.
    pub async fn until(&self, name: &str) -> LinkState {
        self.until_state(|state| state.name() == name).await.with_context(|| format!("never {name}")).unwrap()
    }

    /// Waits for a state.
    pub async fn until_state(&self, wanted: impl Fn(&LinkState) -> bool) -> Result<LinkState> {
        let mut link = self.session.link();
        let waiting = link.wait_for(|link| wanted(&link.state));
        match tokio::time::timeout(PATIENCE, waiting).await {
            Ok(link) => Ok(link?.state.clone()),
            Err(_) => anyhow::bail!("it stayed {:?}", self.session.link().borrow().state),
        }
    }

    /// Makes something go wrong for this session.
    pub fn fault(&self, fault: Fault) {
        self.emulator().set_fault(fault, self.target());
    }

    /// Ends what [`World::fault`] began.
    pub fn mend(&self) {
        self.emulator().clear_faults(&self.target());
    }

    fn target(&self) -> FaultTarget {
        FaultTarget::Phone(self.sandbox.own_phone().to_owned())
    }

    /// The first event that `pick` takes, of those that came and those to come; the same one is not given twice.
    pub async fn event<T>(&mut self, pick: impl Fn(&WaEvent) -> Option<T>) -> T {
        if let Some((place, found)) =
            self.told.iter().enumerate().find_map(|(place, event)| Some((place, pick(event)?)))
        {
            self.told.remove(place);
            return found;
        }
        let waiting = async {
            loop {
                let event = self.events.recv().await.expect("the session lives");
                match pick(&event) {
                    Some(found) => return found,
                    None => self.told.push(event),
                }
            }
        };
        let found = tokio::time::timeout(PATIENCE, waiting).await;
        found.unwrap_or_else(|_| panic!("it was not told; but: {:?}", self.told))
    }

    /// Everything told so far that nobody asked for.
    pub fn untaken(&mut self) -> &[WaEvent] {
        while let Ok(event) = self.events.try_recv() {
            self.told.push(event);
        }
        &self.told
    }

    /// Hands a text over.
    pub async fn send(&self, id: &str, chat: &ChatId, text: &str) -> Result<(), waya_daemon::session::SendError> {
        let whatsapp_id = WhatsAppId(id.to_owned());
        let outgoing = Outgoing {
            whatsapp_id,
            chat: chat.clone(),
            text: text.to_owned(),
            content: Content::default(),
            uploaded: None,
            preview: None,
        };
        self.session.send(outgoing).await
    }

    /// Lets a person write to the own account, or into the group.
    pub async fn say(&self, who: usize, text: &str, group: Option<&str>) -> String {
        let from = self.phone(who);
        let request =
            SayRequest { from, text: text.to_owned(), group: group.map(str::to_owned), ..SayRequest::default() };
        self.sandbox.control().say(request).await.unwrap().id
    }

    /// A person's number.
    pub fn phone(&self, who: usize) -> String {
        self.sandbox.people().all()[who].profile().phone.clone()
    }

    /// The chat with a person.
    pub fn chat(&self, who: usize) -> ChatId {
        ChatId::phone(&self.phone(who))
    }

    /// Waits until a person has `text`, and tells how often it came.
    pub async fn arrived(&self, who: usize, text: &str) -> usize {
        let person = self.sandbox.people().all().swap_remove(who);
        let inbox = person.inbox();
        let mut changed = inbox.subscribe();
        let copies = || {
            let rows = inbox.entries();
            rows.into_iter().find(|row| row.content.text.as_deref() == Some(text)).map(|row| row.copies)
        };
        let waiting = changed.wait_for(|_| copies().is_some());
        let waited = tokio::time::timeout(PATIENCE, waiting).await.map(drop);
        assert!(waited.is_ok(), "{text:?} did not arrive: {:?}", inbox.entries());
        copies().unwrap()
    }

    /// The linked devices of the own account.
    pub fn devices(&self) -> Vec<DeviceInfo> {
        let accounts = self.emulator().accounts();
        accounts.into_iter().find(|account| account.phone == self.sandbox.own_phone()).unwrap().devices
    }

    /// Waits until the server keeps nothing for this device: everything was acknowledged.
    pub async fn nothing_queued(&self) {
        let waiting = async {
            while self.devices().iter().any(|device| device.queued > 0) {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        assert!(tokio::time::timeout(PATIENCE, waiting).await.is_ok(), "{:?}", self.devices());
    }

    pub fn has_keys(&self) -> bool {
        self.folder.path().join("whatsapp.db").exists()
    }

    /// Ends everything in order.
    pub async fn end(self) {
        self.session.shutdown().await;
        self.sandbox.shutdown().await.unwrap();
    }
}

async fn session_at(
    url: &str,
    folder: &Path,
    proxy: Option<Proxy>,
    journal: Arc<Journal>,
    presence: watch::Receiver<bool>,
) -> (Arc<dyn WhatsApp>, mpsc::UnboundedReceiver<WaEvent>) {
    let (events, told) = mpsc::unbounded_channel();
    let config = SessionConfig {
        data_dir: folder.to_owned(),
        url: Some(url.to_owned()),
        proxy,
        sandbox: true,
        presence_online: Some(presence),
        ..SessionConfig::default()
    };
    let session = open(config, journal, events, Arc::new(SystemClock)).await.unwrap();
    (session, told)
}
