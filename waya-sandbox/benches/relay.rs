//! What the emulator relays: many connections, each with messages under way to the next one, whose receipts come back.
//!
//! `cargo bench -p waya-sandbox --bench relay [-- CONNECTIONS SECONDS]`. The emulator is a process of its own; the
//! clients shake hands and log in for real, but encrypt nothing end to end: they hand over what was encrypted beforehand.

#![expect(clippy::unwrap_used, clippy::print_stdout, reason = "a benchmark")]

use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::{StreamExt as _, stream};
use serde_json::Value;
use tokio::sync::Mutex;
use whatsapp_rust::TokioRuntime;
use whatsapp_rust::async_channel::Receiver;
use whatsapp_rust::bot::Bot;
use whatsapp_rust::handshake::do_handshake;
use whatsapp_rust::socket::NoiseSocket;
use whatsapp_rust::store::persistence_manager::PersistenceManager;
use whatsapp_rust::transport::{TokioWebSocketTransportFactory, Transport, TransportEvent, TransportFactory as _};
use whatsapp_rust::wacore::framing::FrameDecoder;
use whatsapp_rust::wacore::net::{HttpClient, HttpRequest, HttpResponse};
use whatsapp_rust::wacore::store::InMemoryBackend;
use whatsapp_rust::wacore::types::events::{ChannelEventHandler, Event, EventHandler};
use whatsapp_rust::wacore_binary::builder::NodeBuilder;
use whatsapp_rust::wacore_binary::marshal::unmarshal_ref;
use whatsapp_rust::wacore_binary::util::unpack_bytes;
use whatsapp_rust::wacore_binary::{Jid, Node, NodeRef, marshal};

/// Messages that each connection has handed over without an ack.
const UNDER_WAY: usize = 2;
/// Bytes of a short text, encrypted.
const CIPHERTEXT: usize = 150;

#[derive(Default)]
struct Counts {
    acked: AtomicU64,
    delivered: AtomicU64,
    confirmed: AtomicU64,
    latencies: std::sync::Mutex<Vec<Duration>>,
    over: AtomicBool,
}

fn main() {
    let mut numbers = std::env::args().skip(1).filter_map(|argument| argument.parse::<u64>().ok());
    let (connections, seconds) = (numbers.next().unwrap_or(500), numbers.next().unwrap_or(10));
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(run(connections, Duration::from_secs(seconds)));
}

async fn run(connections: u64, time: Duration) {
    let mut serve = Serve::start();
    let before = serve.rss();
    let phones: Vec<_> = (0..connections).map(|number| format!("62813{number:08}")).collect();
    let backends: Vec<_> = stream::iter(&phones).map(|phone| link(&serve, phone)).buffered(8).collect().await;
    let linked = serve.rss();
    println!("{connections} connections, {UNDER_WAY} messages under way on each, {:.0} s", time.as_secs_f64());
    println!("  emulator RSS   {before:.1} MiB at first, {linked:.1} all linked");
    // The second time shows whether what the first one took is used again.
    for _ in 0..2 {
        wave(&serve, &phones, &backends, time).await;
    }
    serve.process.kill().unwrap();
    serve.process.wait().unwrap();
}

