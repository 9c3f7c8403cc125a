//! A queue on a store in memory, a WhatsApp that does what a test says, and time that passes only when everything
//! waits.

use std::fmt;
use std::sync::atomic::{AtomicI64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::{Accepted, Draft, Parts, Queue};
use crate::api::testing::{Memory, media, memory};
use crate::bus::Bus;
use crate::clock::{Clock, TokioClock};
use crate::media::Media;
use crate::model::{
    Change, ChatId, Content, Lane, LinkState, Message, MessageId, OfflineReason, PairingMethod, Source, Status,
    Timestamp, WhatsAppId,
};
use crate::session::fake::FakeWhatsApp;
use crate::session::passkey::PasskeyAnswer;
use crate::session::{
    ChatState, FileTold, Link, Outgoing, SendError, SessionError, Unlinked, Upload, Uploaded, WhatsApp,
};
use crate::settings::Snapshot;
use crate::store::{
    Batch, Changed, Counts, Enqueued, Idempotency, Keep, ListFilter, OpenMessage, Outbox, Store, StoreError,
};

pub(super) struct World {
    pub(super) memory: Arc<Memory>,
    pub(super) store: Store,
    pub(super) whatsapp: Arc<FakeWhatsApp>,
    pub(super) settings: watch::Sender<Snapshot>,
    pub(super) clock: Arc<Wall>,
    pub(super) bus: Bus,
    pub(super) queue: Queue,
    pub(super) media: Media,
    session: Arc<dyn WhatsApp>,
    tasks: TaskTracker,
    stop: CancellationToken,
    _media_dir: tempfile::TempDir,
}

/// Follows tokio's timer, and can be set.
#[derive(Debug)]
pub(super) struct Wall {
    clock: TokioClock,
    set: AtomicI64,
}

impl Wall {
    /// Sets the clock by so many seconds.
    pub(super) fn turn(&self, seconds: i64) {
        self.set.fetch_add(seconds * 1000, Ordering::Relaxed);
    }
}

impl Clock for Wall {
    fn now(&self) -> Timestamp {
        Timestamp::from_millis(self.clock.now().as_millis().saturating_add_signed(self.set.load(Ordering::Relaxed)))
    }
}

pub(super) fn offline() -> LinkState {
    LinkState::Offline { reason: OfflineReason("no route".to_owned()), retry_at: None }
}

/// No pace at all.
pub(super) fn quick() -> Snapshot {
    Snapshot { delay: Duration::ZERO, jitter: Duration::ZERO, reply_delay: Duration::ZERO, ..Snapshot::default() }
}

pub(super) fn draft(person: u8, lane: Lane) -> Draft {
    Draft {
        chat: ChatId::phone(&format!("62812000000{person:02}")),
        text: "Halo".to_owned(),
        content: Content::default(),
        reference_id: None,
        lane,
        source: Source::Api,
        not_before: None,
    }
}

impl World {
    pub(super) async fn new(settings: Snapshot) -> Self {
        Self::with(settings, None, |store| store).await
    }

    /// With a WhatsApp of its own, and a store that `wrap` may have changed.
    pub(super) async fn with(
        settings: Snapshot,
        session: Option<Arc<dyn WhatsApp>>,
        wrap: impl FnOnce(Store) -> Store,
    ) -> Self {
        let (memory, store) = memory();
        let whatsapp = Arc::new(FakeWhatsApp::connected(mpsc::unbounded_channel().0));
        let session = session.unwrap_or_else(|| Arc::clone(&whatsapp) as Arc<dyn WhatsApp>);
        let clock = TokioClock::starting_at(Timestamp::from_millis(1_700_000_000_000));
        let clock = Arc::new(Wall { clock, set: AtomicI64::new(0) });
        let (settings, bus, store) = (watch::Sender::new(settings), Bus::default(), wrap(store));
        let (tasks, stop) = (TaskTracker::new(), CancellationToken::new());
        let (media, media_dir) = media();
        let parts = Parts {
            store: store.clone(),
            session: Arc::clone(&session),
            media: media.clone(),
            settings: settings.subscribe(),
            clock: Arc::clone(&clock) as Arc<dyn Clock>,
            bus: bus.clone(),
        };
        let queue = Queue::start(parts, &tasks, stop.clone()).await.unwrap();
        Self {
            memory,
            store,
            whatsapp,
            media,
            settings,
            clock,
            bus,
            queue,
            session,
            tasks,
            stop,
            _media_dir: media_dir,
        }
    }

    pub(super) async fn stop(&self) {
        self.stop.cancel();
        self.tasks.close();
        self.tasks.wait().await;
    }

    /// A stop and a start on the same rows.
    pub(super) async fn restart(&mut self) {
        self.stop().await;
        (self.tasks, self.stop) = (TaskTracker::new(), CancellationToken::new());
        let parts = Parts {
            store: self.store.clone(),
            session: Arc::clone(&self.session),
            media: self.media.clone(),
            settings: self.settings.subscribe(),
            clock: Arc::clone(&self.clock) as Arc<dyn Clock>,
            bus: self.bus.clone(),
        };
        self.queue = Queue::start(parts, &self.tasks, self.stop.clone()).await.unwrap();
    }

    pub(super) async fn accept(&self, person: u8, lane: Lane) -> MessageId {
        self.accept_draft(draft(person, lane)).await
    }

    pub(super) async fn accept_draft(&self, draft: Draft) -> MessageId {
        let Ok(Accepted::Fresh(placed)) = self.queue.enqueue(vec![draft], None).await else { panic!("refused") };
        placed[0].id
    }

    pub(super) async fn message(&self, id: MessageId) -> Message {
        self.store.outbox.message(id).await.unwrap().unwrap()
    }

    /// Why it waits, and for how long from now.
    pub(super) async fn held(&self, id: MessageId) -> Option<(&'static str, Option<Duration>)> {
        let hold = self.queue.outlooks(vec![id]).await.pop()?.hold?;
        Some((hold.reason, hold.until.map(|until| until.since(self.clock.now()))))
    }

    pub(super) async fn until(&self, id: MessageId, wanted: impl Fn(&Message) -> bool) -> Message {
        let end = Instant::now() + Duration::from_hours(24);
        loop {
            // The store may be down for the moment.
            if let Ok(Some(message)) = self.store.outbox.message(id).await {
                if wanted(&message) {
                    return message;
                }
                assert!(Instant::now() < end, "it never came to that: {message:?} {:?}", message.error);
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    pub(super) async fn until_sent(&self, id: MessageId) -> Message {
        self.until(id, |message| message.status == Status::Sent).await
    }

    /// Waits for so many hand-overs in all.
    pub(super) async fn sent(&self, count: usize) -> Vec<Outgoing> {
        let waited = tokio::time::timeout(Duration::from_hours(24), self.whatsapp.wait_for_sent(count)).await;
        waited.expect("it was never handed over")
    }

    pub(super) async fn ack(&self, id: MessageId) {
        self.queue.on_server_ack(self.message(id).await.whatsapp_id, None);
        self.until_sent(id).await;
    }

    /// Waits for the n-th hand-over, acknowledges everything handed over; when that was.
    pub(super) async fn handed_over(&self, count: usize) -> Instant {
        let sent = self.sent(count).await;
        let at = Instant::now();
        for outgoing in sent {
            self.queue.on_server_ack(outgoing.whatsapp_id, None);
        }
        at
    }
}

/// What a hand-over does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Deed {
    Give(Result<(), SendError>),
    Hang,
    Panic,
}

type Decide<A, D> = Mutex<Box<dyn FnMut(&A) -> D + Send>>;

/// A WhatsApp that asks a closure what to do with each message.
pub(super) struct Wild {
    pub(super) link: watch::Sender<Link>,
    decide: Decide<Outgoing, Deed>,
    /// So many questions about numbers get an answer that says nothing.
    pub(super) unclear: AtomicUsize,
}

impl Wild {
    pub(super) fn new(decide: impl FnMut(&Outgoing) -> Deed + Send + 'static) -> Arc<Self> {
        let link = Link { state: LinkState::Connected, since: Timestamp::from_millis(1), me: None };
        Arc::new(Self {
            link: watch::Sender::new(link),
            decide: Mutex::new(Box::new(decide)),
            unclear: AtomicUsize::new(0),
        })
    }

    /// Another state, since a moment of its own.
    pub(super) fn set(&self, state: LinkState) {
        self.link.send_modify(|link| {
            link.since = link.since.plus(Duration::from_millis(1));
            link.state = state;
        });
    }
}

impl fmt::Debug for Wild {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Wild")
    }
}

#[async_trait]
impl WhatsApp for Wild {
    fn link(&self) -> watch::Receiver<Link> {
        self.link.subscribe()
    }

    fn last_traffic(&self) -> Option<Timestamp> {
        None
    }

    async fn send(&self, outgoing: Outgoing) -> Result<(), SendError> {
        if !self.link.borrow().state.is_connected() {
            return Err(SendError::Offline);
        }
        let deed = (self.decide.lock().unwrap_or_else(std::sync::PoisonError::into_inner))(&outgoing);
        match deed {
            Deed::Give(result) => result,
            Deed::Hang => std::future::pending().await,
            // As a panic, without its noise.
            Deed::Panic => std::panic::resume_unwind(Box::new("a bug in the client library")),
        }
    }

    async fn show(&self, _chat: &ChatId, _state: ChatState) -> Result<(), SendError> {
        // As a panic, without its noise.
        std::panic::resume_unwind(Box::new("a bug in the client library"))
    }

    async fn upload(&self, upload: Upload) -> Result<Uploaded, SendError> {
        Ok(Uploaded(upload.attachment.hash.0.to_vec()))
    }

    async fn download(&self, _raw: Vec<u8>, _into: std::fs::File, _limit: u64) -> Result<(), SendError> {
        Err(SendError::Offline)
    }

    fn file_of(&self, _raw: &[u8]) -> Option<FileTold> {
        None
    }

    async fn is_in_group(&self, _group: &ChatId) -> Option<bool> {
        None
    }

    async fn members(&self, _group: &ChatId) -> Option<Vec<ChatId>> {
        None
    }

    async fn registered(&self, phones: &[String]) -> Result<Vec<bool>, SendError> {
        let unclear = self.unclear.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1));
        Ok(if unclear.is_ok() { Vec::new() } else { vec![true; phones.len()] })
    }

    async fn reach_out_locked_until(&self) -> Option<Timestamp> {
        None
    }

    async fn probe(&self) -> bool {
        true
    }

    async fn pair(&self, _: PairingMethod) -> Result<(), SessionError> {
        Err(SessionError::AlreadyLinked)
    }

    async fn answer_passkey(&self, _: PasskeyAnswer) -> Result<(), SessionError> {
        Err(SessionError::NoPasskeyAsked)
    }

    async fn confirm_passkey(&self) -> Result<(), SessionError> {
        Err(SessionError::NoCodeToConfirm)
    }

    async fn reconnect(&self) -> Result<(), SessionError> {
        Err(SessionError::Offline)
    }

    async fn logout(&self) -> Result<Unlinked, SessionError> {
        Err(SessionError::NotLinked)
    }

    async fn shutdown(&self) {}
}

