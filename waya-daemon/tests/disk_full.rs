//! A full disk: new work is refused early, what was accepted is never lost, and the store recovers by itself.

#![expect(clippy::unwrap_used, reason = "tests")]

mod support;

use std::fs::File;
use std::io::Write as _;
use std::path::Path;
use std::time::Duration;

use uuid::Uuid;
use waya_daemon::model::{Change, ChatId, Content, Lane, MessageId, NewMessage, Source, Timestamp, WhatsAppId};
use waya_daemon::store::sled::{OpenOptions, Opened, open};
use waya_daemon::store::{Batch, Changed, Enqueued, Store, StoreError, StoreHealth};

const NOW: Timestamp = Timestamp::from_millis(1_800_000_000_000);
const MIB: u64 = 1 << 20;

fn message(n: u128) -> NewMessage {
    NewMessage {
        id: MessageId(Uuid::from_u128(u128::from(NOW.as_millis()) << 80 | 0x7 << 76 | 0b10 << 62 | n)),
        reference_id: None,
        chat: ChatId::phone("6281200000001"),
        text: "x".repeat(5_000),
        content: Content::default(),
        lane: Lane::Normal,
        source: Source::Api,
        whatsapp_id: WhatsAppId::from_random(rand::random()),
        created_at: NOW,
        not_before: None,
    }
}

async fn enqueue(store: &Store, n: u128) -> Result<MessageId, StoreError> {
    let new = message(n);
    let id = new.id;
    let answer = store.outbox.enqueue(Batch { messages: vec![new], idempotency: None }).await?;
    assert_eq!(answer, Enqueued::Fresh);
    Ok(id)
}

/// Takes all but so many bytes of the file system.
fn fill(dir: &Path, leave: u64) -> std::path::PathBuf {
    let path = dir.join("filler");
    let mut file = File::create(&path).unwrap();
    let block = vec![1; 64 * 1024];
    let free = || {
        let stat = rustix::fs::statvfs(dir).unwrap();
        stat.f_bavail * stat.f_frsize
    };
    while free() > leave {
        if file.write_all(&block).is_err() {
            break;
        }
        file.sync_all().unwrap_or_default();
    }
    path
}

fn mounted(root: &Path) -> Option<support::Mounted> {
    let image = root.join("image");
    let mounted = support::make_image(&image, 96 * MIB).and_then(|()| support::mount(&image, &root.join("disk")));
    mounted.map_err(|why| support::skipped(&why)).ok()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn below_the_watermark_new_work_is_refused_and_old_work_goes_on() {
    let root = tempfile::tempdir().unwrap();
    let Some(disk) = mounted(root.path()) else { return };
    let options = OpenOptions { free_space_watermark: 16 * MIB, ..OpenOptions::new(disk.path().join("store")) };
    let Opened { store, handle } = open(options).unwrap();
    let id = enqueue(&store, 1).await.unwrap();
    let filler = fill(disk.path(), 12 * MIB);
    let refused = async || matches!(enqueue(&store, 2).await, Err(StoreError::DiskFull { free }) if free < 16 * MIB);
    until("new work is refused", refused).await;
    for change in [Change::Claim, Change::Acked] {
        assert!(matches!(store.outbox.change(id, change, NOW).await, Ok(Changed::Yes(_))));
    }
    std::fs::remove_file(filler).unwrap();
    until("new work is taken again", async || enqueue(&store, 3).await.is_ok()).await;
    drop((store, handle));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_disk_loses_nothing_and_the_store_comes_back_by_itself() {
    let root = tempfile::tempdir().unwrap();
    let Some(disk) = mounted(root.path()) else { return };
    let options = OpenOptions { free_space_watermark: 0, ..OpenOptions::new(disk.path().join("store")) };
    let Opened { store, handle } = open(options.clone()).unwrap();
    let mut health = store.health.clone();
    let mut accepted = Vec::new();
    let mut number = 0;
    for round in 0..2 {
        let filler = fill(disk.path(), 2 * MIB);
        let why = loop {
            number += 1;
            match enqueue(&store, number).await {
                Ok(id) => accepted.push(id),
                Err(why) => break why,
            }
            assert!(number < 50_000, "the disk never filled");
        };
        assert!(matches!(why, StoreError::Unavailable(_)), "{why}");
        health.wait_for(|health| matches!(health, StoreHealth::Down(_))).await.unwrap();
        let refused = enqueue(&store, number + 1).await;
        assert!(matches!(refused, Err(StoreError::Unavailable(_))), "{refused:?}");
        number += 1;
        std::fs::remove_file(filler).unwrap();
        let ready = health.wait_for(|health| *health == StoreHealth::Ready);
        tokio::time::timeout(Duration::from_secs(30), ready).await.expect("it comes back by itself").unwrap();
        number += 1;
        accepted.push(enqueue(&store, number).await.unwrap());
        for id in &accepted {
            assert!(store.outbox.message(*id).await.unwrap().is_some(), "{id} is gone in round {round}");
        }
    }
    tokio::task::spawn_blocking(|| handle.close()).await.unwrap();
    let Opened { store, handle } = open(options).unwrap();
    for id in &accepted {
        assert!(store.outbox.message(*id).await.unwrap().is_some(), "{id} is gone");
    }
    drop((store, handle));
}

async fn until(what: &str, mut condition: impl AsyncFnMut() -> bool) {
    let waited = async {
        while !condition().await {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), waited).await.unwrap_or_else(|_| panic!("never: {what}"));
}
