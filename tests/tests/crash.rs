//! `kill -9` at fifty moments while five hundred messages go out: nothing is lost, nothing is doubled, no status lies.
//!
//! The daemon and the emulator are processes of their own, so that either can be killed alone. The emulator holds its
//! acks for 200 ms, which makes "handed over, not acknowledged" a state that a kill hits on purpose; what was on its
//! way at a kill is read from the dead daemon's own store. Most people send no receipts: one that overtakes the ack
//! would settle the message before it.

#![expect(clippy::unwrap_used, clippy::print_stdout, reason = "tests; the figures are for who reads the output")]

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use tokio::sync::Semaphore;
use waya_daemon::model::Status;
use waya_tests::{Api, Binary, Port, Running};

const MESSAGES: usize = 500;
const KILLS: usize = 50;
/// More kills than `KILLS` come only while too few have hit the state they aim at.
const MOST_KILLS: usize = 100;
/// Messages let go before each kill, so that each finds work; one before each kill beyond `KILLS`.
const SHARE: usize = (MESSAGES - (MOST_KILLS - KILLS)) / KILLS;
const KILLS_OF_THE_EMULATOR: usize = 5;
const KILLS_BETWEEN_HAND_OVER_AND_ACK: usize = 20;
const ACK_DELAY_MS: u64 = 200;
/// People whose receipts go nowhere, of five.
const SILENT: usize = 3;
const OWN_PHONE: &str = "6281200000001";
/// All of it; a quiet machine needs about a minute and a half.
const PATIENCE: Duration = Duration::from_secs(600);

/// Where the daemon answers now; nowhere while it is dead.
type Address = Arc<Mutex<Option<Api>>>;

struct World {
    root: PathBuf,
    port: Port,
    emulator: Option<Running>,
    daemon: Option<Running>,
    address: Address,
    admin: Api,
    people: Vec<String>,
    /// What was never acked when the daemon was killed the last time.
    unacked: HashMap<String, u64>,
}

impl World {
    async fn start(root: &Path) -> Result<Self> {
        let port = Port::any()?;
        let emulator = start_emulator(root, &port)?;
        let admin = Api::admin(&emulator.ready_text("admin")?)?;
        let (_, people) = admin.get("/people").await?;
        let people = people["people"].as_array().context("no people")?;
        let people = people.iter().filter_map(|person| person["number"].as_str().map(str::to_owned)).collect();
        let mut world = Self {
            root: root.to_owned(),
            port,
            emulator: Some(emulator),
            daemon: None,
            address: Arc::default(),
            admin,
            people,
            unacked: HashMap::new(),
        };
        world.start_daemon()?;
        world.set_faults().await?;
        Ok(world)
    }

    fn silent(&self) -> &[String] {
        &self.people[..SILENT]
    }

    fn start_daemon(&mut self) -> Result<()> {
        let data = self.root.join("daemon");
        let mut command = Binary::sandbox()?.command();
        command
            .arg("--connect")
            .arg(format!("ws://{}/ws/chat", self.port.address))
            .arg("--data-dir")
            .arg(&data)
            .arg("--socket")
            .arg(self.root.join("s"))
            .args(["--http", "127.0.0.1:0"])
            .envs([
                ("WAYA_QUEUE_DELAY", "0"),
                ("WAYA_QUEUE_JITTER", "0"),
                ("WAYA_LOG_FILTER", "info,waya_daemon=debug"),
            ]);
        let daemon = Running::start(command, &self.root.join("daemon.log"))?;
        *self.address.lock().unwrap() = Some(Api::daemon(&daemon.ready_text("http")?, &data)?);
        self.daemon = Some(daemon);
        Ok(())
    }

    async fn set_faults(&self) -> Result<()> {
        let mut faults = vec![json!({"kind": "ack-delay", "args": [ACK_DELAY_MS.to_string()], "target": OWN_PHONE})];
        faults.extend(self.silent().iter().map(|person| json!({"kind": "no-receipts", "target": person})));
        for fault in faults {
            let (status, answer) = self.admin.post("/fault", &fault).await?;
            ensure!(status.is_success(), "the fault was refused: {answer}");
        }
        Ok(())
    }

    /// How many acks the emulator holds back just now, and how often it has taken each message that it never acked.
    async fn unanswered(&self) -> Result<(u64, HashMap<String, u64>)> {
        let (_, stats) = self.admin.get("/stats").await?;
        let sender = &stats["senders"][OWN_PHONE];
        let ids = sender["unacked_ids"].as_object().into_iter().flatten();
        let ids = ids.filter_map(|(id, times)| Some((id.clone(), times.as_u64()?)));
        Ok((sender["in_flight"].as_u64().unwrap_or(0), ids.collect()))
    }