/// A call of the store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Call {
    Enqueue,
    Change(MessageId, Change),
    Other,
}

/// What goes wrong with it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fault {
    None,
    /// It was not carried out.
    Before,
    /// It was carried out, and the answer is an error all the same.
    After,
    /// The row cannot be read.
    Damaged,
}

/// An outbox that asks a closure what goes wrong with each call.
pub(super) struct Shaky {
    inner: Arc<dyn Outbox>,
    decide: Decide<Call, Fault>,
}

impl Shaky {
    pub(super) fn wrap(store: Store, decide: impl FnMut(&Call) -> Fault + Send + 'static) -> Store {
        let shaky = Self { inner: Arc::clone(&store.outbox), decide: Mutex::new(Box::new(decide)) };
        Store { outbox: Arc::new(shaky), ..store }
    }

    async fn call<T>(
        &self,
        call: Call,
        work: impl Future<Output = Result<T, StoreError>> + Send,
    ) -> Result<T, StoreError> {
        let fault = (self.decide.lock().unwrap())(&call);
        let broken = || Err(StoreError::Unavailable("the disk is gone".to_owned()));
        match fault {
            Fault::None => work.await,
            Fault::Before => broken(),
            Fault::After => {
                work.await?;
                broken()
            }
            Fault::Damaged => Err(StoreError::Damaged("a bad checksum".to_owned())),
        }
    }
}

