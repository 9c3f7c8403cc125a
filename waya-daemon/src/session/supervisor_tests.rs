//! What the supervisor does with what the machine says, with a driver that a test plays.
#![allow(clippy::unwrap_used)]

use std::path::Path;
use std::sync::Mutex;

use tempfile::TempDir;
use tokio::sync::Notify;

use super::*;
use crate::clock::TokioClock;

/// Each connection waits for the test to end it.
#[derive(Default)]
struct Played {
    runs: Mutex<Vec<Task>>,
    started: Notify,
    ends: tokio::sync::Mutex<Option<mpsc::UnboundedReceiver<Ended>>>,
    linked: Mutex<bool>,
    /// Another account than the usual one.
    phone: Mutex<Option<&'static str>>,
    log: Mutex<Vec<&'static str>>,
    /// Why the keys cannot be deleted next time.
    undeletable: Mutex<Option<SessionError>>,
    closed: Notify,
}

#[async_trait]
impl Driver for Played {
    fn me(&self) -> Option<Me> {
        let linked = *self.linked.lock().unwrap();
        let phone = self.phone.lock().unwrap().unwrap_or("6281").to_owned();
        linked.then(|| Me { phone, lid: None, push_name: String::new() })
    }

    async fn run(&self, task: Task) -> Ended {
        self.runs.lock().unwrap().push(task);
        self.started.notify_one();
        let mut ends = self.ends.lock().await;
        let ends = ends.as_mut().unwrap();
        tokio::select! {
            ended = ends.recv() => ended.unwrap_or_default(),
            () = self.closed.notified() => Ended::default(),
        }
    }

    async fn interrupt(&self) {
        self.log.lock().unwrap().push("interrupt");
        self.closed.notify_waiters();
    }

    async fn close(&self) {
        self.log.lock().unwrap().push("close");
        self.closed.notify_waiters();
    }

    async fn sign_off(&self) -> Unlinked {
        self.log.lock().unwrap().push("sign off");
        Unlinked::Fully
    }

    async fn discard(&self, how: Discard) -> Result<(), SessionError> {
        self.log.lock().unwrap().push(if how == Discard::Delete { "delete" } else { "set aside" });
        *self.linked.lock().unwrap() = false;
        self.undeletable.lock().unwrap().take().map_or(Ok(()), Err)
    }
}

struct World {
    driver: Arc<Played>,
    handle: Handle,
    inputs: mpsc::UnboundedSender<Input>,
    end: mpsc::UnboundedSender<Ended>,
    events: mpsc::UnboundedReceiver<WaEvent>,
    clock: Arc<TokioClock>,
    folder: TempDir,
}

impl World {
    fn new(linked: bool) -> Self {
        let clock = Arc::new(TokioClock::starting_at(Timestamp::from_millis(1_000_000)));
        Self::on(tempfile::tempdir().unwrap(), clock, linked, None)
    }

    /// As after the process ended without a word, by default with the same account.
    fn after_a_crash(self, linked: bool, phone: Option<&'static str>) -> Self {
        Self::on(self.folder, self.clock, linked, phone)
    }

    fn on(folder: TempDir, clock: Arc<TokioClock>, linked: bool, phone: Option<&'static str>) -> Self {
        let (end, ends) = mpsc::unbounded_channel();
        let driver = Arc::new(Played::default());
        *driver.ends.try_lock().unwrap() = Some(ends);
        *driver.linked.lock().unwrap() = linked;
        let (inputs, told) = mpsc::unbounded_channel();
        let (sender, events) = mpsc::unbounded_channel();
        *driver.phone.lock().unwrap() = phone;
        let handle = spawn(Parts {
            driver: Arc::clone(&driver),
            inputs: told,
            events: sender,
            clock: Arc::clone(&clock) as _,
            resting: RestingFile::new(folder.path()),
        });
        Self { driver, handle, inputs, end, events, clock, folder }
    }

    fn shown(&self) -> Link {
        self.handle.link().borrow().clone()
    }

    fn saved(&self) -> Option<LinkState> {
        RestingFile::new(self.folder.path()).load().map(|record| record.link)
    }

    /// Brings a connected account into the state that `input` leads to.
    async fn resting(input: Input, name: &str) -> Self {
        let world = Self::new(true);
        world.driver.started.notified().await;
        world.inputs.send(Input::LoggedIn).unwrap();
        world.inputs.send(input).unwrap();
        world.until(name).await;
        world
    }

    async fn until(&self, name: &str) -> LinkState {
        let mut link = self.handle.link();
        let waiting = link.wait_for(|link| link.state.name() == name);
        let found = tokio::time::timeout(Duration::from_hours(1), waiting).await;
        found.unwrap_or_else(|_| panic!("never {name}: {:?}", self.handle.link().borrow().state)).unwrap().state.clone()
    }

    fn end(&self, trouble: &str) {
        self.end.send(Ended { trouble: Some(trouble.to_owned()), throttled: false }).unwrap();
    }

    fn log(&self) -> Vec<&'static str> {
        self.driver.log.lock().unwrap().clone()
    }

    fn runs(&self) -> usize {
        self.driver.runs.lock().unwrap().len()
    }
}

