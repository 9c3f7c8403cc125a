//! Daemon and emulator in two processes: what crosses the wire between them, and what happens without it.

#![expect(clippy::unwrap_used, reason = "tests")]

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use waya_tests::{Api, BUDI, Binary, Port, Running, SITI, until};

/// One folder for both.
struct World {
    root: TempDir,
    emulator: Option<Running>,
    /// Where the emulator listens.
    port: Port,
    admin: Api,
}

impl World {
    fn start() -> Result<Self> {
        let root = tempfile::tempdir()?;
        let port = Port::any()?;
        let emulator = emulator(root.path(), &port)?;
        let admin = Api::admin(&emulator.ready_text("admin")?)?;
        Ok(Self { root, emulator: Some(emulator), port, admin })
    }

    fn emulator_data(&self) -> PathBuf {
        self.root.path().join("emulator/emulator")
    }

    /// The daemon, with its WhatsApp at `address`.
    fn daemon(&self, address: SocketAddr) -> Result<(Running, Api)> {
        let data = self.root.path().join("daemon");
        let mut command = Binary::sandbox()?.command();
        command.arg("--connect").arg(format!("ws://{address}/ws/chat")).args(["--http", "127.0.0.1:0"]);
        command.arg("--data-dir").arg(&data).arg("--socket").arg(self.root.path().join("s"));
        command.env("WAYA_QUEUE_DELAY", "0").env("WAYA_QUEUE_JITTER", "0").env("WAYA_LOG_FILTER", "debug");
        let daemon = Running::start(command, &self.root.path().join("daemon.log"))?;
        let api = Api::daemon(&daemon.ready_text("http")?, &data)?;
        Ok((daemon, api))
    }

    async fn command(&self, path: &str, body: Value) -> Result<()> {
        let (status, answer) = self.admin.post(path, &body).await?;
        ensure!(status.is_success(), "{path}: {answer}");
        Ok(())
    }
}

fn emulator(root: &Path, port: &Port) -> Result<Running> {
    let mut command = Binary::sandbox()?.command();
    command.args(["serve", "--people", "2", "--listen", &port.address.to_string()]);
    command.arg("--data-dir").arg(root.join("emulator"));
    Running::start(command, &root.join("emulator.log"))
}

/// Has a message accepted; its queue id.
async fn accept(api: &Api, number: &str, text: &str) -> Result<String> {
    let (status, answer) = api.post("/api/send-message", &json!({"number": number, "message": text})).await?;
    ensure!(status == reqwest::StatusCode::ACCEPTED, "{status}: {answer}");
    Ok(answer["id"].as_str().context("no id")?.to_owned())
}

async fn until_sent(api: &Api, id: &str) -> Result<()> {
    until("the message is sent", || async {
        let (_, message) = api.get(&format!("/api/message-status/{id}")).await?;
        if message["status"] == "sent" { Ok(()) } else { bail!("{message}") }
    })
    .await
}

async fn until_session(api: &Api, wanted: impl Fn(&Value) -> bool) -> Result<Value> {
    until("the session is as wanted", || async {
        let (_, session) = api.get("/api/session").await?;
        if wanted(&session) { Ok(session) } else { bail!("{session}") }
    })
    .await
}

async fn until_arrived(admin: &Api, who: &str, text: &str) -> Result<()> {
    until("the text is in the inbox", || async {
        let (_, inbox) = admin.get(&format!("/inbox/{who}")).await?;
        let rows = inbox["messages"].as_array().context("no messages")?;
        if rows.iter().any(|row| row["text"] == text) { Ok(()) } else { bail!("{inbox}") }
    })
    .await
}

/// The text is nowhere but at its two ends: not on the wire, not with the server while it keeps the message for
/// somebody who is away, and not in the daemon's log, which shows no number either.
#[tokio::test(flavor = "multi_thread")]
async fn a_text_is_in_the_clear_at_its_two_ends_only() -> Result<()> {
    let text = "rahasia ".repeat(200);
    let world = World::start()?;
    let tap = Tap::start(world.port.address).await?;
    let (_daemon, api) = world.daemon(tap.address)?;
    until_session(&api, |session| session["state"] == "connected").await?;

    accept(&api, BUDI, &text).await?;
    until_arrived(&world.admin, BUDI, &text).await?;
    world.command("/say", json!({"from": BUDI, "text": format!("{text}kembali")})).await?;
    until("the answer is journalled", || async {
        let (_, events) = api.get("/api/events?after=0").await?;
        if events.to_string().contains("kembali") { Ok(()) } else { bail!("{events}") }
    })
    .await?;

    world.command("/offline", json!({"who": SITI})).await?;
    let before = server_files(&world.emulator_data());
    let id = accept(&api, SITI, &text).await?;
    until_sent(&api, &id).await?;
    let kept = server_files(&world.emulator_data());
    assert!(kept.len() > before.len() + text.len(), "the server keeps it: {} after {}", kept.len(), before.len());
    assert!(!holds(&kept, b"rahasia"), "the server can read what it keeps");
    world.command("/online", json!({"who": SITI})).await?;
    until_arrived(&world.admin, SITI, &text).await?;

    let wire = tap.payloads();
    assert!(holds(&wire, b"WA\x06"), "the tap sees what the daemon sends, without the WebSocket's mask");
    assert!(wire.len() > 3 * text.len(), "all three texts went through: {}", wire.len());
    assert!(!holds(&wire, b"rahasia") && !holds(&tap.bytes(), b"rahasia"));

    let log = std::fs::read(world.root.path().join("daemon.log"))?;
    assert!(holds(&log, b"Handshake complete"), "the client library's own lines are in the log");
    assert!(!holds(&log, b"rahasia"));
    assert!(!holds(&log, BUDI.as_bytes()) && !holds(&log, SITI.as_bytes()));
    Ok(())
}

