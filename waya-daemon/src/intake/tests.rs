//! Against a journal in memory and a WhatsApp that does what a test says.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::{PLACE, Parts, start};
use crate::api::testing::{incoming, media, memory};
use crate::clock::TokioClock;
use crate::model::{Incoming, LinkState, OfflineReason, Timestamp};
use crate::session::SendError;
use crate::session::fake::FakeWhatsApp;
use crate::settings::Snapshot;
use crate::store::Store;

struct World {
    store: Store,
    whatsapp: Arc<FakeWhatsApp>,
    settings: watch::Sender<Snapshot>,
    parts: Parts,
    tasks: TaskTracker,
    stop: CancellationToken,
    dir: tempfile::TempDir,
}

fn wanting(kinds: &[&'static str]) -> Snapshot {
    Snapshot { auto_download: kinds.to_vec(), auto_download_size: 100, ..Snapshot::default() }
}

impl World {
    async fn new(settings: Snapshot) -> Self {
        let (_, store) = memory();
        let whatsapp = Arc::new(FakeWhatsApp::connected(mpsc::unbounded_channel().0));
        whatsapp.messages_have_files();
        let settings = watch::Sender::new(settings);
        let (media, dir) = media();
        let parts = Parts {
            store: store.clone(),
            session: Arc::clone(&whatsapp) as _,
            media,
            settings: settings.subscribe(),
            clock: Arc::new(TokioClock::starting_at(Timestamp::from_millis(1_800_000_000_000))),
        };
        let mut world =
            Self { store, whatsapp, settings, parts, tasks: TaskTracker::new(), stop: CancellationToken::new(), dir };
        world.begin().await;
        world
    }

    async fn begin(&mut self) {
        (self.tasks, self.stop) = (TaskTracker::new(), CancellationToken::new());
        start(self.parts.clone(), &self.tasks, self.stop.clone()).await.unwrap();
    }

    async fn end(&self) {
        self.stop.cancel();
        self.tasks.close();
        self.tasks.wait().await;
    }

    async fn comes(&self, kind: &str, content: &str) {
        let message = Incoming { kind: kind.to_owned(), raw: content.into(), ..incoming(content, "") };
        self.store.journal.record_incoming(vec![message]).await.unwrap();
    }

    /// The files there, by content.
    fn files(&self) -> Vec<String> {
        let files = std::fs::read_dir(self.dir.path().join("media")).unwrap().map(|file| file.unwrap().path());
        let mut files: Vec<_> = files.filter_map(|path| std::fs::read_to_string(path).ok()).collect();
        files.sort();
        files
    }

    async fn until(&self, files: &[&str]) {
        let waited = tokio::time::timeout(Duration::from_hours(5), async {
            while self.files() != files {
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        });
        waited.await.unwrap_or_else(|_| panic!("{:?} instead of {files:?}", self.files()));
    }

    async fn place(&self) -> Option<String> {
        let place = self.store.values.get(PLACE.0, PLACE.1).await.unwrap();
        place.map(|place| String::from_utf8(place).unwrap())
    }
}

#[tokio::test(start_paused = true)]
async fn what_is_wanted_comes_and_nothing_else() {
    let world = World::new(wanting(&["image"])).await;
    world.comes("image", "a picture").await;
    world.comes("video", "a film").await;
    world.comes("image", &"too large".repeat(20)).await;
    let own = Incoming { kind: "image".to_owned(), raw: b"own".to_vec(), from_me: true, ..incoming("own", "") };
    world.store.journal.record_incoming(vec![own]).await.unwrap();
    world.comes("image", "another picture").await;
    world.until(&["a picture", "another picture"]).await;
    world.end().await;
    assert_eq!(world.place().await.as_deref(), Some("c5"));
    assert_eq!(world.whatsapp.downloads(), 2);
}

#[tokio::test(start_paused = true)]
async fn what_came_while_it_was_off_is_left_alone() {
    let world = World::new(Snapshot::default()).await;
    world.comes("image", "before").await;
    assert_eq!(world.place().await, None);
    world.settings.send_replace(wanting(&["image"]));
    while world.place().await.is_none() {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    world.comes("image", "after").await;
    world.until(&["after"]).await;
    world.settings.send_replace(Snapshot::default());
    while world.place().await.is_some() {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    world.comes("image", "off again").await;
    tokio::time::sleep(Duration::from_hours(1)).await;
    assert_eq!(world.files(), ["after"]);
    world.end().await;
}

#[tokio::test(start_paused = true)]
async fn what_fails_is_tried_again_and_holds_nothing_else() {
    let world = World::new(wanting(&["image", "document"])).await;
    let busy = || SendError::Transient("busy".to_owned());
    world.whatsapp.next_downloads_fail([busy(), SendError::Permanent("gone".to_owned())]);
    for content in ["first", "second", "third"] {
        world.comes("document", content).await;
        // One after the other, so that the script meets the right one.
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    world.until(&["third"]).await;
    assert_eq!(world.place().await.as_deref(), Some("0"), "the first is not done");
    world.until(&["first", "third"]).await;
    world.end().await;
    assert_eq!(world.place().await.as_deref(), Some("c3"));
}

#[tokio::test(start_paused = true)]
async fn offline_and_over_a_restart_what_waits_is_kept() {
    let mut world = World::new(wanting(&["image"])).await;
    world.whatsapp.set_link(LinkState::Offline { reason: OfflineReason("no route".to_owned()), retry_at: None });
    world.comes("image", "a picture").await;
    tokio::time::sleep(Duration::from_hours(24)).await;
    world.end().await;
    assert_eq!((world.files().len(), world.whatsapp.downloads()), (0, 0));
    world.begin().await;
    world.whatsapp.set_link(LinkState::Connected);
    world.until(&["a picture"]).await;
    // Once more from the same place: it is there, and is not asked for again.
    world.end().await;
    world.store.values.put(PLACE.0, PLACE.1, Some(b"0".to_vec())).await.unwrap();
    world.begin().await;
    world.comes("image", "the next").await;
    world.until(&["a picture", "the next"]).await;
    assert_eq!(world.whatsapp.downloads(), 2);
    world.end().await;
}

/// On a thread of its own: who looks again and again lets no time pass.
#[test]
fn what_is_due_while_offline_is_waited_for_at_rest() {
    let (done, ended) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap();
        runtime.block_on(async {
            let world = World::new(wanting(&["image"])).await;
            world.whatsapp.next_downloads_fail([SendError::Transient("busy".to_owned())]);
            world.comes("image", "a picture").await;
            while world.whatsapp.downloads() == 0 {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
            let reason = OfflineReason("no route".to_owned());
            world.whatsapp.set_link(LinkState::Offline { reason, retry_at: None });
            tokio::time::sleep(Duration::from_hours(1)).await;
            world.whatsapp.set_link(LinkState::Connected);
            world.until(&["a picture"]).await;
            world.end().await;
        });
        done.send(()).unwrap();
    });
    ended.recv_timeout(Duration::from_secs(20)).expect("it does not rest, or does not come back");
}

#[tokio::test(start_paused = true)]
async fn what_is_too_old_is_not_asked_for() {
    let world = World::new(wanting(&["image"])).await;
    world.whatsapp.set_link(LinkState::Offline { reason: OfflineReason("no route".to_owned()), retry_at: None });
    world.comes("image", "a picture").await;
    tokio::time::sleep(Duration::from_hours(40 * 24)).await;
    world.whatsapp.set_link(LinkState::Connected);
    while world.place().await.as_deref() != Some("c1") {
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert_eq!(world.whatsapp.downloads(), 0);
    world.end().await;
}
