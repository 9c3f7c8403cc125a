//! Daemon and emulator as processes of their own, so that either can be killed alone; and what was on its way when that
//! happened.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use reqwest::{RequestBuilder, StatusCode};
use serde_json::{Value, json};
use waya_daemon::model::Status;

use crate::{Api, Binary, OWN_PHONE, Port, Running};

/// How long anything may take on a busy machine.
const PATIENCE: Duration = Duration::from_secs(600);
/// How often somebody knocks who finds nobody.
const KNOCK_EVERY: Duration = Duration::from_millis(5);

/// Where the daemon answers now; nowhere while it is dead.
#[derive(Debug, Clone, Default)]
pub struct Address(Arc<Mutex<Option<Api>>>);

impl Address {
    /// The daemon's API, while there is a daemon.
    #[must_use]
    pub fn now(&self) -> Option<Api> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn set(&self, api: Option<Api>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = api;
    }

    /// Asks until there is an answer, through all the deaths of the daemon.
    ///
    /// # Errors
    /// When there never is one.
    pub async fn ask(&self, request: impl Fn(&Api) -> RequestBuilder) -> Result<(StatusCode, Value)> {
        let begun = Instant::now();
        loop {
            let answer = match self.now() {
                Some(api) => crate::answer(request(&api)).await,
                None => Err(anyhow::anyhow!("it is dead")),
            };
            match answer {
                Ok(answer) => return Ok(answer),
                Err(error) if begun.elapsed() > PATIENCE => return Err(error.context("there was never an answer")),
                Err(_) => tokio::time::sleep(KNOCK_EVERY).await,
            }
        }
    }
}

/// What two processes know of each other, over all their lives.
#[derive(Debug)]
pub struct Apart {
    /// The daemon, while it lives.
    pub daemon: Option<Running>,
    /// Where the daemon answers.
    pub address: Address,
    /// The emulator's admin endpoints.
    pub admin: Api,
    /// The people's numbers.
    pub people: Vec<String>,
    /// By `WhatsApp` id: at how many kills a message was on its way.
    at_a_kill: HashMap<String, u64>,
    root: PathBuf,
    port: Port,
    emulator: Option<Running>,
    /// Faults that every life of the emulator has.
    faults: Vec<Value>,
    /// What was never acked when the daemon was killed the last time.
    unacked: HashMap<String, u64>,
}

impl Apart {
    /// Both, in folders under `root`; the emulator holds its acks for so long, and the receipts of the first `silent`
    /// people go nowhere: one that overtakes the ack would settle its message before it.
    ///
    /// # Errors
    /// When one of them does not get ready.
    pub async fn start(root: &Path, ack_delay: Duration, silent: usize) -> Result<Self> {
        let port = Port::any()?;
        let emulator = start_emulator(root, &port)?;
        let admin = Api::admin(&emulator.ready_text("admin")?)?;
        let (_, people) = admin.get("/people").await?;
        let people = people["people"].as_array().context("no people")?;
        let people: Vec<_> = people.iter().filter_map(|person| person["number"].as_str().map(str::to_owned)).collect();
        let mut faults =
            vec![json!({"kind": "ack-delay", "args": [ack_delay.as_millis().to_string()], "target": OWN_PHONE})];
        faults.extend(people.iter().take(silent).map(|person| json!({"kind": "no-receipts", "target": person})));
        let mut apart = Self {
            daemon: None,
            address: Address::default(),
            admin,
            people,
            at_a_kill: HashMap::new(),
            root: root.to_owned(),
            port,
            emulator: Some(emulator),
            faults,
            unacked: HashMap::new(),
        };
        apart.start_daemon()?;
        for fault in &apart.faults {
            apart.fault(fault).await?;
        }
        Ok(apart)
    }

    /// The daemon's data folder.
    #[must_use]
    pub fn data_dir(&self) -> PathBuf {
        self.root.join("daemon")
    }

    /// The daemon's socket.
    #[must_use]
    pub fn socket(&self) -> PathBuf {
        self.root.join("s")
    }

    /// Starts the daemon, or another life of it.
    ///
    /// # Errors
    /// When it does not get ready.
    pub fn start_daemon(&mut self) -> Result<()> {
        let mut command = Binary::sandbox()?.command();
        command
            .arg("--connect")
            .arg(format!("ws://{}/ws/chat", self.port.address))
            .arg("--data-dir")
            .arg(self.data_dir())
            .arg("--socket")
            .arg(self.socket())
            .args(["--http", "127.0.0.1:0"])
            .envs([
                ("WAYA_QUEUE_DELAY", "0"),
                ("WAYA_QUEUE_JITTER", "0"),
                ("WAYA_LOG_FILTER", "info,waya_daemon=debug"),
            ]);
        let daemon = Running::start(command, &self.root.join("daemon.log"))?;
        self.address.set(Some(Api::daemon(&daemon.ready_text("http")?, &self.data_dir())?));
        self.daemon = Some(daemon);
        Ok(())
    }

