//! Power cuts, simulated: the image of a mounted file system is copied while its writer is stopped, so that the copy
//! holds what had reached the disk and nothing else. Opened from the copy, everything acknowledged must be there.
//!
//! The same with a store that leaves its fsync out must lose something: otherwise this test would prove nothing.

#![expect(clippy::unwrap_used, reason = "tests")]

mod support;

use std::fs::{self, File, OpenOptions as FileOptions};
use std::io::Write as _;
use std::path::Path;
use std::process::{Child, Command};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, WaitOptions, kill_process, waitpid};
use uuid::Uuid;
use waya_daemon::model::{
    Change, ChatId, Content, Incoming, Lane, MessageId, NewMessage, Source, Status, Timestamp, WhatsAppId,
};
use waya_daemon::store::sled::{Durability, OpenOptions, open};
use waya_daemon::store::{Batch, Enqueued, Store};

const DIR: &str = "WAYA_POWER_CUT_DIR";
const LOG: &str = "WAYA_POWER_CUT_LOG";
const SYNC: &str = "WAYA_POWER_CUT_SYNC";
const FIRST: &str = "WAYA_POWER_CUT_FIRST";
/// Messages with this number or a greater one are all short.
const ALL_SHORT: u64 = 1 << 32;
const NOW: Timestamp = Timestamp::from_millis(1_800_000_000_000);

#[test]
fn everything_acknowledged_survives_a_power_cut() {
    for texts in [Texts::Mixed, Texts::Short] {
        let Some(outcome) = cuts(Durability::Full, texts, 4, false) else { return };
        assert!(outcome.acknowledged > 500, "too little was written: {}", outcome.acknowledged);
        assert_eq!(outcome.losses, Vec::<String>::new());
    }
}

/// With short texts only: the fsync of a long one's file takes the rest of the file system along.
#[test]
fn without_its_fsync_the_store_fails_the_test() {
    let Some(outcome) = cuts(Durability::NoSync, Texts::Short, 8, true) else { return };
    assert!(!outcome.losses.is_empty(), "eight power cuts without fsync lost nothing: the simulation is no good");
}

/// What the writer writes.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Texts {
    /// 64 KiB now and then.
    Mixed,
    /// Only what fits a record.
    Short,
}

struct Outcome {
    acknowledged: usize,
    losses: Vec<String>,
}

/// Cuts the power so many times, or until something is lost; `None` where that cannot be done.
fn cuts(durability: Durability, texts: Texts, count: u64, until_loss: bool) -> Option<Outcome> {
    let root = tempfile::tempdir().unwrap();
    let image = root.path().join("image");
    let mounted =
        support::make_image(&image, 512 << 20).and_then(|()| support::mount(&image, &root.path().join("live")));
    let mounted = match mounted {
        Ok(mounted) => mounted,
        Err(why) => {
            support::skipped(&why);
            return None;
        }
    };
    let log = root.path().join("log");
    File::create(&log).unwrap();
    let mut writer = Writer::start(mounted.path(), &log, durability, texts);
    let mut outcome = Outcome { acknowledged: 0, losses: Vec::new() };
    for n in 0..count {
        writer.goes_on_until(&log, outcome.acknowledged + 200, Duration::from_millis(n * 37 % 200));
        writer.stop();
        let cut = root.path().join("cut");
        fs::copy(&image, &cut).unwrap();
        let acknowledged = fs::read_to_string(&log).unwrap();
        writer.resume();
        outcome.acknowledged = acknowledged.lines().count();
        outcome.losses.extend(lost(&cut, &root.path().join("after"), &acknowledged));
        if until_loss && !outcome.losses.is_empty() {
            break;
        }
    }
    drop(writer);
    Some(outcome)
}

/// What is missing after the power came back.
fn lost(image: &Path, point: &Path, acknowledged: &str) -> Option<String> {
    let mounted = support::mount(image, point).unwrap();
    let opened = open(options(mounted.path(), Durability::Full)).map_err(|error| error.to_string());
    let opened = match opened {
        Ok(opened) => opened,
        Err(error) => return Some(error),
    };
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).build().unwrap();
    let lost = runtime.block_on(missing(&opened.store, acknowledged)).err();
    drop(runtime);
    opened.handle.close();
    assert_eq!(fs::read_dir(mounted.path().join("store/db/blobs")).unwrap().count(), 0);
    lost
}

async fn missing(store: &Store, acknowledged: &str) -> Result<(), String> {
    for line in acknowledged.lines() {
        let mut words = line.split(' ');
        let (what, name) = (words.next().unwrap(), words.next().unwrap());
        if what == "incoming" {
            let again = vec![incoming(name.parse().unwrap())];
            if store.journal.record_incoming(again).await != Ok(vec![false]) {
                return Err(format!("{line} is gone"));
            }
            continue;
        }
        let id = MessageId(name.parse().unwrap());
        let message = store.outbox.message(id).await.map_err(|error| format!("{line}: {error}"))?;
        let message = message.ok_or_else(|| format!("{line} is gone"))?;
        let right = match what {
            "accepted" => message.text == text(id),
            "claimed" => message.status != Status::Pending,
            _ => message.status == Status::Sent,
        };
        if !right {
            return Err(format!("{line} was forgotten: {message:?}"));
        }
    }
    Ok(())
}

