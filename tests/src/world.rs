//! A whole world for one test: the sandbox binary on a temporary folder, its HTTP API, the emulator's admin endpoints and
//! the command line.

use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use reqwest::StatusCode;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::{Api, Binary, Running, process};

/// How long a condition may take on a busy machine.
pub const PATIENCE: Duration = Duration::from_secs(60);
/// The account that the sandbox links for itself.
pub const OWN_PHONE: &str = "6281200000001";
/// The first simulated person.
pub const BUDI: &str = "6281200000002";
/// The second one.
pub const SITI: &str = "6281200000003";

/// How a world differs from the usual one.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// More environment.
    pub environment: Vec<(String, String)>,
    /// More flags.
    pub arguments: Vec<String>,
    /// Another data folder than the one in the world's own temporary folder.
    pub data_dir: Option<PathBuf>,
}

impl Options {
    /// With one more environment variable.
    #[must_use]
    pub fn env(mut self, name: &str, value: &str) -> Self {
        self.environment.push((name.to_owned(), value.to_owned()));
        self
    }
}

/// Daemon, emulator and people in one process.
#[derive(Debug)]
pub struct World {
    /// The process; gone while it is stopped.
    pub running: Option<Running>,
    /// The daemon's HTTP API.
    pub api: Api,
    /// The emulator's admin endpoints.
    pub admin: Api,
    options: Options,
    root: TempDir,
}

impl World {
    /// The usual world: no pace, so that tests need not wait for it.
    ///
    /// # Errors
    /// When it does not get ready.
    pub fn start() -> Result<Self> {
        Self::with(Options::default())
    }

    /// A world of one's own.
    ///
    /// # Errors
    /// When it does not get ready.
    pub fn with(options: Options) -> Result<Self> {
        let root = tempfile::tempdir()?;
        let running = launch(root.path(), &options)?;
        let api = Api::daemon(&running.ready_text("http")?, &data_dir(root.path(), &options))?;
        let admin = Api::admin(&running.ready_text("admin")?)?;
        Ok(Self { running: Some(running), api, admin, options, root })
    }

    /// The data folder.
    #[must_use]
    pub fn data_dir(&self) -> PathBuf {
        data_dir(self.root.path(), &self.options)
    }

    /// The socket.
    #[must_use]
    pub fn socket(&self) -> PathBuf {
        self.root.path().join("waya.sock")
    }

    /// Memory of the process in use, and the most it ever used, in bytes.
    ///
    /// # Errors
    /// It does not run.
    pub fn memory(&self) -> Result<(u64, u64)> {
        process::memory(self.running.as_ref().context("it does not run")?.pid())
    }