impl fmt::Debug for Shaky {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Shaky")
    }
}

#[async_trait]
impl Outbox for Shaky {
    fn accepts(&self) -> Result<(), StoreError> {
        self.inner.accepts()
    }

    async fn enqueue(&self, batch: Batch) -> Result<Enqueued, StoreError> {
        self.call(Call::Enqueue, self.inner.enqueue(batch)).await
    }

    async fn known(&self, asked: &Idempotency) -> Result<Option<Enqueued>, StoreError> {
        self.inner.known(asked).await
    }

    async fn change(&self, id: MessageId, change: Change, now: Timestamp) -> Result<Changed, StoreError> {
        self.call(Call::Change(id, change.clone()), self.inner.change(id, change, now)).await
    }

    async fn roster(&self, id: MessageId) -> Result<Option<crate::model::Roster>, StoreError> {
        self.call(Call::Other, self.inner.roster(id)).await
    }

    async fn open(&self) -> Result<Vec<OpenMessage>, StoreError> {
        self.call(Call::Other, self.inner.open()).await
    }

    async fn files_in_use(&self) -> Result<std::collections::HashSet<crate::model::MediaHash>, StoreError> {
        self.call(Call::Other, self.inner.files_in_use()).await
    }

    async fn message(&self, id: MessageId) -> Result<Option<Message>, StoreError> {
        self.call(Call::Other, self.inner.message(id)).await
    }

    async fn by_reference(&self, reference: &str, limit: usize) -> Result<Vec<Message>, StoreError> {
        self.inner.by_reference(reference, limit).await
    }

    async fn count_by_reference(&self, reference: &str) -> Result<u64, StoreError> {
        self.inner.count_by_reference(reference).await
    }

    async fn by_whatsapp_id(&self, id: &WhatsAppId) -> Result<Option<MessageId>, StoreError> {
        self.call(Call::Other, self.inner.by_whatsapp_id(id)).await
    }

    async fn list(&self, filter: ListFilter) -> Result<Vec<Message>, StoreError> {
        self.inner.list(filter).await
    }

    async fn counts(&self) -> Result<Counts, StoreError> {
        self.inner.counts().await
    }

    async fn remove(&self, ids: Vec<MessageId>, status: Status) -> Result<usize, StoreError> {
        self.inner.remove(ids, status).await
    }

    async fn prune(&self, keep: Keep, now: Timestamp) -> Result<usize, StoreError> {
        self.inner.prune(keep, now).await
    }
}