/// The process that writes until it is killed.
struct Writer(Child);

impl Writer {
    fn start(dir: &Path, log: &Path, durability: Durability, texts: Texts) -> Self {
        let child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "writer", "--ignored", "--nocapture"])
            .env(DIR, dir)
            .env(LOG, log)
            .env(SYNC, if durability == Durability::Full { "full" } else { "none" })
            .env(FIRST, if texts == Texts::Mixed { 1 } else { ALL_SHORT }.to_string())
            .stdout(std::process::Stdio::null())
            .spawn();
        Self(child.unwrap())
    }

    /// Waits for more acknowledgements, and then a little, so that cuts fall anywhere.
    fn goes_on_until(&mut self, log: &Path, lines: usize, then: Duration) {
        let begun = Instant::now();
        while fs::read_to_string(log).unwrap().lines().count() < lines {
            assert_eq!(self.0.try_wait().unwrap(), None, "the writer ended");
            assert!(begun.elapsed() < Duration::from_mins(1), "the writer does not get on");
            std::thread::sleep(Duration::from_millis(5));
        }
        std::thread::sleep(then);
    }

    fn pid(&self) -> Pid {
        Pid::from_raw(i32::try_from(self.0.id()).unwrap()).unwrap()
    }

    /// Returns when it stands still.
    fn stop(&self) {
        kill_process(self.pid(), Signal::STOP).unwrap();
        let (_, status) = waitpid(Some(self.pid()), WaitOptions::UNTRACED).unwrap().unwrap();
        assert!(status.stopped(), "{status:?}");
    }

    fn resume(&self) {
        kill_process(self.pid(), Signal::CONT).unwrap();
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn options(dir: &Path, durability: Durability) -> OpenOptions {
    OpenOptions { free_space_watermark: 0, durability, ..OpenOptions::new(dir.join("store")) }
}

/// One in forty is long, up to [`ALL_SHORT`].
fn text(id: MessageId) -> String {
    let n = id.0.as_u128() as u64 & (u64::MAX >> 2);
    if is_long(n, 40) { format!("{n:08}").repeat(8_192) } else { format!("text {n}") }
}

fn is_long(n: u64, one_in: u64) -> bool {
    n < ALL_SHORT && n.is_multiple_of(one_in)
}

fn incoming(n: u64) -> Incoming {
    let chat = ChatId::phone("6281200000002");
    Incoming {
        id: n.to_string(),
        sender: chat.clone(),
        chat,
        chat_lid: None,
        sender_lid: None,
        from_me: false,
        push_name: None,
        kind: "chat".to_owned(),
        text: "Halo".to_owned(),
        timestamp: NOW,
        received_at: NOW,
        raw: vec![7; if is_long(n, 100) { 30_000 } else { 100 }],
    }
}

/// Not a test: the process that the tests above stop and copy.
#[test]
#[ignore = "started by the power cuts"]
fn writer() {
    let Some(dir) = std::env::var_os(DIR) else { return };
    let durability = if std::env::var(SYNC).unwrap() == "full" { Durability::Full } else { Durability::NoSync };
    let log = FileOptions::new().append(true).open(std::env::var_os(LOG).unwrap()).unwrap();
    let log = Arc::new(log);
    let opened = open(options(Path::new(&dir), durability)).unwrap();
    let store = opened.store.clone();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(async {
        let numbers = Arc::new(AtomicU64::new(std::env::var(FIRST).unwrap().parse().unwrap()));
        let mut callers = tokio::task::JoinSet::new();
        for _ in 0..16 {
            callers.spawn(write_for_ever(store.clone(), Arc::clone(&numbers), Arc::clone(&log)));
        }
        callers.join_all().await
    });
}

async fn write_for_ever(store: Store, numbers: Arc<AtomicU64>, log: Arc<File>) {
    // One write a line: a line is there whole or not at all.
    let tell = |line: String| (&*log).write_all(line.as_bytes()).unwrap();
    loop {
        let n = numbers.fetch_add(1, Ordering::Relaxed);
        let id = MessageId(Uuid::from_u128(u128::from(NOW.as_millis()) << 80 | 0x7 << 76 | 0b10 << 62 | u128::from(n)));
        let new = NewMessage {
            id,
            reference_id: n.is_multiple_of(3).then(|| "r".to_owned()),
            chat: ChatId::phone("6281200000001"),
            text: text(id),
            content: Content::default(),
            lane: Lane::Normal,
            source: Source::Api,
            whatsapp_id: WhatsAppId::from_random(rand::random()),
            created_at: NOW,
            not_before: None,
        };
        let batch = Batch { messages: vec![new], idempotency: None };
        assert_eq!(store.outbox.enqueue(batch).await, Ok(Enqueued::Fresh));
        tell(format!("accepted {}\n", id.0));
        if n.is_multiple_of(4) {
            store.outbox.change(id, Change::Claim, NOW).await.unwrap();
            tell(format!("claimed {}\n", id.0));
            store.outbox.change(id, Change::Acked, NOW).await.unwrap();
            tell(format!("sent {}\n", id.0));
        }
        if n.is_multiple_of(5) {
            assert_eq!(store.journal.record_incoming(vec![incoming(n)]).await, Ok(vec![true]));
            tell(format!("incoming {n}\n"));
        }
    }
}
