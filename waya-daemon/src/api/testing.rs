//! A whole `Api` on a store in memory and a scripted WhatsApp, for the tests of the doors.

#![allow(clippy::unwrap_used)]

mod memory;

use std::sync::Arc;

use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

pub use memory::{Memory, memory};

use super::{Api, Content, DaemonInfo, Parts, Payloads, SendRequest, ensure_key};
use crate::bus::Bus;
use crate::clock::{Clock, SystemClock};
use crate::deliver::{self, Deliver, HttpPoster, Patience};
use crate::media::{Limits, Media};
use crate::model::{Change, ChatId, Incoming, Kind, LinkState, Message, MessageId, OfflineReason, Timestamp};
use crate::net::testing::Names;
use crate::net::{Fetcher, Policy};
use crate::queue::{self, Queue};
use crate::requests::RequestLog;
use crate::session::fake::FakeWhatsApp;
use crate::settings::Settings;
use crate::store::{Changed, Store};

/// An `Api` and all it stands on.
pub struct World {
    pub api: Api,
    pub memory: Arc<Memory>,
    pub store: Store,
    pub whatsapp: Arc<FakeWhatsApp>,
    pub settings: Settings,
    pub bus: Bus,
    pub clock: Arc<dyn Clock>,
    pub shutdown: CancellationToken,
    pub media_limits: watch::Sender<Limits>,
    /// Where files may be fetched from.
    pub policy: watch::Sender<Policy>,
    /// Where the hosts of files are.
    pub names: Arc<Names>,
    pub data_dir: tempfile::TempDir,
}

/// Reaches nothing but this machine's own addresses, and those only where a test allows them.
fn offline_fetcher() -> Fetcher {
    Fetcher::new(watch::channel(Policy::default()).1, None)
}

/// The own files of a test, in a folder that goes with it.
pub fn media() -> (Media, tempfile::TempDir) {
    let dir = tempfile::tempdir().unwrap();
    (
        Media::open(
            &dir.path().join("media"),
            watch::channel(Limits::default()).1,
            offline_fetcher(),
            watch::channel(false).1,
        )
        .unwrap(),
        dir,
    )
}

impl World {
    /// Linked, but offline, so that nothing leaves by itself.
    pub async fn new() -> Self {
        let (memory, store) = memory();
        let clock: Arc<dyn Clock> = Arc::new(SystemClock);
        let bus = Bus::default();
        let data_dir = tempfile::tempdir().unwrap();
        let settings = Settings::load(store.values.clone(), Vec::new()).await.unwrap();
        let keys = ensure_key(store.values.clone(), data_dir.path()).await.unwrap();
        let (events, _) = mpsc::unbounded_channel();
        let whatsapp = Arc::new(FakeWhatsApp::connected(events));
        whatsapp.set_link(LinkState::Offline { reason: OfflineReason("no network".to_owned()), retry_at: None });
        let shutdown = CancellationToken::new();
        let tasks = TaskTracker::new();
        let media_limits = watch::Sender::new(Limits::default());
        let (policy, names) = (watch::Sender::new(Policy::default()), Names::new(&[]));
        let fetcher = Fetcher::new(policy.subscribe(), None).resolving_by(names.clone());
        let dir = data_dir.path().join("media");
        let media = Media::open(&dir, media_limits.subscribe(), fetcher, watch::channel(false).1).unwrap();
        let parts = queue::Parts {
            store: store.clone(),
            session: whatsapp.clone(),
            media: media.clone(),
            settings: settings.watch(),
            clock: clock.clone(),
            bus: bus.clone(),
        };
        let queue = Queue::start(parts, &tasks, shutdown.clone()).await.unwrap();
        let deliver = deliver::Setup {
            store: store.clone(),
            clock: clock.clone(),
            poster: Arc::new(HttpPoster(Fetcher::new(watch::channel(Policy::default()).1, None))),
            render: Arc::new(Payloads(store.clone())),
            link: crate::session::WhatsApp::link(&*whatsapp),
            session_name: "default".to_owned(),
            patience: Patience::default(),
        };
        let deliver = Deliver::start(deliver, &tasks, shutdown.clone()).await.unwrap();
        let api = Api::new(Parts {
            queue,
            deliver,
            store: store.clone(),
            media: media.clone(),
            whatsapp: whatsapp.clone(),
            settings: settings.clone(),
            keys,
            clock: clock.clone(),
            bus: bus.clone(),
            requests: RequestLog::start(data_dir.path()).unwrap(),
            info: DaemonInfo {
                version: "0.1.0",
                profile: "default".to_owned(),
                started_at: Timestamp::from_millis(1_800_000_000_000),
                http: Some("127.0.0.1:7200".to_owned()),
                kind: Kind::Sandbox,
            },
            shutdown: shutdown.clone(),
        });
        Self { api, memory, store, whatsapp, settings, bus, clock, shutdown, media_limits, policy, names, data_dir }
    }

    /// The API key as it was written down.
    pub fn key(&self) -> String {
        std::fs::read_to_string(self.data_dir.path().join("api-key")).unwrap().trim_end().to_owned()
    }

    /// Has a text accepted; its queue id.
    pub async fn accept(&self, number: &str, text: &str) -> MessageId {
        let content = Content::One { number: number.to_owned(), message: text.into() };
        let request = SendRequest {
            content,
            reference_id: None,
            priority: super::Priority::Normal,
            scheduled_at: None,
            idempotency: None,
            dry_run: false,
            ..SendRequest::default()
        };
        self.api.send(request, crate::model::Source::Api).await.unwrap().id.unwrap()
    }

    /// Carries a change out and tells it, as the worker would.
    pub async fn change(&self, id: MessageId, change: Change) -> Message {
        let Ok(Changed::Yes(message)) = self.store.outbox.change(id, change, self.clock.now()).await else {
            panic!("the change did not fit");
        };
        self.bus.publish(crate::bus::BusEvent::Message(message.clone()));
        *message
    }
}

/// A message from somebody.
pub fn incoming(id: &str, text: &str) -> Incoming {
    Incoming {
        id: id.to_owned(),
        chat: ChatId::group("120363"),
        chat_lid: None,
        sender: ChatId::phone("6281200000002"),
        sender_lid: Some("991".to_owned()),
        from_me: false,
        push_name: Some("Budi".to_owned()),
        kind: "chat".to_owned(),
        text: text.to_owned(),
        timestamp: Timestamp::from_millis(1_800_000_000_000),
        received_at: Timestamp::from_millis(1_800_000_000_500),
        raw: Vec::new(),
    }
}