    /// Kills the daemon; the WhatsApp ids of what was on its way by its own store, and whether the emulator had taken
    /// one of them in that life: exactly between hand-over and ack.
    async fn kill_daemon(&mut self) -> Result<(Vec<String>, bool)> {
        *self.address.lock().unwrap() = None;
        self.daemon.take().context("no daemon runs")?.kill()?;
        // The held acks of the dead are given up when the emulator notices the end of the connection; until then they
        // would look like those of the next life.
        let deadline = Instant::now() + PATIENCE;
        let unacked = loop {
            match self.unanswered().await? {
                (0, ids) => break ids,
                _ => tokio::time::sleep(Duration::from_millis(2)).await,
            }
            ensure!(Instant::now() < deadline, "the emulator never notices that the daemon is dead");
        };
        let sending = sending(&self.root.join("daemon")).await?;
        let between = sending.iter().any(|id| unacked.get(id) > self.unacked.get(id));
        self.unacked = unacked;
        Ok((sending, between))
    }

    /// Kills the emulator and starts it again on its port; the WhatsApp ids of what was not finished then.
    async fn kill_emulator(&mut self) -> Result<Vec<String>> {
        self.emulator.take().context("no emulator runs")?.kill()?;
        let api = self.address.lock().unwrap().clone().context("no daemon runs")?;
        let mut unfinished = Vec::new();
        for status in ["pending", "sending"] {
            let (_, list) = api.get(&format!("/api/queue?status={status}&limit=1000")).await?;
            unfinished.extend(whatsapp_ids(&list["messages"]));
        }
        self.emulator = Some(start_emulator(&self.root, &self.port)?);
        self.unacked.clear();
        self.set_faults().await?;
        Ok(unfinished)
    }
}

fn start_emulator(root: &Path, port: &Port) -> Result<Running> {
    let mut command = Binary::sandbox()?.command();
    command.args(["serve", "--listen", &port.address.to_string(), "--data-dir"]).arg(root.join("emulator"));
    Running::start(command, &root.join("emulator.log"))
}

fn whatsapp_ids(messages: &Value) -> Vec<String> {
    let list = messages.as_array().into_iter().flatten();
    list.filter_map(|message| message["whatsappId"].as_str().map(str::to_owned)).collect()
}

/// Opens the dead daemon's store as the daemon itself would.
async fn sending(data_dir: &Path) -> Result<Vec<String>> {
    let opened = waya_tests::open_store(data_dir)?;
    let store = opened.store;
    let mut ids = Vec::new();
    for open in store.outbox.open().await?.into_iter().filter(|open| open.status == Status::Sending) {
        let message = store.outbox.message(open.id).await?.context("an open message has no row")?;
        ids.push(message.whatsapp_id.0);
    }
    opened.handle.close();
    Ok(ids)
}