/// Linked once, then started while WhatsApp cannot be reached: it serves, says why it is offline, and takes work.
#[tokio::test(flavor = "multi_thread")]
async fn a_start_without_whatsapp_takes_work_and_catches_up() -> Result<()> {
    let mut world = World::start()?;
    let (daemon, api) = world.daemon(world.port.address)?;
    until_session(&api, |session| session["state"] == "connected").await?;
    daemon.terminate()?;
    world.emulator.take().context("no emulator runs")?.terminate()?;

    // `Running::start` waits for the ready line.
    let (_daemon, api) = world.daemon(world.port.address)?;
    let offline = until_session(&api, |session| session["state"] == "offline").await?;
    let reason = offline["reason"].as_str().context("no reason")?;
    assert!(reason.contains(&world.port.address.to_string()), "{offline}");
    assert!(offline["retryAt"].is_i64(), "{offline}");
    let id = accept(&api, BUDI, "sebelum ada WhatsApp").await?;
    let (_, message) = api.get(&format!("/api/message-status/{id}")).await?;
    assert_eq!((&message["status"], &message["hold"]["reason"]), (&json!("pending"), &json!("offline")), "{message}");

    world.emulator = Some(emulator(world.root.path(), &world.port)?);
    until_sent(&api, &id).await?;
    until_arrived(&world.admin, BUDI, "sebelum ada WhatsApp").await
}

/// What the emulator's server has on disk; what the people keep of their own is not the server's.
fn server_files(folder: &Path) -> Vec<u8> {
    let mut all = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_file() {
            all.extend(std::fs::read(path).unwrap());
        }
    }
    all
}

fn holds(bytes: &[u8], text: &[u8]) -> bool {
    bytes.windows(text.len()).any(|window| window == text)
}

/// Passes every byte on, and keeps it: one stream for each direction of each connection.
struct Tap {
    address: SocketAddr,
    streams: Arc<Mutex<Vec<Vec<u8>>>>,
}

impl Tap {
    async fn start(server: SocketAddr) -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let (address, streams) = (listener.local_addr()?, Arc::<Mutex<Vec<Vec<u8>>>>::default());
        let kept = Arc::clone(&streams);
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let Ok(server) = TcpStream::connect(server).await else { continue };
                let (from_client, to_client) = client.into_split();
                let (from_server, to_server) = server.into_split();
                tokio::spawn(pass_on(from_client, to_server, Arc::clone(&kept)));
                tokio::spawn(pass_on(from_server, to_client, Arc::clone(&kept)));
            }
        });
        Ok(Self { address, streams })
    }

    /// Everything as it crossed.
    fn bytes(&self) -> Vec<u8> {
        self.streams.lock().unwrap().concat()
    }

    /// What the WebSocket frames carried: clients mask theirs.
    fn payloads(&self) -> Vec<u8> {
        self.streams.lock().unwrap().iter().flat_map(|stream| unframed(stream)).collect()
    }
}

async fn pass_on(mut from: impl AsyncRead + Unpin, mut to: impl AsyncWrite + Unpin, streams: Arc<Mutex<Vec<Vec<u8>>>>) {
    let number = {
        let mut streams = streams.lock().unwrap();
        streams.push(Vec::new());
        streams.len() - 1
    };
    let mut buffer = vec![0; 16 * 1024];
    while let Ok(count @ 1..) = from.read(&mut buffer).await {
        streams.lock().unwrap()[number].extend_from_slice(&buffer[..count]);
        if to.write_all(&buffer[..count]).await.is_err() {
            return;
        }
    }
    let _ = to.shutdown().await;
}

/// The payloads of a WebSocket stream's whole frames, after the HTTP that opened it; nothing of another stream.
fn unframed(stream: &[u8]) -> Vec<u8> {
    let Some(head) = stream.windows(4).position(|window| window == b"\r\n\r\n") else { return Vec::new() };
    if !holds(&stream[..head].to_ascii_lowercase(), b"upgrade: websocket") {
        return Vec::new();
    }
    let mut rest = &stream[head + 4..];
    let mut all = Vec::new();
    while let Some((payload, after)) = frame(rest) {
        all.extend(payload);
        rest = after;
    }
    all
}

/// One frame's payload, and what follows the frame.
fn frame(bytes: &[u8]) -> Option<(Vec<u8>, &[u8])> {
    let (short, rest) = bytes.get(1..)?.split_first()?;
    let (length, rest) = match short & 0x7f {
        126 => (usize::from(u16::from_be_bytes(*rest.first_chunk()?)), &rest[2..]),
        127 => (usize::try_from(u64::from_be_bytes(*rest.first_chunk()?)).ok()?, &rest[8..]),
        short => (usize::from(short), rest),
    };
    let (mask, rest) = if short & 0x80 != 0 { (*rest.first_chunk()?, &rest[4..]) } else { ([0; 4], rest) };
    let (payload, rest) = rest.split_at_checked(length)?;
    Some((payload.iter().zip(mask.iter().cycle()).map(|(byte, mask)| byte ^ mask).collect(), rest))
}
