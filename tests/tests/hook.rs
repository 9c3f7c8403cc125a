//! A crash between decrypting a message and having it on disk: WhatsApp must deliver it again.
//!
//! The crash is a real one: this test's own binary runs once more as a child, opens the session, and is killed while it
//! stands inside the hook that keeps the acknowledgement back.

#![expect(clippy::unwrap_used, reason = "tests")]

use std::io::{BufRead as _, BufReader, Write as _};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};

use anyhow::{Context as _, Result, ensure};
use async_trait::async_trait;
use serde_json::json;
use tokio::sync::mpsc;
use waya_daemon::clock::SystemClock;
use waya_daemon::model::{Incoming, LinkState, PairingMethod};
use waya_daemon::session::whatsapp_rs::{self, SessionConfig};
use waya_daemon::session::{Inbox, WhatsApp};
use waya_tests::{Api, BUDI, Binary, Running, until};

/// In the child's environment: where its session's keys are, and WhatsApp's address.
const FOLDER: &str = "HOOK_TEST_FOLDER";
const URL: &str = "HOOK_TEST_URL";
const IN_THE_HOOK: &str = "in the hook";

/// Writes down what it is given, after it was allowed to.
#[derive(Debug, Default)]
struct Recorder(Mutex<Vec<String>>);

#[async_trait]
impl Inbox for Recorder {
    async fn commit(&self, batch: Vec<Incoming>) -> Result<()> {
        self.0.lock().unwrap().extend(batch.into_iter().map(|incoming| incoming.text));
        Ok(())
    }
}

/// Says that it was reached, and never comes back.
#[derive(Debug)]
struct Abyss;

#[async_trait]
impl Inbox for Abyss {
    async fn commit(&self, batch: Vec<Incoming>) -> Result<()> {
        if batch.iter().any(|incoming| incoming.text == "Halo") {
            let mut stdout = std::io::stdout();
            writeln!(stdout, "{IN_THE_HOOK}")?;
            stdout.flush()?;
            std::future::pending::<()>().await;
        }
        Ok(())
    }
}

async fn open(folder: &Path, url: &str, inbox: Arc<dyn Inbox>) -> Result<Arc<dyn WhatsApp>> {
    let config = SessionConfig {
        data_dir: folder.to_owned(),
        url: Some(url.to_owned()),
        sandbox: true,
        push_name: Some("Hook".to_owned()),
        ..SessionConfig::default()
    };
    // The receiver may go: nobody here wants the events.
    let (events, _) = mpsc::unbounded_channel();
    Ok(whatsapp_rs::open(config, inbox, events, Arc::new(SystemClock)).await?)
}

/// Links the folder's session by playing the phone.
async fn link(session: &Arc<dyn WhatsApp>, admin: &Api) -> Result<()> {
    session.pair(PairingMethod::Qr).await?;
    let mut link = session.link();
    let shown = link.wait_for(|link| matches!(&link.state, LinkState::Pairing { qr: Some(_), .. })).await?;
    let LinkState::Pairing { qr: Some(qr), .. } = shown.state.clone() else { unreachable!() };
    drop(shown);
    let scan = admin.request(reqwest::Method::POST, "/mock-phone/scan-qr?phone=6281299999999").body(qr);
    let status = scan.send().await?.status();
    ensure!(status.is_success(), "the scan was refused: {status}");
    link.wait_for(|link| link.state.is_connected()).await?;
    Ok(())
}

#[tokio::test]
async fn a_kill_inside_the_hook_makes_whatsapp_deliver_again() -> Result<()> {
    let root = tempfile::tempdir()?;
    let folder = root.path().join("session");
    std::fs::create_dir(&folder)?;
    let mut command = Binary::sandbox()?.command();
    command.args(["serve", "--listen", "127.0.0.1:0"]);
    let emulator = Running::start(command, &root.path().join("log"))?;
    let url = emulator.ready_text("whatsapp")?;
    let admin = Api::admin(&emulator.ready_text("admin")?)?;

    let before = Arc::new(Recorder::default());
    let session = open(&folder, &url, before).await?;
    link(&session, &admin).await?;
    session.shutdown().await;
    drop(session);

    let mut child = Command::new(std::env::current_exe()?)
        .args(["child_that_is_killed_in_the_hook", "--exact", "--nocapture", "--include-ignored"])
        .env(FOLDER, &folder)
        .env(URL, &url)
        .stdout(Stdio::piped())
        .spawn()?;
    let stdout = BufReader::new(child.stdout.take().context("no output")?);
    let say = json!({"from": BUDI, "to": "6281299999999", "text": "Halo"});
    let (status, answer) = admin.post("/say", &say).await?;
    ensure!(status.is_success(), "{answer}");
    let reached = tokio::task::spawn_blocking(move || {
        stdout.lines().map_while(std::result::Result::ok).any(|line| line.contains(IN_THE_HOOK))
    });
    ensure!(reached.await?, "the child ended without having reached the hook");
    child.kill()?;
    child.wait()?;

    let after = Arc::new(Recorder::default());
    let session = open(&folder, &url, Arc::clone(&after) as Arc<dyn Inbox>).await?;
    until("it is delivered again", || async {
        ensure!(after.0.lock().unwrap().contains(&"Halo".to_owned()), "not yet");
        Ok(())
    })
    .await?;
    // Acknowledged now: a further login brings it no more.
    session.shutdown().await;
    drop(session);
    let last = Arc::new(Recorder::default());
    let session = open(&folder, &url, Arc::clone(&last) as Arc<dyn Inbox>).await?;
    session.link().wait_for(|link| link.state.is_connected()).await?;
    let (status, answer) = admin.post("/say", &json!({"from": BUDI, "to": "6281299999999", "text": "next"})).await?;
    ensure!(status.is_success(), "{answer}");
    until("the next one is there", || async {
        ensure!(!last.0.lock().unwrap().is_empty(), "not yet");
        Ok(())
    })
    .await?;
    assert_eq!(*last.0.lock().unwrap(), ["next"]);
    session.shutdown().await;
    Ok(())
}

/// Not a test of its own: what the test above runs and kills.
#[tokio::test]
async fn child_that_is_killed_in_the_hook() -> Result<()> {
    let (Some(folder), Ok(url)) = (std::env::var_os(FOLDER), std::env::var(URL)) else { return Ok(()) };
    let _session = open(Path::new(&folder), &url, Arc::new(Abyss)).await?;
    std::future::pending::<()>().await;
    Ok(())
}
