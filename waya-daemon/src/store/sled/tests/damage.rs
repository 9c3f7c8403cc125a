//! Broken files: noticed, named, and mended.

use std::fs;
use std::path::Path;

use sled::IVec;

use super::{fresh, options, until};
use crate::model::{Change, Cursor, MessageId, NewMessage};
use crate::store::conformance::{at, enqueued, incoming, message};
use crate::store::sled::engine::Engine;
use crate::store::sled::migrations::version_row;
use crate::store::sled::trees::{COUNTERS_KEY, Tree, message_key};
use crate::store::sled::{Durability, OpenError, Opened, Repaired, open, repair};
use crate::store::{ListFilter, Store, StoreError};

/// Works on the closed database behind the store's back.
fn behind(dir: &Path, work: impl FnOnce(&Engine)) {
    work(&Engine::open(&dir.join("store/db"), 1 << 20, Durability::Full).unwrap());
}

async fn some(store: &Store, count: usize) -> Vec<MessageId> {
    let mut ids = Vec::new();
    for n in 0..count {
        let text = if n % 5 == 0 { "x".repeat(10_000 + n) } else { format!("text {n}") };
        ids.push(enqueued(store, NewMessage { reference_id: Some("r".to_owned()), ..message(&text, at(1)) }).await);
        store.journal.record_incoming(vec![incoming(&n.to_string(), "x", at(1))]).await.unwrap();
    }
    ids
}