/// Everybody comes, speaks for a time, and goes.
async fn wave(serve: &Serve, phones: &[String], backends: &[Arc<InMemoryBackend>], time: Duration) {
    let counts = Arc::new(Counts::default());
    let mut lines = Vec::new();
    for (number, (phone, backend)) in phones.iter().zip(backends).enumerate() {
        let to = phones[(number + 1) % phones.len()].clone();
        lines.push(Line::log_in(&serve.url, phone.clone(), to, backend.clone(), counts.clone()).await);
    }
    let online = serve.rss();
    let (begun, cpu) = (Instant::now(), serve.cpu());
    let speaking = lines.iter().map(|line| async move {
        for number in 0..UNDER_WAY {
            line.speak(number as u64).await;
        }
    });
    futures_util::future::join_all(speaking).await;
    tokio::time::sleep(time).await;
    counts.over.store(true, Ordering::Relaxed);
    let (elapsed, cpu) = (begun.elapsed().as_secs_f64(), serve.cpu().saturating_sub(cpu));
    let busy = serve.rss();
    let acked = counts.acked.load(Ordering::Relaxed);
    while counts.confirmed.load(Ordering::Relaxed) < acked {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let mut latencies = std::mem::take(&mut *counts.latencies.lock().unwrap());
    latencies.sort_unstable();
    let at = |share: f64| latencies[(latencies.len() as f64 * share) as usize].as_secs_f64() * 1e3;
    for line in lines {
        line.transport.disconnect().await;
        line.reader.abort();
    }
    tokio::time::sleep(Duration::from_secs(3)).await;
    println!("  acknowledged   {:.0} messages/s", acked as f64 / elapsed);
    println!("  ack            {:.1} ms p50, {:.1} ms p99", at(0.5), at(0.99));
    println!("  emulator CPU   {:.0} us a message, receipt and all", cpu.as_micros() as f64 / acked as f64);
    println!("  emulator RSS   {online:.1} MiB all online, {busy:.1} busy, {:.1} all gone", serve.rss());
}

struct Serve {
    process: Child,
    url: String,
    admin: String,
}

impl Serve {
    fn start() -> Self {
        let mut process = Command::new(env!("CARGO_BIN_EXE_waya-sandbox"))
            .args(["serve", "--listen", "127.0.0.1:0", "--people", "1"])
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        std::io::BufRead::read_line(&mut std::io::BufReader::new(process.stdout.take().unwrap()), &mut line).unwrap();
        let ready: Value = serde_json::from_str(&line).unwrap();
        let text = |name: &str| ready[name].as_str().unwrap().to_owned();
        Self { process, url: text("whatsapp"), admin: text("admin") }
    }

    fn of_proc(&self, file: &str) -> String {
        std::fs::read_to_string(format!("/proc/{}/{file}", self.process.id())).unwrap()
    }

    /// MiB.
    fn rss(&self) -> f64 {
        let status = self.of_proc("status");
        let line = status.lines().find(|line| line.starts_with("VmRSS")).unwrap();
        line.split_whitespace().nth(1).unwrap().parse::<f64>().unwrap() / 1024.0
    }

    fn cpu(&self) -> Duration {
        let stat = self.of_proc("stat");
        let fields: Vec<_> = stat.rsplit(')').next().unwrap().split_whitespace().collect();
        // Clock ticks, of which there are a hundred a second.
        let ticks: u64 = fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap();
        Duration::from_millis(ticks * 10)
    }
}

struct NoHttp;

#[async_trait]
impl HttpClient for NoHttp {
    async fn execute(&self, request: HttpRequest) -> whatsapp_rust::anyhow::Result<HttpResponse> {
        Err(whatsapp_rust::anyhow::anyhow!("no HTTP here: {}", request.url))
    }
}

struct Forward(Arc<ChannelEventHandler>);

impl EventHandler for Forward {
    fn handle_event(&self, event: Arc<Event>) {
        self.0.handle_event(event);
    }
}

/// Links a device as any client does, and hands back its keys.
async fn link(serve: &Serve, phone: &str) -> Arc<InMemoryBackend> {
    let backend = Arc::new(InMemoryBackend::new());
    let (handler, events) = ChannelEventHandler::new();
    let bot = Bot::builder()
        .with_backend_arc(backend.clone())
        .with_transport_factory(TokioWebSocketTransportFactory::new().with_url(&serve.url))
        .with_http_client(NoHttp)
        .with_version((2, 3000, 1_015_901_307))
        .with_wanted_pre_key_count(5)
        .skip_history_sync()
        .with_event_handler(Forward(handler))
        .build()
        .await
        .unwrap();
    let handle = bot.spawn();
    loop {
        match &*events.recv().await.unwrap() {
            Event::PairingQrCode(qr) => {
                let scan = format!("{}/mock-phone/scan-qr?phone={phone}", serve.admin);
                let answer = reqwest::Client::new().post(scan).body(qr.code.clone()).send().await.unwrap();
                assert!(answer.status().is_success(), "{}", answer.text().await.unwrap());
            }
            Event::Connected(_) => break,
            _ => {}
        }
    }
    handle.shutdown().await;
    backend
}

/// One logged-in connection, without any client behind it.
struct Line {
    socket: Arc<NoiseSocket>,
    transport: Arc<dyn Transport>,
    reader: tokio::task::JoinHandle<()>,
    speaker: Arc<Speaker>,
}

struct Speaker {
    phone: String,
    to: String,
    begun: Vec<Mutex<Instant>>,
    counts: Arc<Counts>,
}

impl Line {
    async fn log_in(url: &str, phone: String, to: String, backend: Arc<InMemoryBackend>, counts: Arc<Counts>) -> Self {
        let keys = PersistenceManager::new(backend).await.unwrap();
        let (transport, mut events) =
            TokioWebSocketTransportFactory::new().with_url(url).create_transport().await.unwrap();
        let failures = AtomicU32::new(0);
        let socket =
            do_handshake(Arc::new(TokioRuntime), &keys, &failures, transport.clone(), &mut events, None).await.unwrap();
        let begun = (0..UNDER_WAY).map(|_| Mutex::new(Instant::now())).collect();
        let speaker = Arc::new(Speaker { phone, to, begun, counts });
        let (ready, online) = tokio::sync::oneshot::channel();
        let reader = tokio::spawn(read(socket.clone(), events, speaker.clone(), Some(ready)));
        let active = NodeBuilder::new("active").build();
        let iq = NodeBuilder::new("iq").attr("id", "1").attr("to", "s.whatsapp.net").attr("type", "set");
        send(&socket, &iq.attr("xmlns", "passive").children([active]).build()).await;
        online.await.unwrap();
        Self { socket, transport, reader, speaker }
    }

    async fn speak(&self, place: u64) {
        speak(&self.socket, &self.speaker, place, 0).await;
    }
}

async fn send(socket: &NoiseSocket, node: &Node) {
    let _ = socket.encrypt_and_send(Bytes::from(marshal(node).unwrap())).await;
}

async fn speak(socket: &NoiseSocket, speaker: &Speaker, place: u64, number: u64) {
    *speaker.begun[place as usize].lock().await = Instant::now();
    let enc = || NodeBuilder::new("enc").attr("v", "2").attr("type", "msg").bytes(vec![7; CIPHERTEXT]).build();
    let copy = |jid: Jid| NodeBuilder::new("to").attr("jid", jid).children([enc()]).build();
    let copies = [
        copy(Jid::pn(speaker.to.as_str())),
        copy(Jid::pn_device(speaker.to.as_str(), 1)),
        copy(Jid::pn(speaker.phone.as_str())),
    ];
    let message = NodeBuilder::new("message")
        .attr("to", Jid::pn(speaker.to.as_str()))
        .attr("id", format!("{}-{place}-{number}", speaker.phone))
        .attr("type", "text")
        .children([NodeBuilder::new("participants").children(copies).build()])
        .build();
    send(socket, &message).await;
}

async fn read(
    socket: Arc<NoiseSocket>,
    events: Receiver<TransportEvent>,
    speaker: Arc<Speaker>,
    mut ready: Option<tokio::sync::oneshot::Sender<()>>,
) {
    let mut decoder = FrameDecoder::new();
    while let Ok(event) = events.recv().await {
        let TransportEvent::DataReceived(bytes) = event else { continue };
        decoder.feed(&bytes);
        while let Some(frame) = decoder.decode_frame() {
            let plain = socket.decrypt_frame(frame).unwrap();
            let unpacked = unpack_bytes(plain).unwrap();
            let node = unmarshal_ref(&unpacked).unwrap();
            if node.tag == "iq"
                && let Some(ready) = ready.take()
            {
                let _ = ready.send(());
            }
            take(&socket, &speaker, &node).await;
        }
    }
}

async fn take(socket: &NoiseSocket, speaker: &Speaker, node: &NodeRef<'_>) {
    let text = |name: &str| node.get_attr(name).map(|value| value.as_str().into_owned()).unwrap_or_default();
    let (id, from) = (text("id"), text("from"));
    let counts = &speaker.counts;
    match node.tag.as_ref() {
        "message" => {
            counts.delivered.fetch_add(1, Ordering::Relaxed);
            send(socket, &NodeBuilder::new("receipt").attr("to", from).attr("id", id).build()).await;
        }
        tag @ ("receipt" | "notification") => {
            if tag == "receipt" {
                counts.confirmed.fetch_add(1, Ordering::Relaxed);
            }
            let ack = NodeBuilder::new("ack").attr("class", tag.to_owned()).attr("to", from).attr("id", id);
            send(socket, &ack.build()).await;
        }
        "ack" if text("class") == "message" => {
            counts.acked.fetch_add(1, Ordering::Relaxed);
            let mut parts = id.rsplit('-');
            let number: u64 = parts.next().unwrap().parse().unwrap();
            let place: u64 = parts.next().unwrap().parse().unwrap();
            let took = speaker.begun[place as usize].lock().await.elapsed();
            counts.latencies.lock().unwrap().push(took);
            if !counts.over.load(Ordering::Relaxed) {
                speak(socket, speaker, place, number + 1).await;
            }
        }
        _ => {}
    }
}