    /// Switches a fault of the emulator on.
    ///
    /// # Errors
    /// When it is refused.
    pub async fn fault(&self, fault: &Value) -> Result<()> {
        let (status, answer) = self.admin.post("/fault", fault).await?;
        ensure!(status.is_success(), "the fault was refused: {answer}");
        Ok(())
    }

    /// How many acks the emulator holds back just now.
    ///
    /// # Errors
    /// When it cannot be asked.
    pub async fn in_flight(&self) -> Result<u64> {
        Ok(self.unanswered().await?.0)
    }

    /// The same, and how often it has taken each message that it never acked.
    async fn unanswered(&self) -> Result<(u64, HashMap<String, u64>)> {
        let (_, stats) = self.admin.get("/stats").await?;
        let sender = &stats["senders"][OWN_PHONE];
        let ids = sender["unacked_ids"].as_object().into_iter().flatten();
        let ids = ids.filter_map(|(id, times)| Some((id.clone(), times.as_u64()?)));
        Ok((sender["in_flight"].as_u64().unwrap_or(0), ids.collect()))
    }

    /// Waits until something is in flight.
    ///
    /// # Errors
    /// With the end of the daemon's log when nothing ever is.
    pub async fn until_in_flight(&self) -> Result<()> {
        let begun = Instant::now();
        while self.in_flight().await? == 0 {
            if begun.elapsed() > PATIENCE {
                bail!(
                    "nothing is ever in flight:\n{}",
                    self.daemon.as_ref().map(Running::log_tail).unwrap_or_default()
                );
            }
            tokio::time::sleep(KNOCK_EVERY).await;
        }
        Ok(())
    }

    /// Kills the daemon and notes, from its own store, what was on its way; whether the emulator had taken one of those
    /// in that life: exactly between hand-over and ack.
    ///
    /// # Errors
    /// When none runs, or its store cannot be read.
    pub async fn kill_daemon(&mut self) -> Result<bool> {
        self.address.set(None);
        self.daemon.take().context("no daemon runs")?.kill()?;
        // The held acks of the dead are given up when the emulator notices the end of the connection; until then they
        // would look like those of the next life.
        let begun = Instant::now();
        let unacked = loop {
            match self.unanswered().await? {
                (0, ids) => break ids,
                _ => tokio::time::sleep(Duration::from_millis(2)).await,
            }
            ensure!(begun.elapsed() < PATIENCE, "the emulator never notices that the daemon is dead");
        };
        let sending = sending(&self.data_dir()).await?;
        let between = sending.iter().any(|id| unacked.get(id) > self.unacked.get(id));
        self.unacked = unacked;
        self.note(sending);
        Ok(between)
    }

    /// Kills the emulator, starts it again on its port and notes what was not finished then.
    ///
    /// # Errors
    /// When it does not get ready again.
    pub async fn kill_emulator(&mut self) -> Result<()> {
        self.emulator.take().context("no emulator runs")?.kill()?;
        let api = self.address.now().context("no daemon runs")?;
        let mut unfinished = Vec::new();
        for status in ["pending", "sending"] {
            let (_, list) = api.get(&format!("/api/queue?status={status}&limit=1000")).await?;
            let list = list["messages"].as_array().into_iter().flatten();
            unfinished.extend(list.filter_map(|message| message["whatsappId"].as_str().map(str::to_owned)));
        }
        self.emulator = Some(start_emulator(&self.root, &self.port)?);
        self.unacked.clear();
        for fault in &self.faults {
            self.fault(fault).await?;
        }
        self.note(unfinished);
        Ok(())
    }

    fn note(&mut self, on_their_way: Vec<String>) {
        for id in on_their_way {
            *self.at_a_kill.entry(id).or_default() += 1;
        }
    }

    /// At how many kills this message was on its way.
    #[must_use]
    pub fn kills_of(&self, id: &str) -> u64 {
        self.at_a_kill.get(id).copied().unwrap_or(0)
    }

    /// A person's inbox.
    ///
    /// # Errors
    /// When it cannot be asked.
    pub async fn inbox(&self, who: &str) -> Result<Vec<Value>> {
        let (_, inbox) = self.admin.get(&format!("/inbox/{who}")).await?;
        Ok(inbox["messages"].as_array().with_context(|| inbox.to_string())?.clone())
    }
}

fn start_emulator(root: &Path, port: &Port) -> Result<Running> {
    let mut command = Binary::sandbox()?.command();
    command.args(["serve", "--listen", &port.address.to_string(), "--data-dir"]).arg(root.join("emulator"));
    Running::start(command, &root.join("emulator.log"))
}

/// The `WhatsApp` ids of what is `sending`; opens the dead daemon's store as the daemon itself would.
async fn sending(data_dir: &Path) -> Result<Vec<String>> {
    let opened = crate::open_store(data_dir)?;
    let store = opened.store;
    let mut ids = Vec::new();
    for open in store.outbox.open().await?.into_iter().filter(|open| open.status == Status::Sending) {
        let message = store.outbox.message(open.id).await?.context("an open message has no row")?;
        ids.push(message.whatsapp_id.0);
    }
    opened.handle.close();
    Ok(ids)
}