/// Posts every message until it is accepted, through all the deaths of the daemon; text → queue id.
async fn produce(address: Address, people: Vec<String>, allowed: Arc<Semaphore>) -> Result<BTreeMap<String, String>> {
    let mut accepted = BTreeMap::new();
    for n in 0..MESSAGES {
        allowed.acquire().await?.forget();
        let text = format!("message {n}");
        let body = json!({"number": people[n % people.len()], "message": text, "reference_id": format!("ref-{n}")});
        let deadline = Instant::now() + PATIENCE;
        let id = loop {
            ensure!(Instant::now() < deadline, "message {n} was never accepted");
            let api = address.lock().unwrap().clone();
            let answer = match api {
                Some(api) => {
                    let request =
                        api.request(Method::POST, "/api/send-message").header("Idempotency-Key", format!("key-{n}"));
                    waya_tests::http::answer(request.json(&body)).await
                }
                None => Err(anyhow::anyhow!("dead")),
            };
            match answer {
                Ok((StatusCode::ACCEPTED, answer)) => break answer["id"].as_str().context("no id")?.to_owned(),
                Ok((status, answer)) => anyhow::bail!("{status}: {answer}"),
                Err(_) => tokio::time::sleep(Duration::from_millis(5)).await,
            }
        };
        accepted.insert(text, id);
    }
    Ok(accepted)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_lost_or_doubled_through_fifty_kills() -> Result<()> {
    let root = tempfile::tempdir()?;
    let seed: u64 = rand::random();
    println!("seed {seed}");
    let mut random = StdRng::seed_from_u64(seed);
    let mut world = World::start(root.path()).await?;
    let allowed = Arc::new(Semaphore::new(0));
    let producer = tokio::spawn(produce(world.address.clone(), world.people.clone(), Arc::clone(&allowed)));

    let started = Instant::now();
    let mut at_a_kill: HashMap<String, u64> = HashMap::new();
    let (mut between, mut of_the_emulator) = (0, 0);
    let mut kill = 0;
    while kill < KILLS || (between < KILLS_BETWEEN_HAND_OVER_AND_ACK && kill < MOST_KILLS) {
        ensure!(started.elapsed() < PATIENCE, "the kills took too long");
        allowed.add_permits(if kill < KILLS { SHARE } else { 1 });
        let emulator = kill % (KILLS / KILLS_OF_THE_EMULATOR) == 4;
        // Most kills wait for the interesting state; every fourth comes at any moment, also while starting.
        if kill % 4 == 3 && !emulator {
            tokio::time::sleep(Duration::from_millis(random.random_range(0..700))).await;
        } else {
            while world.unanswered().await?.0 == 0 {
                ensure!(
                    started.elapsed() < PATIENCE,
                    "nothing is ever in flight:\n{}",
                    world.daemon.as_ref().unwrap().log_tail()
                );
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            tokio::time::sleep(Duration::from_millis(random.random_range(0..100))).await;
        }
        let ids = if emulator {
            of_the_emulator += 1;
            world.kill_emulator().await?
        } else {
            let (ids, hit) = world.kill_daemon().await?;
            between += usize::from(hit);
            world.start_daemon()?;
            ids
        };
        for id in ids {
            *at_a_kill.entry(id).or_default() += 1;
        }
        kill += 1;
    }
    // What is left may go at its own speed.
    let (status, answer) =
        world.admin.post("/fault", &json!({"kind": "ack-delay", "args": ["0"], "target": OWN_PHONE})).await?;
    ensure!(status.is_success(), "the fault was refused: {answer}");
    allowed.add_permits(MESSAGES);
    let accepted = producer.await??;
    assert_eq!(accepted.len(), MESSAGES);
    assert!(
        between >= KILLS_BETWEEN_HAND_OVER_AND_ACK,
        "only {between} of {kill} kills fell between hand-over and ack (seed {seed})"
    );
    assert!(of_the_emulator >= KILLS_OF_THE_EMULATOR);
    println!(
        "{between} of {kill} kills between hand-over and ack, {of_the_emulator} of the emulator, {:?}",
        started.elapsed()
    );

    verify(&world, &accepted, &at_a_kill).await.with_context(|| format!("seed {seed}"))
}

/// The end of it: every status, every inbox, every id.
async fn verify(world: &World, accepted: &BTreeMap<String, String>, at_a_kill: &HashMap<String, u64>) -> Result<()> {
    let api = world.address.lock().unwrap().clone().context("no daemon runs")?;
    let mut messages = BTreeMap::new();
    for (text, id) in accepted {
        let (_, message) = api.get(&format!("/api/message-status/{id}?wait=sent&timeout=120")).await?;
        ensure!(message["status"] == "sent" && message["ack"] != "none", "{text} ends as {message}");
        ensure!(message["message"] == text.as_str(), "{id} is {message}");
        messages.insert(text.clone(), message);
    }
    let mut seen: BTreeMap<String, (&String, Value)> = BTreeMap::new();
    for person in &world.people {
        let (_, inbox) = world.admin.get(&format!("/inbox/{person}")).await?;
        for row in inbox["messages"].as_array().context("no inbox")? {
            let text = row["text"].as_str().unwrap_or_default().to_owned();
            let before = seen.insert(text.clone(), (person, row.clone()));
            ensure!(before.is_none(), "{text} stands twice in an inbox: {before:?} and {row}");
        }
    }
    let (mut read, mut readable) = (0, 0);
    for (text, message) in &messages {
        let (person, row) = seen.get(text).with_context(|| format!("{text} is in nobody's inbox"))?;
        let id = message["whatsappId"].as_str().context("no WhatsApp id")?;
        ensure!(row["id"] == id, "{text} arrived as {row} and is known as {id}");
        let kills = at_a_kill.get(id).copied().unwrap_or(0);
        ensure!(
            row["copies"].as_u64().unwrap_or(0) <= 1 + kills,
            "{row} arrived too often, with {kills} kills on its way"
        );
        // A receipt that came in the very moment of a kill is lost with the process: an ack may lag, never lead.
        let receipts = row["receipts"].to_string();
        let (says_read, was_read) = (message["ack"] == "read", receipts.contains("read"));
        ensure!(!says_read || was_read, "{text} says {message}, and the other side has {row}");
        ensure!(
            message["ack"] != "device" || receipts.contains("delivered"),
            "{text} says {message}, and the other side has {row}"
        );
        if !world.silent().contains(person) {
            readable += 1;
            read += usize::from(says_read);
        }
    }
    ensure!(read * 10 >= readable * 8, "only {read} of {readable} are known to be read");
    println!("{read} of {readable} are known to be read");
    ensure!(seen.len() == accepted.len(), "the inboxes hold {} texts, {} were accepted", seen.len(), accepted.len());

    let (_, stats) = world.admin.get("/stats").await?;
    let repeated = stats["senders"][OWN_PHONE]["repeated_ids"].as_object().context("no repeated ids in the stats")?;
    for (id, times) in repeated {
        let kills = at_a_kill.get(id).copied().unwrap_or(0);
        ensure!(
            times.as_u64().unwrap_or(0) <= 1 + kills,
            "{id} was handed over {times} times, with {kills} kills on its way"
        );
    }
    ensure!(!repeated.is_empty(), "no kill made a message go again: the interesting state was never hit");
    ensure!(stats["senders"][OWN_PHONE]["distinct_ids"] == accepted.len(), "more ids than messages: {stats}");
    println!("{} ids were handed over again, all of them on their way at a kill", repeated.len());
    Ok(())
}
