//! Durable enqueues a second and CPU a message, beside what the disk gives: append and fdatasync, grouped alike.
//!
//! `cargo bench -p waya-daemon --bench store [-- DIR]`; DIR is where the files go (default: the temporary folder).

#![expect(clippy::unwrap_used, clippy::print_stdout, reason = "a benchmark")]

use std::fs::File;
use std::io::Write as _;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

use rustix::time::{ClockId, clock_gettime};
use tokio::sync::oneshot;
use uuid::Uuid;
use waya_daemon::model::{ChatId, Content, Lane, MessageId, NewMessage, Source, Timestamp, WhatsAppId};
use waya_daemon::store::sled::{OpenOptions, Opened, open};
use waya_daemon::store::{Batch, Store};

const TEXT: usize = 400;
const NOW: Timestamp = Timestamp::from_millis(1_800_000_000_000);

struct Figures {
    name: &'static str,
    callers: usize,
    rate: f64,
    cpu: Duration,
    p50: Duration,
    p99: Duration,
}

fn main() {
    let dir = std::env::args()
        .skip(1)
        .find(|argument| !argument.starts_with('-'))
        .map_or_else(std::env::temp_dir, Into::into);
    let root = tempfile::tempdir_in(dir).unwrap();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).build().unwrap();
    println!(
        "{:<8} {:>8} {:>10} {:>12} {:>10} {:>10} {:>8}",
        "what", "callers", "per s", "CPU us each", "p50 us", "p99 us", "of raw"
    );
    for (callers, count) in [(64, 100_000), (1, 5_000)] {
        let raw = runtime.block_on(raw(&root.path().join("raw"), callers, count));
        let store = runtime.block_on(store(&root.path().join(format!("store-{callers}")), callers, count));
        for figures in [&raw, &store] {
            print(figures, raw.rate);
        }
    }
    start(&root.path().join("start"), &runtime);
}

fn print(figures: &Figures, raw: f64) {
    let micros = |time: Duration| time.as_secs_f64() * 1e6;
    println!(
        "{:<8} {:>8} {:>10.0} {:>12.1} {:>10.0} {:>10.0} {:>8.2}",
        figures.name,
        figures.callers,
        figures.rate,
        micros(figures.cpu),
        micros(figures.p50),
        micros(figures.p99),
        figures.rate / raw
    );
}

/// What one caller does, over and over.
async fn measure<F>(
    name: &'static str,
    callers: usize,
    count: u64,
    call: impl Fn(u64) -> F + Clone + Send + 'static,
) -> Figures
where
    F: Future<Output = ()> + Send,
{
    let next = Arc::new(AtomicU64::new(0));
    let mut running = tokio::task::JoinSet::new();
    let (begun, cpu) = (Instant::now(), cpu());
    for _ in 0..callers {
        let (next, call) = (Arc::clone(&next), call.clone());
        running.spawn(async move {
            let mut times = Vec::new();
            loop {
                let n = next.fetch_add(1, Ordering::Relaxed);
                if n >= count {
                    return times;
                }
                let begun = Instant::now();
                call(n).await;
                times.push(begun.elapsed());
            }
        });
    }
    let mut times: Vec<Duration> = running.join_all().await.concat();
    let (elapsed, cpu) = (begun.elapsed(), self::cpu().saturating_sub(cpu));
    times.sort_unstable();
    let each = u32::try_from(count).unwrap();
    Figures {
        name,
        callers,
        rate: count as f64 / elapsed.as_secs_f64(),
        cpu: cpu / each,
        p50: times[times.len() / 2],
        p99: times[times.len() * 99 / 100],
    }
}

async fn store(dir: &Path, callers: usize, count: u64) -> Figures {
    let Opened { store, handle } = open(OpenOptions::new(dir)).unwrap();
    let figures = measure("store", callers, count, move |n| enqueue(store.clone(), n)).await;
    handle.close();
    figures
}

async fn enqueue(store: Store, n: u64) {
    let batch = Batch { messages: vec![message(n)], idempotency: None };
    store.outbox.enqueue(batch).await.unwrap();
}

fn message(n: u64) -> NewMessage {
    NewMessage {
        id: MessageId(Uuid::from_u128(u128::from(NOW.as_millis()) << 80 | 0x7 << 76 | 0b10 << 62 | u128::from(n))),
        reference_id: None,
        chat: ChatId::phone("6281200000001"),
        text: "x".repeat(TEXT),
        content: Content::default(),
        lane: Lane::Normal,
        source: Source::Api,
        whatsapp_id: WhatsAppId::from_random(rand::random()),
        created_at: NOW,
        not_before: None,
    }
}

type Line = (Vec<u8>, oneshot::Sender<()>);

/// The least that durability can cost: one thread appends what waits and syncs once a group.
async fn raw(path: &Path, callers: usize, count: u64) -> Figures {
    let mut file = File::create(path).unwrap();
    let (lines, waiting) = mpsc::channel::<Line>();
    let writer = std::thread::spawn(move || {
        while let Ok(first) = waiting.recv() {
            let group: Vec<Line> = std::iter::once(first).chain(waiting.try_iter().take(1_023)).collect();
            let bytes: Vec<u8> = group.iter().flat_map(|(line, _)| line).copied().collect();
            file.write_all(&bytes).unwrap();
            file.sync_data().unwrap();
            for (_, reply) in group {
                let _ = reply.send(());
            }
        }
    });
    let call = move |_| {
        let (reply, answer) = oneshot::channel();
        lines.send((vec![b'x'; TEXT + 100], reply)).unwrap();
        async { answer.await.unwrap() }
    };
    let figures = measure("raw", callers, count, call).await;
    writer.join().unwrap();
    figures
}

/// How long a start takes with 10,000 and 100,000 messages stored.
fn start(dir: &Path, runtime: &tokio::runtime::Runtime) {
    for thousands in [10, 100] {
        let dir = dir.join(thousands.to_string());
        let Opened { store, handle } = open(OpenOptions::new(&dir)).unwrap();
        for n in 0..thousands {
            let messages = (0..1_000).map(|m| message(n * 1_000 + m)).collect();
            runtime.block_on(store.outbox.enqueue(Batch { messages, idempotency: None })).unwrap();
        }
        handle.close();
        let begun = Instant::now();
        let opened = open(OpenOptions::new(&dir)).unwrap();
        println!("start with {thousands},000 messages stored: {:.1} ms", begun.elapsed().as_secs_f64() * 1e3);
        opened.handle.close();
    }
}

/// What the whole process has used.
fn cpu() -> Duration {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    Duration::new(u64::try_from(time.tv_sec).unwrap(), u32::try_from(time.tv_nsec).unwrap())
}
