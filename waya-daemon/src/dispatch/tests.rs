//! What the session tells, passed on in front of a store that is slow or gone.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::{JournalInbox, run};
use crate::api::testing::{Memory, incoming, media, memory};
use crate::bus::{Bus, BusEvent};
use crate::clock::{Clock, TokioClock};
use crate::model::{
    ChatId, Content, Cursor, Event, EventBody, Incoming, Lane, LinkState, ListedChat, OfflineReason, PushName, Source,
    Status, Timestamp, WhatsAppId,
};
use crate::queue::{self, Accepted, Draft, Queue};
use crate::session::fake::FakeWhatsApp;
use crate::session::{History, Inbox as _, Person, WaEvent, WhatsApp};
use crate::settings::Snapshot;
use crate::store::{Journal, Keep, Page, Store, StoreError};

/// A journal that takes nothing and never says so.
#[derive(Debug)]
struct Stuck;

#[async_trait::async_trait]
impl Journal for Stuck {
    async fn record_incoming(&self, _: Vec<Incoming>) -> Result<Vec<bool>, StoreError> {
        std::future::pending().await
    }
    async fn append(&self, _: EventBody, _: Timestamp) -> Result<Cursor, StoreError> {
        std::future::pending().await
    }
    async fn after(&self, _: Cursor, _: usize) -> Result<Page, StoreError> {
        std::future::pending().await
    }
    async fn incoming(&self, _: &str) -> Result<Option<Incoming>, StoreError> {
        std::future::pending().await
    }
    fn newest(&self) -> watch::Receiver<Cursor> {
        watch::channel(Cursor(0)).1
    }
    async fn prune_events(&self, _: Keep, _: Timestamp) -> Result<usize, StoreError> {
        Ok(0)
    }
}

struct World {
    memory: Arc<Memory>,
    store: Store,
    whatsapp: Arc<FakeWhatsApp>,
    queue: Queue,
    bus: Bus,
    running: JoinHandle<()>,
    last_call: CancellationToken,
    _stop: tokio_util::sync::DropGuard,
    _media_dir: tempfile::TempDir,
}

impl World {
    async fn new(wrap: impl FnOnce(Store) -> Store) -> Self {
        let (memory, store) = memory();
        let store = wrap(store);
        let (tell, told) = mpsc::unbounded_channel();
        let whatsapp = Arc::new(FakeWhatsApp::connected(tell));
        let session = Arc::clone(&whatsapp) as Arc<dyn WhatsApp>;
        let clock: Arc<dyn Clock> = Arc::new(TokioClock::starting_at(Timestamp::from_millis(1_700_000_000_000)));
        let (settings, bus, stop) = (watch::channel(Snapshot::default()).1, Bus::default(), CancellationToken::new());
        let tasks = TaskTracker::new();
        let (media, media_dir) = media();
        let parts = queue::Parts {
            store: store.clone(),
            session,
            media,
            settings,
            clock: Arc::clone(&clock),
            bus: bus.clone(),
        };
        let queue = Queue::start(parts, &tasks, stop.clone()).await.unwrap();
        let last_call = CancellationToken::new();
        let running = tokio::spawn(run(told, queue.clone(), store.clone(), bus.clone(), clock, last_call.clone()));
        Self {
            memory,
            store,
            whatsapp,
            queue,
            bus,
            running,
            last_call,
            _stop: stop.drop_guard(),
            _media_dir: media_dir,
        }
    }

    async fn events(&self, count: usize) -> Vec<Event> {
        let mut newest = self.store.journal.newest();
        newest.wait_for(|newest| newest.0 >= count as u64).await.unwrap();
        self.store.journal.after(Cursor(0), 100).await.unwrap().events
    }
}

fn offline() -> LinkState {
    LinkState::Offline { reason: OfflineReason("no route".to_owned()), retry_at: None }
}

