//! A broken store and the daemon's binary: the start says what to do, and doing it brings the messages back.

#![expect(clippy::unwrap_used, reason = "tests")]

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::time::Duration;

use uuid::Uuid;
use waya_daemon::data_dir::DataDir;
use waya_daemon::model::{ChatId, Content, Kind, Lane, MessageId, NewMessage, Source, Status, Timestamp, WhatsAppId};
use waya_daemon::store::sled::{OpenOptions, Opened, open};
use waya_daemon::store::{Batch, Enqueued, Store};

const NOW: Timestamp = Timestamp::from_millis(1_800_000_000_000);

/// The binary's exit code, and both its outputs.
fn daemon(root: &Path, arguments: &[&str]) -> (Option<i32>, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_waya-daemon"));
    command.env_clear().env("HOME", root).env("XDG_RUNTIME_DIR", root);
    command.arg("--data-dir").arg(root.join("data")).args(["--http", "off"]).args(arguments);
    let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let pid = child.id().to_string();
    // One that starts to serve would never end.
    let (done, ended) = mpsc::channel::<()>();
    let guard = std::thread::spawn(move || {
        if ended.recv_timeout(Duration::from_secs(30)) == Err(mpsc::RecvTimeoutError::Timeout) {
            Command::new("kill").arg(pid).status().unwrap();
        }
    });
    let output = child.wait_with_output().unwrap();
    drop(done);
    guard.join().unwrap();
    let text = [output.stdout, output.stderr].concat();
    (output.status.code(), String::from_utf8_lossy(&text).into_owned())
}

fn store(root: &Path) -> Opened {
    open(OpenOptions::new(root.join("data/store"))).unwrap()
}

async fn accept(store: &Store, numbers: std::ops::Range<u128>) {
    for n in numbers {
        let message = NewMessage {
            id: MessageId(Uuid::from_u128(u128::from(NOW.as_millis()) << 80 | 0x7 << 76 | 0b10 << 62 | n)),
            reference_id: Some(format!("order-{n}")),
            chat: ChatId::phone("6281200000001"),
            text: format!("text {n}"),
            content: Content::default(),
            lane: Lane::Normal,
            source: Source::Api,
            whatsapp_id: WhatsAppId(format!("3EB0{n:018}")),
            created_at: NOW,
            not_before: None,
        };
        let answer = store.outbox.enqueue(Batch { messages: vec![message], idempotency: None }).await.unwrap();
        assert_eq!(answer, Enqueued::Fresh);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broken_store_stops_the_start_and_the_repair_it_names_brings_the_messages_back() {
    let root = tempfile::tempdir().unwrap();
    drop(DataDir::open(&root.path().join("data"), Kind::Real).unwrap());
    let Opened { store: rows, handle } = store(root.path());
    accept(&rows, 0..40).await;
    let snapshot = tokio::task::spawn_blocking(move || {
        let snapshot = handle.snapshot().unwrap();
        handle.close();
        snapshot
    });
    let snapshot = snapshot.await.unwrap();
    let (code, text) = daemon(root.path(), &["--repair"]);
    assert_eq!((code, text.trim_end()), (Some(0), "the store is sound; nothing was changed"));

    let database = root.path().join("data/store/db/db");
    fs::File::options().write(true).open(&database).unwrap().set_len(4_096).unwrap();
    let (code, text) = daemon(root.path(), &[]);
    assert_eq!(code, Some(1), "{text}");
    let named = text.contains("is damaged") && text.contains("start once with --repair");
    assert!(named && text.contains(&*snapshot.to_string_lossy()), "{text}");

    let (code, text) = daemon(root.path(), &["--repair"]);
    assert_eq!(code, Some(0), "{text}");
    let set_aside = root.path().join("data/store/db.damaged-1");
    let told = text.contains(&*snapshot.to_string_lossy()) && text.contains(&*set_aside.to_string_lossy());
    assert!(told && set_aside.join("db").exists(), "{text}");

    let Opened { store: rows, handle } = store(root.path());
    let open = rows.outbox.open().await.unwrap();
    assert_eq!(open.len(), 40);
    for (n, open) in open.into_iter().enumerate() {
        let message = rows.outbox.message(open.id).await.unwrap().unwrap();
        assert_eq!((message.text, message.status), (format!("text {n}"), Status::Pending));
        assert_eq!(message.whatsapp_id.0, format!("3EB0{n:018}"), "it would go out under another id");
    }
    handle.close();
}

#[test]
fn a_repair_touches_nothing_that_is_not_there_or_in_use() {
    let root = tempfile::tempdir().unwrap();
    let data = root.path().join("data");
    let (code, text) = daemon(root.path(), &["--repair"]);
    assert_eq!(code, Some(1));
    assert!(text.contains("there is no store at") && text.contains("--data-dir"), "{text}");
    assert!(!data.exists(), "it made a folder");
    let held = DataDir::open(&data, Kind::Real).unwrap();
    store(root.path()).handle.close();
    let (code, text) = daemon(root.path(), &["--repair"]);
    assert_eq!(code, Some(1));
    assert!(text.contains("another daemon") && text.contains("already runs"), "{text}");
    drop(held);
    assert_eq!(daemon(root.path(), &["--repair"]).0, Some(0));
}
