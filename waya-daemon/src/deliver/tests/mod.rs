//! Webhooks as their receivers see them: real ones, on loopback, and the real store.

mod flow;
mod receivers;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use self::receivers::Receiver;
use super::{Deliver, HttpPoster, Patience, Render, Setup};
use crate::clock::SystemClock;
use crate::model::{
    Ack, ChatId, Cursor, Event, EventBody, LinkState, MessageId, Secret, Status, StatusChanged, Timestamp, Topic,
    Topics, Webhook, WebhookId,
};
use crate::net::{Fetcher, Policy};
use crate::session::{Link, Me};
use crate::store::sled::{Handle, OpenOptions, Opened, open};
use crate::store::webhooks::Place;
use crate::store::{Store, StoreError};

const SECRET: &str = "a secret of the test";
const NOW: Timestamp = Timestamp::from_millis(1_800_000_000_000);

/// Quick, and as patient as it takes.
const QUICK: Patience = Patience {
    first: Duration::from_millis(10),
    longest: Duration::from_millis(50),
    give_up_after: Duration::from_hours(24),
    first_probe: Duration::from_millis(10),
    longest_probe: Duration::from_millis(50),
};

/// Tells where in the journal an event stands.
#[derive(Debug)]
struct Plain;

#[async_trait]
impl Render for Plain {
    async fn payload(&self, topic: Topic, event: Event) -> Result<Value, StoreError> {
        let subject = match &event.body {
            EventBody::Message(incoming) => incoming.text.clone(),
            EventBody::Status(changed) => changed.id.to_string(),
            EventBody::Link(state) => state.name().to_owned(),
        };
        Ok(json!({"subject": subject, "topic": topic.as_str(), "n": event.cursor.0}))
    }
}

/// A store and the deliveries on it.
struct World {
    store: Store,
    deliver: Deliver,
    _handle: Handle,
    _dir: TempDir,
    patience: Patience,
    link: watch::Sender<Link>,
    tasks: TaskTracker,
    stop: CancellationToken,
}

impl World {
    async fn new() -> Self {
        Self::with(QUICK, |store| store).await
    }

    async fn with(patience: Patience, wrap: impl FnOnce(Store) -> Store) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let options = OpenOptions { free_space_watermark: 0, ..OpenOptions::new(dir.path().join("store")) };
        let Opened { store, handle } = open(options).unwrap();
        let store = wrap(store);
        let me = Me { phone: "6281200000001".to_owned(), lid: None, push_name: "Toko".to_owned() };
        let link = watch::Sender::new(Link { state: LinkState::Connected, since: NOW, me: Some(me) });
        let (tasks, stop) = (TaskTracker::new(), CancellationToken::new());
        let deliver = start(&store, &link, patience, &tasks, &stop).await;
        Self { store, deliver, _handle: handle, _dir: dir, patience, link, tasks, stop }
    }

    async fn stop(&self) {
        self.stop.cancel();
        self.tasks.close();
        self.tasks.wait().await;
    }

    /// A stop and a start on the same rows.
    async fn restart(&mut self) {
        self.stop().await;
        (self.tasks, self.stop) = (TaskTracker::new(), CancellationToken::new());
        self.deliver = start(&self.store, &self.link, self.patience, &self.tasks, &self.stop).await;
    }

    async fn add(&self, receiver: &Receiver, topics: Topics) -> WebhookId {
        let (id, _) = Deliver::fresh();
        let (url, secret) = (receiver.url(), Secret(SECRET.to_owned()));
        let webhook = Webhook { id: id.clone(), url, topics, secret, enabled: true, created_at: NOW };
        self.deliver.add(webhook).await.unwrap();
        id
    }

    async fn set_enabled(&self, id: &WebhookId, enabled: bool) {
        let webhook = self.deliver.get(id).await.unwrap().webhook;
        self.deliver.change(Webhook { enabled, ..webhook }, false).await.unwrap();
    }

    async fn place(&self, id: &WebhookId) -> Place {
        self.deliver.get(id).await.unwrap().place
    }

    /// Status changes of a message, as the store would write them.
    async fn becomes(&self, message: u8, acks: &[Ack]) {
        let mut before = Ack::None;
        for ack in acks {
            let changed = StatusChanged {
                id: message_id(message),
                reference_id: None,
                chat: ChatId::phone("6281200000002"),
                status: Status::Sent,
                ack: *ack,
                error: None,
                before: Some(before),
            };
            before = *ack;
            self.append(EventBody::Status(changed)).await;
        }
    }

    async fn append(&self, body: EventBody) -> Cursor {
        use crate::clock::Clock as _;
        self.store.journal.append(body, SystemClock.now()).await.unwrap()
    }
}

async fn start(
    store: &Store,
    link: &watch::Sender<Link>,
    patience: Patience,
    tasks: &TaskTracker,
    stop: &CancellationToken,
) -> Deliver {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let setup = Setup {
        store: store.clone(),
        clock: Arc::new(SystemClock),
        poster: Arc::new(HttpPoster(Fetcher::new(watch::channel(Policy::default()).1, None))),
        render: Arc::new(Plain),
        link: link.subscribe(),
        session_name: "default".to_owned(),
        patience,
    };
    Deliver::start(setup, tasks, stop.clone()).await.unwrap()
}

fn message_id(number: u8) -> MessageId {
    MessageId(uuid::Uuid::from_u128(u128::from(number)))
}

fn only(topics: &[Topic]) -> Topics {
    Topics::Only(topics.iter().copied().collect::<BTreeSet<_>>())
}

/// Waits until a condition holds, and fails after a long while.
async fn until(what: &str, mut condition: impl AsyncFnMut() -> bool) {
    let waited = async {
        while !condition().await {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), waited).await.unwrap_or_else(|_| panic!("never: {what}"));
}
