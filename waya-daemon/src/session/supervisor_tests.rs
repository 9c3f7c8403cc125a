//! What the supervisor does with what the machine says, with a driver that a test plays.
#![allow(clippy::unwrap_used)]

use std::sync::Mutex;

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
    log: Mutex<Vec<&'static str>>,
    /// Why the keys cannot be deleted next time.
    undeletable: Mutex<Option<SessionError>>,
    closed: Notify,
}

#[async_trait]
impl Driver for Played {
    fn me(&self) -> Option<Me> {
        let linked = *self.linked.lock().unwrap();
        linked.then(|| Me { phone: "6281".to_owned(), lid: None, push_name: String::new() })
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
}

impl World {
    fn new(linked: bool) -> Self {
        let (end, ends) = mpsc::unbounded_channel();
        let driver = Arc::new(Played::default());
        *driver.ends.try_lock().unwrap() = Some(ends);
        *driver.linked.lock().unwrap() = linked;
        let (inputs, told) = mpsc::unbounded_channel();
        let (sender, events) = mpsc::unbounded_channel();
        let clock = Arc::new(TokioClock::starting_at(Timestamp::from_millis(1_000_000)));
        let handle =
            spawn(Parts { driver: Arc::clone(&driver), inputs: told, events: sender, clock: Arc::clone(&clock) as _ });
        Self { driver, handle, inputs, end, events, clock }
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