#[tokio::test(start_paused = true)]
async fn a_journal_that_hangs_keeps_no_ack_waiting() {
    let world = World::new(|store| Store { journal: Arc::new(Stuck), ..store }).await;
    world.whatsapp.tell(WaEvent::Link(LinkState::Connected));
    let draft = Draft {
        chat: ChatId::phone("6281200000002"),
        text: "Halo".to_owned(),
        content: Content::default(),
        reference_id: None,
        lane: Lane::Normal,
        source: Source::Cli,
        not_before: None,
    };
    let Ok(Accepted::Fresh(placed)) = world.queue.enqueue(vec![draft], None).await else { panic!("refused") };
    let id = world.whatsapp.wait_for_sent(1).await[0].whatsapp_id.clone();
    let nobody = WhatsAppId("3EB0".to_owned());
    world.whatsapp.tell(WaEvent::ServerAck { id: nobody, refused: None });
    world.whatsapp.tell(WaEvent::ServerAck { id, refused: None });
    let sent = async {
        while world.store.outbox.message(placed[0].id).await.unwrap().unwrap().status != Status::Sent {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), sent).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn link_states_are_journalled_in_order_once_the_store_can_and_without_codes() {
    let world = World::new(|store| store).await;
    let mut heard = world.bus.subscribe();
    world.memory.set_down(true);
    let code = |qr: &str| LinkState::Pairing { qr: Some(qr.to_owned()), code: None, expires_at: None };
    for state in [offline(), code("2@first"), code("2@second"), LinkState::Connected, offline()] {
        world.whatsapp.set_link(state);
    }
    tokio::time::sleep(Duration::from_mins(5)).await;
    world.memory.set_down(false);
    let bodies: Vec<_> = world.events(4).await.into_iter().map(|event| event.body).collect();
    let nothing = LinkState::Pairing { qr: None, code: None, expires_at: None };
    assert_eq!(bodies, [offline(), nothing, LinkState::Connected, offline()].map(EventBody::Link));
    // Views saw every code, at once.
    let mut codes = 0;
    while let Ok(event) = heard.try_recv() {
        codes += usize::from(matches!(event, BusEvent::Link(LinkState::Pairing { qr: Some(_), .. })));
    }
    assert_eq!(codes, 2);
}

#[tokio::test(start_paused = true)]
async fn what_is_learnt_of_people_reaches_the_address_book() {
    let world = World::new(|store| store).await;
    let person = |name: &str| {
        let name = PushName { text: name.to_owned(), at: Timestamp::from_millis(1) };
        WaEvent::Person(Person {
            phone: Some("6281200000002".to_owned()),
            lid: Some("991".to_owned()),
            push_name: Some(name),
        })
    };
    // The session says it only once.
    world.memory.set_down(true);
    world.whatsapp.tell(person("Budi"));
    tokio::time::sleep(Duration::from_mins(5)).await;
    world.memory.set_down(false);
    let known = async {
        loop {
            if let Some(contact) = world.store.contacts.by_lid("991").await.unwrap() {
                return contact;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    let contact = tokio::time::timeout(Duration::from_secs(10), known).await.unwrap();
    assert_eq!(contact.phone.as_deref(), Some("6281200000002"));
    assert_eq!(contact.push_name.map(|name| name.text).as_deref(), Some("Budi"));
}

#[tokio::test(start_paused = true)]
async fn a_history_is_written_whole_and_gone_when_the_account_is() {
    let world = World::new(|store| store).await;
    let person = |n: usize| Person { phone: Some(format!("62812{n:05}")), lid: Some(n.to_string()), push_name: None };
    let chat = |n: usize| ListedChat::new(ChatId::phone(&format!("62812{n:05}")));
    let history = History { people: (0..2_500).map(person).collect(), chats: (0..1_500).map(chat).collect() };
    let counts = async || (world.store.contacts.count().await.unwrap(), world.store.chats.count().await.unwrap());
    let until = async |wanted| {
        let reached = async {
            while counts().await != wanted {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        tokio::time::timeout(Duration::from_mins(10), reached).await.expect("the counts that are wanted");
    };
    world.memory.set_down(true);
    world.whatsapp.tell(WaEvent::History(history.clone()));
    tokio::time::sleep(Duration::from_mins(5)).await;
    world.memory.set_down(false);
    until((2_500, 1_500)).await;

    // What was told before goes with the rest, what is told after belongs to the next account.
    world.whatsapp.tell(WaEvent::Person(person(3_000)));
    world.whatsapp.tell(WaEvent::Forgotten);
    world.whatsapp.tell(WaEvent::Person(person(3_001)));
    until((1, 0)).await;
    assert!(world.store.contacts.by_lid("3001").await.unwrap().is_some());
}

#[tokio::test(start_paused = true)]
async fn the_queue_hears_who_is_one_person_before_anybody_else_can_know() {
    let world = World::new(|store| store).await;
    world.whatsapp.tell(WaEvent::Link(LinkState::Connected));
    let draft = |chat| Draft {
        chat,
        text: "Halo".to_owned(),
        content: Content::default(),
        reference_id: None,
        lane: Lane::High,
        source: Source::Cli,
        not_before: None,
    };
    let enqueue = async |chat| {
        let Ok(Accepted::Fresh(placed)) = world.queue.enqueue(vec![draft(chat)], None).await else { panic!("refused") };
        placed[0].id
    };
    enqueue(ChatId::lid("991")).await;
    world.whatsapp.wait_for_sent(1).await;
    let person = Person { phone: Some("6281200000002".to_owned()), lid: Some("991".to_owned()), push_name: None };
    // A history tells of pairs as a message does.
    world.whatsapp.tell(WaEvent::History(History { people: vec![person], chats: Vec::new() }));
    while world.store.contacts.by_lid("991").await.unwrap().is_none() {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    // The one by LID is on its way still.
    let second = enqueue(ChatId::phone("6281200000002")).await;
    tokio::time::sleep(Duration::from_secs(10)).await;
    let second = world.store.outbox.message(second).await.unwrap().unwrap();
    assert_eq!((world.whatsapp.sent().len(), second.status), (1, Status::Pending));
}

#[tokio::test]
async fn incoming_messages_are_acknowledged_only_when_the_journal_has_them() {
    let (memory, store) = memory();
    let world = World::new(|_| store.clone()).await;
    let (settings, queue) = (watch::channel(Snapshot::default()).1, watch::channel(Some(world.queue.clone())).1);
    let inbox = JournalInbox::new(Arc::clone(&store.journal), settings, queue);
    memory.set_down(true);
    inbox.commit(vec![incoming("A", "Halo")]).await.unwrap_err();
    memory.set_down(false);
    inbox.commit(vec![incoming("A", "Halo")]).await.unwrap();
    assert_eq!(store.journal.after(Cursor(0), 10).await.unwrap().events.len(), 1);
}

#[tokio::test(start_paused = true)]
async fn at_the_end_the_last_words_are_written_though_the_session_could_go_on() {
    let world = World::new(|store| store).await;
    world.whatsapp.set_link(LinkState::Connected);
    world.whatsapp.set_link(offline());
    world.last_call.cancel();
    world.running.await.unwrap();
    let events = world.store.journal.after(Cursor(0), 100).await.unwrap().events;
    let bodies: Vec<_> = events.into_iter().map(|event| event.body).collect();
    assert_eq!(bodies, [LinkState::Connected, offline()].map(EventBody::Link));
}

#[tokio::test]
async fn a_word_to_stop_is_on_disk_before_it_is_acknowledged_and_what_waits_is_given_up() {
    let world = World::new(|store| store).await;
    world.whatsapp.set_link(offline());
    let settings = Snapshot { opt_out_words: vec!["stop".to_owned()], ..Snapshot::default() };
    let (settings, queue) = (watch::channel(settings).1, watch::channel(Some(world.queue.clone())).1);
    let inbox = JournalInbox::new(Arc::clone(&world.store.journal), settings, queue);
    let budi = ChatId::phone("6281200000002");
    let draft = |lane| Draft {
        chat: budi.clone(),
        text: "Halo".to_owned(),
        content: Content::default(),
        reference_id: None,
        lane,
        source: Source::Cli,
        not_before: None,
    };
    let drafts = vec![draft(Lane::Normal), draft(Lane::Reply)];
    let Ok(Accepted::Fresh(placed)) = world.queue.enqueue(drafts, None).await else { panic!("refused") };
    let said = Incoming { chat: budi.clone(), sender: budi.clone(), ..incoming("A", " Stop ") };
    world.memory.set_down(true);
    inbox.commit(vec![said.clone()]).await.unwrap_err();
    world.memory.set_down(false);
    assert!(!world.queue.opt_outs().has(&budi).await.unwrap());
    inbox.commit(vec![said]).await.unwrap();
    assert!(world.queue.opt_outs().has(&budi).await.unwrap());
    let failed = async {
        loop {
            let message = world.store.outbox.message(placed[0].id).await.unwrap().unwrap();
            if message.status == Status::Failed {
                return message;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    let failed = tokio::time::timeout(Duration::from_secs(30), failed).await.unwrap();
    assert!(failed.error.unwrap().contains("recipient_opted_out"));
    let reply = world.store.outbox.message(placed[1].id).await.unwrap().unwrap();
    assert_eq!(reply.status, Status::Pending, "answers go on");
}