fn flip(engine: &Engine, tree: Tree, key: &IVec) {
    let mut record = engine.tree(tree).get(key).unwrap().unwrap().to_vec();
    *record.last_mut().unwrap() ^= 1;
    engine.commit(&[(tree, key.clone(), Some(IVec::from(record)))]).unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_damaged_record_is_reported_set_aside_and_counted() {
    let (store, (handle, dir)) = fresh();
    let ids = some(&store, 6).await;
    handle.close();
    behind(dir.path(), |engine| flip(engine, Tree::Messages, &message_key(ids[1])));
    let Opened { store, handle } = open(options(dir.path())).unwrap();
    // Whoever comes first, a reader or the scrub, sets it aside; nobody ever gets wrong content.
    let read = store.outbox.message(ids[1]).await;
    assert!(matches!(read, Err(StoreError::Damaged(_)) | Ok(None)), "{read:?}");
    until("it is in quarantine", async || handle.quarantined() == 1).await;
    assert_eq!(store.outbox.message(ids[1]).await, Ok(None));
    let left = store.outbox.list(ListFilter { limit: 10, ..ListFilter::default() }).await.unwrap();
    assert_eq!(left.len(), 5);
    assert_eq!(store.outbox.counts().await.unwrap().pending, 5);
    assert_eq!(store.outbox.open().await.unwrap().len(), 5);
    handle.close();
    let Opened { handle, .. } = open(options(dir.path())).unwrap();
    assert_eq!(handle.quarantined(), 1, "and the counts agree");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_scrub_finds_what_nobody_reads() {
    let (store, (handle, dir)) = fresh();
    let ids = some(&store, 6).await;
    handle.close();
    behind(dir.path(), |engine| {
        flip(engine, Tree::Messages, &message_key(ids[2]));
        flip(engine, Tree::Events, &IVec::from(&2_u64.to_be_bytes()));
    });
    let bodies = dir.path().join("store/bodies");
    let body = fs::read_dir(&bodies).unwrap().next().unwrap().unwrap().path();
    fs::write(body, b"something else").unwrap();
    let Opened { store, handle } = open(options(dir.path())).unwrap();
    until("all three are in quarantine", async || handle.quarantined() == 3).await;
    assert_eq!(store.journal.after(Cursor(0), 100).await.unwrap().events.len(), 5);
    assert_eq!(store.outbox.open().await.unwrap().len(), 4);
    let again = tokio::task::spawn_blocking(move || handle.scrub()).await.unwrap().unwrap();
    // Four messages, five events, and the row of the one who wrote.
    assert_eq!((again.records, again.damaged), (10, 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lost_record_is_noticed_at_the_start() {
    let (store, (handle, dir)) = fresh();
    let ids = some(&store, 6).await;
    let snapshot = tokio::task::spawn_blocking(move || {
        let snapshot = handle.snapshot().unwrap();
        handle.close();
        snapshot
    });
    let snapshot = snapshot.await.unwrap();
    behind(dir.path(), |engine| engine.commit(&[(Tree::Messages, message_key(ids[0]), None)]).unwrap());
    let refused = open(options(dir.path())).unwrap_err();
    assert!(matches!(&refused, OpenError::Damaged { snapshot: Some(found), .. } if *found == snapshot), "{refused}");
    let text = refused.to_string();
    assert!(
        text.contains("1 of 6 records of messages are gone") && text.contains("start once with --repair"),
        "{text}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn indexes_that_disagree_are_built_again() {
    let (store, (handle, dir)) = fresh();
    let ids = some(&store, 6).await;
    store.outbox.change(ids[0], Change::Claim, at(2)).await.unwrap();
    store.outbox.change(ids[1], Change::Cancel, at(2)).await.unwrap();
    let contact = crate::store::Contact {
        phone: Some("62812".to_owned()),
        lid: Some("99".to_owned()),
        ..crate::store::Contact::default()
    };
    store.contacts.learn(vec![contact.clone()]).await.unwrap();
    let counts = store.outbox.counts().await;
    let whatsapp_id = store.outbox.message(ids[0]).await.unwrap().unwrap().whatsapp_id;
    handle.close();
    behind(dir.path(), |engine| {
        for tree in Tree::INDEXES {
            let keys: Vec<IVec> = engine.tree(tree).iter().keys().map(Result::unwrap).collect();
            assert!(!keys.is_empty(), "{tree:?}");
            let writes: Vec<_> = keys.into_iter().map(|key| (tree, key, None)).collect();
            engine.commit(&writes).unwrap();
        }
    });
    let Opened { store, handle: _handle } = open(options(dir.path())).unwrap();
    assert_eq!(store.outbox.counts().await, counts);
    assert_eq!(store.outbox.open().await.unwrap().len(), 5);
    assert_eq!(store.outbox.by_reference("r", 100).await.unwrap().len(), 6);
    assert_eq!(store.outbox.by_whatsapp_id(&whatsapp_id).await, Ok(Some(ids[0])));
    assert_eq!(store.journal.record_incoming(vec![incoming("3", "x", at(1))]).await, Ok(vec![false]));
    assert_eq!(store.contacts.by_phone("62812").await, Ok(Some(contact.clone())));
    assert_eq!(store.contacts.by_lid("99").await, Ok(Some(contact)));
    // The long texts are still named: pruning one message must leave the others' files.
    store.outbox.change(ids[5], Change::Cancel, at(2)).await.unwrap();
    assert_eq!(store.outbox.message(ids[5]).await.unwrap().unwrap().text.len(), 10_005);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_newer_schema_is_refused_and_left_alone() {
    let (store, (handle, dir)) = fresh();
    some(&store, 1).await;
    handle.close();
    behind(dir.path(), |engine| engine.commit(&[version_row(7)]).unwrap());
    for _ in 0..2 {
        let refused = open(options(dir.path())).unwrap_err();
        assert!(matches!(refused, OpenError::Newer { found: 7, known: 1, .. }), "{refused}");
        assert!(refused.to_string().contains("start the newer version again"), "{refused}");
    }
    assert!(matches!(repair(&options(dir.path())), Err(OpenError::Newer { .. })));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lost_counters_and_an_emptied_folder_are_noticed() {
    let (store, (handle, dir)) = fresh();
    some(&store, 3).await;
    handle.close();
    let older = dir.path().join("older");
    copy(&dir.path().join("store"), &older);
    behind(dir.path(), |engine| {
        engine.commit(&[(Tree::Meta, IVec::from(COUNTERS_KEY), None)]).unwrap();
    });
    let refused = open(options(dir.path())).unwrap_err().to_string();
    assert!(refused.contains("its counters are gone") && refused.contains("there is no snapshot"), "{refused}");
    fs::remove_dir_all(dir.path().join("store/db")).unwrap();
    let refused = open(options(dir.path())).unwrap_err().to_string();
    assert!(refused.contains("lost everything"), "{refused}");
    // An older database beside a newer witness: what a file cut short looks like.
    fs::remove_dir_all(dir.path().join("store")).unwrap();
    copy(&older, &dir.path().join("store"));
    let Opened { store, handle } = open(options(dir.path())).unwrap();
    some(&store, 2).await;
    handle.close();
    fs::remove_dir_all(dir.path().join("store/db")).unwrap();
    copy(&older.join("db"), &dir.path().join("store/db"));
    let refused = open(options(dir.path())).unwrap_err().to_string();
    assert!(refused.contains("its newest 2 commits are gone"), "{refused}");
}

/// Whatever is done to the file, opening never panics, what is read is right, and a repair makes it whole again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broken_file_never_panics_and_is_repaired() {
    let (store, (handle, dir)) = fresh();
    let ids = some(&store, 40).await;
    let texts = texts(&store, &ids).await;
    tokio::task::spawn_blocking(move || {
        handle.snapshot().unwrap();
        handle.close();
    })
    .await
    .unwrap();
    let length = fs::metadata(dir.path().join("store/db/db")).unwrap().len();
    let (mut noticed, mut open_anyway) = (0, 0);
    for n in 0..12_u64 {
        let broken = tempfile::tempdir().unwrap();
        copy(&dir.path().join("store"), &broken.path().join("store"));
        let file = fs::OpenOptions::new().write(true).open(broken.path().join("store/db/db")).unwrap();
        if n % 3 == 0 {
            file.set_len(length * (n + 1) / 16).unwrap();
        } else {
            use std::os::unix::fs::FileExt as _;
            file.write_all_at(&[0x5a; 16], n * 2_741 % length.min(60_000)).unwrap();
        }
        drop(file);
        let place = options(broken.path());
        let opened = match open(place.clone()) {
            Ok(opened) => {
                open_anyway += 1;
                opened
            }
            Err(error) => {
                assert!(matches!(error, OpenError::Damaged { snapshot: Some(_), .. }), "{error}");
                noticed += 1;
                let repaired = repair(&place).unwrap();
                assert!(matches!(repaired, Repaired::Restored { snapshot: Some(_), .. }), "{repaired:?}");
                open(place).unwrap()
            }
        };
        assert_eq!(self::texts(&opened.store, &ids).await, texts, "after damage {n}");
        tokio::task::spawn_blocking(move || drop(opened.handle)).await.unwrap();
    }
    assert!(noticed >= 4, "{noticed} noticed, {open_anyway} opened");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_repair_keeps_what_came_after_the_snapshot_and_never_repeats_a_cursor() {
    let (store, (handle, dir)) = fresh();
    let mut ids = some(&store, 3).await;
    let handle = tokio::task::spawn_blocking(move || {
        handle.snapshot().unwrap();
        handle
    });
    let handle = handle.await.unwrap();
    ids.extend(some(&store, 2).await);
    store.outbox.change(ids[1], Change::Cancel, at(3)).await.unwrap();
    let newest = *store.journal.newest().borrow();
    handle.close();
    behind(dir.path(), |engine| engine.commit(&[(Tree::Messages, message_key(ids[0]), None)]).unwrap());
    let repaired = repair(&options(dir.path())).unwrap();
    let Repaired::Restored { snapshot: Some(_), set_aside, .. } = repaired else { panic!("{repaired:?}") };
    assert!(set_aside.join("db").exists());
    let Opened { store, handle } = open(options(dir.path())).unwrap();
    assert_eq!(store.outbox.open().await.unwrap().len(), 4, "three of the snapshot, less the cancelled one, and two");
    for id in &ids {
        assert!(store.outbox.message(*id).await.unwrap().is_some());
    }
    let cursor = store.journal.append(crate::model::EventBody::Link(crate::model::LinkState::Connected), at(4)).await;
    assert!(cursor.unwrap() > newest);
    handle.close();
    assert_eq!(repair(&options(dir.path())).unwrap(), Repaired::Sound);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_the_newest_snapshots_are_kept_and_a_broken_one_is_passed_over() {
    let (store, (handle, dir)) = fresh();
    let mut ids = Vec::new();
    let handle = std::sync::Arc::new(handle);
    // As a kill in the middle of one would leave it.
    fs::create_dir_all(dir.path().join("store/snapshots")).unwrap();
    fs::write(dir.path().join("store/snapshots/store-0000000000000001.new"), "half").unwrap();
    for _ in 0..5 {
        ids.extend(some(&store, 2).await);
        let handle = std::sync::Arc::clone(&handle);
        tokio::task::spawn_blocking(move || handle.snapshot().unwrap()).await.unwrap();
    }
    std::sync::Arc::into_inner(handle).unwrap().close();
    let mut kept: Vec<_> =
        fs::read_dir(dir.path().join("store/snapshots")).unwrap().map(|entry| entry.unwrap().path()).collect();
    kept.sort();
    assert_eq!(kept.len(), 3);
    let newest = kept.pop().unwrap();
    let mut bytes = fs::read(&newest).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(&newest, bytes).unwrap();
    fs::remove_dir_all(dir.path().join("store/db")).unwrap();
    fs::remove_dir_all(dir.path().join("store/bodies")).unwrap();
    let repaired = repair(&options(dir.path())).unwrap();
    assert!(matches!(&repaired, Repaired::Restored { snapshot, .. } if *snapshot == kept.pop()), "{repaired:?}");
    let Opened { store, handle: _handle } = open(options(dir.path())).unwrap();
    assert_eq!(texts(&store, &ids[..8]).await.iter().filter(|text| text.is_some()).count(), 8);
    assert_eq!(store.outbox.counts().await.unwrap().pending, 8);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn snapshots_asked_for_at_once_are_written_one_after_another() {
    let (store, (handle, dir)) = fresh();
    let ids = some(&store, 300).await;
    let take = move || {
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| (0..5).for_each(|_| drop(handle.snapshot().unwrap())));
            }
        });
        handle.close();
    };
    tokio::task::spawn_blocking(take).await.unwrap();
    fs::remove_dir_all(dir.path().join("store/db")).unwrap();
    let repaired = repair(&options(dir.path())).unwrap();
    assert!(matches!(&repaired, Repaired::Restored { snapshot: Some(_), .. }), "{repaired:?}");
    let Opened { store, handle: _handle } = open(options(dir.path())).unwrap();
    assert!(texts(&store, &ids).await.iter().all(Option::is_some));
}

async fn texts(store: &Store, ids: &[MessageId]) -> Vec<Option<String>> {
    let mut texts = Vec::new();
    for id in ids {
        texts.push(store.outbox.message(*id).await.unwrap().map(|message| message.text));
    }
    texts
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), target).unwrap();
        }
    }
}
