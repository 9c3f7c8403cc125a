//! The rows of an inbox: once each, through repeats, redeliveries and restarts.
#![allow(clippy::unwrap_used)]

use super::*;

const SECOND: i64 = 1_000_000;

fn message(id: &str, stamp: i64) -> Received {
    Received {
        id: id.into(),
        chat: "6281200000001@c.us".into(),
        from: "6281200000001@c.us".into(),
        ts: 1_700_000_000_000,
        content: Content { kind: "text".into(), text: Some("Halo".into()), ..Content::default() },
        address: Address { chat: "100@lid".into(), participant: None },
        stanza: Stanza { stamp, exact: true, queued: false },
    }
}

fn copies(inbox: &Inbox) -> Vec<(String, usize)> {
    inbox.entries().into_iter().map(|entry| (entry.id, entry.copies)).collect()
}

#[test]
fn a_message_sent_again_is_one_row_with_two_copies() {
    let inbox = Inbox::open(None).unwrap();
    inbox.commit(vec![message("A", SECOND), message("A", SECOND + 1)]).unwrap();
    inbox.commit(vec![message("B", SECOND)]).unwrap();
    assert_eq!(copies(&inbox), [("A".into(), 2), ("B".into(), 1)]);
}

#[test]
fn a_stanza_handed_over_again_is_no_copy() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("inbox.log");
    let inbox = Inbox::open(Some(&path)).unwrap();
    inbox.commit(vec![message("A", SECOND)]).unwrap();
    inbox.commit(vec![message("A", SECOND + 9)]).unwrap();
    drop(inbox);

    let inbox = Inbox::open(Some(&path)).unwrap();
    inbox.commit(vec![message("A", SECOND), message("A", SECOND + 9)]).unwrap();
    assert_eq!(copies(&inbox), [("A".into(), 2)]);
}

#[test]
fn without_exact_stamps_only_the_queue_hands_over_again() {
    let seconds = |queued| Received { stanza: Stanza { stamp: SECOND, exact: false, queued }, ..message("A", 0) };
    let inbox = Inbox::open(None).unwrap();
    inbox.commit(vec![seconds(false)]).unwrap();
    inbox.commit(vec![seconds(true)]).unwrap();
    assert_eq!(copies(&inbox), [("A".into(), 1)]);
    inbox.commit(vec![seconds(false)]).unwrap();
    assert_eq!(copies(&inbox), [("A".into(), 2)]);
}

#[test]
fn the_same_id_of_another_sender_or_chat_is_another_row() {
    let inbox = Inbox::open(None).unwrap();
    let other_sender = Received { from: "6281200000003@c.us".into(), ..message("A", SECOND) };
    let other_chat = Received { chat: "1@g.us".into(), ..message("A", SECOND) };
    inbox.commit(vec![message("A", SECOND), other_sender, other_chat]).unwrap();
    assert_eq!(inbox.entries().len(), 3);
}

#[test]
fn receipts_and_switches_survive_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("inbox.log");
    let inbox = Inbox::open(Some(&path)).unwrap();
    inbox.commit(vec![message("A", SECOND), message("B", SECOND)]).unwrap();
    let address = Address { chat: "100@lid".into(), participant: None };
    inbox.mark_delivered(&[(address.clone(), "A".into())], 1_700_000_001_000).unwrap();
    inbox.set_autoread(false).unwrap();
    let before = inbox.entries();
    assert_eq!(before[0].receipts, ["delivered"]);
    assert!(before[1].receipts.is_empty());
    drop(inbox);

    let inbox = Inbox::open(Some(&path)).unwrap();
    assert!(!inbox.autoread());
    assert_eq!(inbox.entries(), before);
    assert_eq!(inbox.unread(true)[0].ids, ["A"]);
    let unread = inbox.unread(false);
    assert_eq!(unread.len(), 1, "one receipt for one chat: {unread:?}");
    assert_eq!((&unread[0].address, unread[0].ids.len()), (&address, 2));
    inbox.mark_read(unread[0].clone(), 1_700_000_002_000).unwrap();
    assert!(inbox.unread(false).is_empty());
    let shown = inbox.entries();
    assert_eq!(shown[1].receipts, ["delivered", "read"]);
    let times = |row: usize| shown[row].receipt_times.iter().map(|time| time.ts % 1_000_000).collect::<Vec<_>>();
    assert_eq!((times(0), times(1)), (vec![1_000, 2_000], vec![2_000, 2_000]), "who reads it has it");
}

#[test]
fn a_voice_message_is_played_once_and_after_it_was_read() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("inbox.log");
    let inbox = Inbox::open(Some(&path)).unwrap();
    let voice = Content { kind: "voice".into(), ..Content::default() };
    inbox.commit(vec![message("A", SECOND), Received { content: voice, ..message("B", SECOND) }]).unwrap();
    assert!(inbox.unplayed().is_empty());
    inbox.mark_read(inbox.unread(false).remove(0), 1).unwrap();
    let unplayed = inbox.unplayed();
    assert_eq!(unplayed[0].ids, ["B"]);
    inbox.mark_played(unplayed[0].clone(), 2).unwrap();
    assert!(inbox.unplayed().is_empty());
    drop(inbox);
    let inbox = Inbox::open(Some(&path)).unwrap();
    assert!(inbox.unplayed().is_empty());
    assert_eq!(inbox.entries()[1].receipts, ["delivered", "read", "played"]);
}

#[test]
fn a_journal_from_before_receipts_had_times_is_read() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("inbox.log");
    let inbox = Inbox::open(Some(&path)).unwrap();
    inbox.commit(vec![message("A", SECOND)]).unwrap();
    drop(inbox);
    let mut lines = std::fs::read_to_string(&path).unwrap();
    lines.push_str("{\"delivered\":{\"rows\":[0]}}\n{\"read\":{\"rows\":[0]}}\n");
    std::fs::write(&path, lines).unwrap();
    let shown = Inbox::open(Some(&path)).unwrap().entries().remove(0);
    assert_eq!(shown.receipts, ["delivered", "read"]);
    assert!(shown.receipt_times.is_empty());
}

#[test]
fn a_row_shows_every_field_of_the_contract() {
    let inbox = Inbox::open(None).unwrap();
    inbox.commit(vec![message("A", SECOND)]).unwrap();
    let shown = serde_json::to_string(&inbox.entries()[0]).unwrap();
    assert_eq!(
        shown,
        r#"{"id":"A","chat":"6281200000001@c.us","from":"6281200000001@c.us","kind":"text","text":"Halo","caption":null,"media":null,"quoted":null,"ts":1700000000000,"copies":1,"receipts":[],"receiptTimes":[]}"#
    );
}