#[tokio::test(start_paused = true)]
async fn a_lost_connection_is_made_again_after_the_wait_it_shows() {
    let world = World::new(true);
    world.driver.started.notified().await;
    world.inputs.send(Input::LoggedIn).unwrap();
    world.until("connected").await;

    world.end("the cable is out");
    let LinkState::Offline { reason, retry_at: Some(retry_at) } = world.until("offline").await else { panic!() };
    assert_eq!(reason.0, "the cable is out");
    world.driver.started.notified().await;
    assert!(world.clock.now() >= retry_at);
    assert_eq!(world.runs(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_replaced_session_rests_until_it_is_asked_for() {
    let world = World::new(true);
    world.driver.started.notified().await;
    world.inputs.send(Input::LoggedIn).unwrap();
    world.inputs.send(Input::Replaced).unwrap();
    world.until("replaced").await;
    // A whole day of paused time.
    tokio::time::sleep(Duration::from_hours(24)).await;
    assert_eq!(world.runs(), 1);

    world.handle.reconnect().await.unwrap();
    world.driver.started.notified().await;
    assert_eq!(world.runs(), 2);
}

#[tokio::test(start_paused = true)]
async fn pairing_goes_through_the_restart_that_follows_it() {
    let mut world = World::new(false);
    assert_eq!(world.handle.reconnect().await, Err(SessionError::NotLinked));
    world.handle.pair(PairingMethod::Qr).await.unwrap();
    world.driver.started.notified().await;
    *world.driver.linked.lock().unwrap() = true;
    world.inputs.send(Input::Paired).unwrap();
    world.end.send(Ended::default()).unwrap();
    world.driver.started.notified().await;
    assert_eq!(*world.driver.runs.lock().unwrap(), [Task::Pair(PairingMethod::Qr), Task::LogIn]);

    world.inputs.send(Input::LoggedIn).unwrap();
    world.until("connected").await;
    assert!(world.handle.link().borrow().me.is_some());
    assert_eq!(world.handle.pair(PairingMethod::Qr).await, Err(SessionError::AlreadyLinked));
    let mut told = Vec::new();
    while let Ok(WaEvent::Link(state)) = world.events.try_recv() {
        told.push(state.name());
    }
    assert_eq!(told, ["pairing", "connecting", "connected"]);
}

#[tokio::test(start_paused = true)]
async fn a_pairing_that_nobody_answers_closes() {
    let world = World::new(false);
    world.handle.pair(PairingMethod::Qr).await.unwrap();
    world.until("pairing").await;
    world.until("unpaired").await;
    assert!(world.log().contains(&"close"));
    assert_eq!(world.runs(), 1);
}

#[tokio::test(start_paused = true)]
async fn logging_out_tells_the_server_and_then_deletes_the_keys() {
    let world = World::new(true);
    world.driver.started.notified().await;
    world.inputs.send(Input::LoggedIn).unwrap();
    world.until("connected").await;
    assert_eq!(world.handle.log_out().await, Ok(Unlinked::Fully));
    assert_eq!(world.log().first(), Some(&"sign off"));
    assert_eq!(world.log().last(), Some(&"delete"));
    assert!(world.handle.link().borrow().me.is_none());
    assert_eq!(world.handle.log_out().await, Err(SessionError::NotLinked));
}

#[tokio::test(start_paused = true)]
async fn logging_out_offline_says_that_the_phone_still_lists_the_device() {
    let world = World::new(true);
    world.driver.started.notified().await;
    world.inputs.send(Input::Replaced).unwrap();
    world.until("replaced").await;
    assert_eq!(world.handle.log_out().await, Ok(Unlinked::HereOnly));
    assert_eq!(world.log().last(), Some(&"delete"));
    assert!(!world.log().contains(&"sign off"));
}

#[tokio::test(start_paused = true)]
async fn keys_that_stay_are_told_and_can_be_deleted_again() {
    let world = World::new(true);
    world.driver.started.notified().await;
    let undeletable = SessionError::Other("the disk is read-only".to_owned());
    *world.driver.undeletable.lock().unwrap() = Some(undeletable.clone());
    assert_eq!(world.handle.log_out().await, Err(undeletable));
    assert!(world.handle.log_out().await.is_ok());
    assert_eq!(world.handle.log_out().await, Err(SessionError::NotLinked));
}

#[tokio::test(start_paused = true)]
async fn a_logout_that_is_not_certain_only_sets_the_keys_aside() {
    let world = World::new(true);
    world.driver.started.notified().await;
    world.inputs.send(Input::LoggedOut { reason: "401".to_owned(), certain: false }).unwrap();
    world.until("logged_out").await;
    world.handle.stop().await;
    assert!(world.log().contains(&"set aside"));
    assert!(!world.log().contains(&"delete"));
}

#[tokio::test(start_paused = true)]
async fn stopping_closes_and_nothing_comes_after() {
    let world = World::new(true);
    world.driver.started.notified().await;
    world.handle.stop().await;
    assert_eq!(world.log().last(), Some(&"close"));
    assert!(matches!(world.handle.reconnect().await, Err(SessionError::Other(_))));
    assert_eq!(world.runs(), 1);
}

fn logged_out() -> Input {
    Input::LoggedOut { reason: "the device was unlinked from the phone".to_owned(), certain: true }
}

#[tokio::test(start_paused = true)]
async fn a_resting_state_and_what_it_says_outlive_a_crash_and_a_stop() {
    let end = Timestamp::from_millis(1_000_000).plus(Duration::from_hours(30));
    let cases = [
        ("replaced", Input::Replaced),
        ("locked", Input::Locked),
        ("banned", Input::Banned { until: Some(end) }),
        ("banned", Input::Banned { until: None }),
        ("logged_out", logged_out()),
    ];
    for (name, input) in cases {
        let world = World::resting(input, name).await;
        let before = world.shown();
        // As soon as it is shown; the keys go later.
        let mut world = world.after_a_crash(name != "logged_out", None);
        tokio::time::sleep(Duration::from_mins(10)).await;
        assert_eq!(world.runs(), 0, "{name}");
        assert_eq!((world.shown().state, world.shown().since), (before.state.clone(), before.since));
        assert_eq!(world.events.try_recv(), Ok(WaEvent::Link(before.state.clone())), "the journal hears of it");
        // A stop changes the state, but not for the next start.
        world.handle.stop().await;
        let world = world.after_a_crash(name != "logged_out", None);
        tokio::time::sleep(Duration::from_mins(10)).await;
        assert_eq!((world.shown().state, world.runs()), (before.state, 0));
    }
}

#[tokio::test(start_paused = true)]
async fn a_state_that_was_left_is_forgotten_before_anything_else_is_done() {
    let world = World::resting(Input::Replaced, "replaced").await;
    world.handle.reconnect().await.unwrap();
    assert_eq!(world.saved(), None);
    let world = world.after_a_crash(true, None);
    world.driver.started.notified().await;

    let world = World::resting(Input::Locked, "locked").await;
    assert_eq!(world.handle.log_out().await, Ok(Unlinked::HereOnly));
    assert_eq!(world.saved(), None);
    let world = world.after_a_crash(false, None);
    assert_eq!(world.shown().state, LinkState::Unpaired);

    let world = World::resting(logged_out(), "logged_out").await.after_a_crash(false, None);
    assert_eq!(world.shown().state.name(), "logged_out");
    world.handle.pair(PairingMethod::Qr).await.unwrap();
    assert_eq!(world.saved(), None);
    let world = world.after_a_crash(false, None);
    assert_eq!(world.shown().state, LinkState::Unpaired);
}

#[tokio::test(start_paused = true)]
async fn a_ban_is_waited_out_over_restarts_and_then_forgotten() {
    let ends = Timestamp::from_millis(1_000_000).plus(Duration::from_hours(2));
    let world = World::resting(Input::Banned { until: Some(ends) }, "banned").await;
    let world = world.after_a_crash(true, None);
    world.driver.started.notified().await;
    assert!(world.clock.now() >= ends);
    assert_eq!(world.saved(), None);

    let ends = world.clock.now().plus(Duration::from_hours(2));
    let world = World::resting(Input::Banned { until: Some(ends) }, "banned").await;
    // Nothing ran when it ended.
    let world = World::on(world.folder, Arc::new(TokioClock::starting_at(ends)), true, None);
    assert_eq!(world.shown().state, LinkState::Connecting);
    world.driver.started.notified().await;
    assert_eq!(world.saved(), None);
}

#[tokio::test(start_paused = true)]
async fn a_state_of_other_keys_or_one_that_cannot_be_read_stops_nobody() {
    let world = World::resting(Input::Replaced, "replaced").await.after_a_crash(true, Some("6282"));
    world.driver.started.notified().await;
    assert_eq!(world.saved(), None);

    // The keys were brought back, or the crash came before they were removed.
    let world = World::resting(logged_out(), "logged_out").await.after_a_crash(true, None);
    world.driver.started.notified().await;

    let world = World::resting(Input::Replaced, "replaced").await;
    let file = only_file(world.folder.path());
    std::fs::write(&file, b"{\"account\":\"6281\",\"since\":1").unwrap();
    let world = world.after_a_crash(true, None);
    world.driver.started.notified().await;
    assert!(!file.exists());
}

#[tokio::test(start_paused = true)]
async fn a_state_that_could_not_be_written_down_is_so_once_it_can_be() {
    let world = World::new(true);
    world.driver.started.notified().await;
    let in_the_way = world.folder.path().join("link-state.new");
    std::fs::create_dir(&in_the_way).unwrap();
    world.inputs.send(Input::Replaced).unwrap();
    world.until("replaced").await;
    assert_eq!(world.saved(), None);
    std::fs::remove_dir(&in_the_way).unwrap();
    tokio::time::sleep(2 * LONGEST_SLEEP).await;
    assert_eq!(world.saved(), Some(LinkState::Replaced));
}

fn only_file(folder: &Path) -> std::path::PathBuf {
    let mut files = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let file = files.next().unwrap();
    assert_eq!(files.next(), None);
    file
}