    /// All that the process has logged.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn log(&self) -> Result<String> {
        Ok(String::from_utf8_lossy(&std::fs::read(self.root.path().join("log"))?).into_owned())
    }

    /// Runs `waya` with these arguments on this world's socket.
    ///
    /// # Errors
    /// When it cannot be run.
    pub fn waya(&self, arguments: &[&str]) -> Result<Output> {
        self.waya_with_input(arguments, None)
    }

    /// The same with something on standard input.
    ///
    /// # Errors
    /// When it cannot be run.
    pub fn waya_with_input(&self, arguments: &[&str], input: Option<&[u8]>) -> Result<Output> {
        let mut command = Binary::waya()?.command();
        command.arg("--socket").arg(self.socket()).args(arguments);
        run(command, input)
    }

    /// Runs `waya --json` and reads what it prints; it must exit with 0.
    ///
    /// # Errors
    /// When it does not.
    pub fn waya_json(&self, arguments: &[&str]) -> Result<Value> {
        let output = self.waya(&[&["--json"], arguments].concat())?;
        ensure!(output.status.success(), "waya {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        serde_json::from_slice(&output.stdout).with_context(|| String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// Has a message accepted; its queue id.
    ///
    /// # Errors
    /// When it is refused.
    pub async fn accept(&self, number: &str, text: &str) -> Result<String> {
        let (status, answer) = self.api.post("/api/send-message", &json!({"number": number, "message": text})).await?;
        ensure!(status == StatusCode::ACCEPTED, "{status}: {answer}");
        Ok(answer["id"].as_str().context("no id")?.to_owned())
    }

    /// One message as it stands.
    ///
    /// # Errors
    /// When it cannot be asked.
    pub async fn message(&self, id: &str) -> Result<Value> {
        Ok(self.api.get(&format!("/api/message-status/{id}")).await?.1)
    }

    /// Waits until a message is as wanted.
    ///
    /// # Errors
    /// With the message as it stands when that takes too long.
    pub async fn until_message(&self, id: &str, wanted: impl Fn(&Value) -> bool) -> Result<Value> {
        until("the message is as wanted", || async {
            let message = self.message(id).await?;
            if wanted(&message) { Ok(message) } else { bail!("{message}") }
        })
        .await
    }

    /// Waits until the session is in this state.
    ///
    /// # Errors
    /// With the session as it stands when that takes too long.
    pub async fn until_session(&self, state: &str) -> Result<Value> {
        until(&format!("the session is {state}"), || async {
            let (_, session) = self.api.get("/api/session").await?;
            if session["state"] == state { Ok(session) } else { bail!("{session}") }
        })
        .await
    }

    /// A person's inbox.
    ///
    /// # Errors
    /// When it cannot be asked.
    pub async fn inbox(&self, who: &str) -> Result<Vec<Value>> {
        let (_, inbox) = self.admin.get(&format!("/inbox/{who}")).await?;
        Ok(inbox["messages"].as_array().with_context(|| inbox.to_string())?.clone())
    }

    /// Waits until a person has received so many messages; the newest of them.
    ///
    /// # Errors
    /// With the inbox as it stands when that takes too long.
    pub async fn until_received(&self, who: &str, count: usize) -> Result<Value> {
        until("it arrived", || async {
            let inbox = self.inbox(who).await?;
            ensure!(inbox.len() >= count, "{inbox:?}");
            inbox.last().cloned().context("nothing there")
        })
        .await
    }

    /// The file of a message that a person received, as that person's client decrypts it.
    ///
    /// # Errors
    /// When it cannot be loaded.
    pub async fn received_file(&self, who: &str, message: &Value) -> Result<Vec<u8>> {
        let id = message["id"].as_str().context("no id")?;
        let answer = self.admin.request(reqwest::Method::GET, &format!("/inbox/{who}/{id}/media")).send().await?;
        ensure!(answer.status().is_success(), "{}", answer.text().await?);
        Ok(answer.bytes().await?.to_vec())
    }

    /// Switches a fault on for the own account's connections.
    ///
    /// # Errors
    /// When it is refused.
    pub async fn fault(&self, kind: &str, arguments: &[&str]) -> Result<()> {
        let body = json!({"kind": kind, "args": arguments, "target": OWN_PHONE});
        let (status, answer) = self.admin.post("/fault", &body).await?;
        ensure!(status.is_success(), "{status}: {answer}");
        Ok(())
    }

    /// Switches all faults off.
    ///
    /// # Errors
    /// When it is refused.
    pub async fn no_faults(&self) -> Result<()> {
        let (status, answer) = self.admin.delete("/faults").await?;
        ensure!(status.is_success(), "{status}: {answer}");
        Ok(())
    }

    /// Stops the process politely and starts it again on its folder.
    ///
    /// # Errors
    /// When it does not stop or does not get ready.
    pub fn restart(&mut self) -> Result<()> {
        self.stop()?;
        self.start_again()
    }

    /// The same with other options; the data folder stays.
    ///
    /// # Errors
    /// As [`World::restart`].
    pub fn restart_with(&mut self, options: Options) -> Result<()> {
        self.stop()?;
        self.options = Options { data_dir: self.options.data_dir.take(), ..options };
        self.start_again()
    }

    /// Stops the process politely.
    ///
    /// # Errors
    /// When it does not stop in time.
    pub fn stop(&mut self) -> Result<Duration> {
        let (status, took) = self.running.take().context("it does not run")?.terminate()?;
        ensure!(status.success(), "it ended with {status}");
        Ok(took)
    }

    /// Starts the process again on its folder.
    ///
    /// # Errors
    /// When it does not get ready.
    pub fn start_again(&mut self) -> Result<()> {
        let running = launch(self.root.path(), &self.options)?;
        self.api = Api::daemon(&running.ready_text("http")?, &self.data_dir())?;
        self.admin = Api::admin(&running.ready_text("admin")?)?;
        self.running = Some(running);
        Ok(())
    }
}

fn data_dir(root: &Path, options: &Options) -> PathBuf {
    options.data_dir.clone().unwrap_or_else(|| root.join("data"))
}

fn launch(root: &Path, options: &Options) -> Result<Running> {
    let mut command = Binary::sandbox()?.command();
    command.arg("--data-dir").arg(data_dir(root, options)).arg("--socket").arg(root.join("waya.sock"));
    command.args(["--http", "127.0.0.1:0"]).args(&options.arguments);
    command.env("WAYA_CONFIG", empty_config(root)?).env("WAYA_QUEUE_DELAY", "0").env("WAYA_QUEUE_JITTER", "0");
    command.envs(options.environment.iter().map(|(name, value)| (name, value)));
    Running::start(command, &root.join("log"))
}

/// So that a config file of whoever runs the tests is not read.
fn empty_config(root: &Path) -> Result<PathBuf> {
    let path = root.join("waya.toml");
    std::fs::write(&path, "")?;
    Ok(path)
}

/// Runs a command to its end, with something on standard input or nothing.
///
/// # Errors
/// When it cannot be run.
pub fn run(mut command: std::process::Command, input: Option<&[u8]>) -> Result<Output> {
    use std::io::Write as _;
    command.stdin(if input.is_some() { Stdio::piped() } else { Stdio::null() });
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
    if let (Some(bytes), Some(mut stdin)) = (input, child.stdin.take()) {
        // It may well end before it has read everything.
        let _ = stdin.write_all(bytes);
    }
    Ok(child.wait_with_output()?)
}

/// Waits until `check` succeeds.
///
/// # Errors
/// With the last failure when that takes too long.
pub async fn until<T, F: Future<Output = Result<T>>>(what: &str, mut check: impl FnMut() -> F) -> Result<T> {
    let start = Instant::now();
    loop {
        match check().await {
            Ok(value) => return Ok(value),
            Err(error) if start.elapsed() > PATIENCE => {
                return Err(error.context(format!("waited too long until {what}")));
            }
            Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
        }
    }
}
