//! What the outgoing queue's rows must do.

use std::time::Duration;

use super::{at, chat, enqueued, message, new_id};
use crate::model::{
    Ack, Attachment, Body, Change, ChatId, Content, Lane, Location, MediaHash, MediaKind, Message, MessageId,
    NewMessage, ReceiptKind, Refusal, Roster, Source, Status, Typing, WhatsAppId,
};
use crate::store::{
    Batch, Changed, Counts, Enqueued, Idempotency, Keep, Known, ListFilter, OpenMessage, Placed, Store,
};

fn idempotency(key: u8, body: u8, seconds: u64) -> Idempotency {
    let keep = Duration::from_secs(100);
    Idempotency { key: [key; 32], body: [body; 32], at: at(seconds), keep, positions: vec![7] }
}

/// What a repeat of a request with that key hears.
fn placed(ids: &[MessageId]) -> Enqueued {
    let known = |(position, id): (u64, &MessageId)| Known {
        placed: Placed { id: *id, position },
        chat: message("", at(1)).chat,
        reference_id: None,
    };
    Enqueued::Repeat((7..).zip(ids).map(known).collect())
}

async fn change(store: &Store, id: MessageId, change: Change, seconds: u64) -> Message {
    match store.outbox.change(id, change.clone(), at(seconds)).await {
        Ok(Changed::Yes(message)) => {
            assert_eq!(store.outbox.message(id).await, Ok(Some((*message).clone())), "what is told is what is stored");
            *message
        }
        other => panic!("{change:?} gave {other:?}"),
    }
}

async fn send(store: &Store, id: MessageId, seconds: u64) -> Message {
    change(store, id, Change::Claim, seconds).await;
    change(store, id, Change::Acked, seconds).await
}

fn location() -> Body {
    let place = Location::from_degrees(-6.175_392_4, 106.827_152_8).unwrap();
    Body::Location(Location { name: Some("Monas".to_owned()), ..place })
}

pub async fn accepted_rows_are_read_back(store: &Store) {
    let new = NewMessage {
        reference_id: Some("order 7".to_owned()),
        lane: Lane::High,
        source: Source::Cli,
        not_before: Some(at(90)),
        content: Content { body: location(), mentions: vec![chat(2)], ..Content::default() },
        ..message("Halo", at(1))
    };
    let id = enqueued(store, new.clone()).await;
    let read = store.outbox.message(id).await.unwrap().unwrap();
    assert_eq!(read, Message::from(new));
    assert_eq!((read.status, read.ack, read.attempts), (Status::Pending, Ack::None, 0));
    assert_eq!(store.outbox.counts().await, Ok(Counts { pending: 1, ..Counts::default() }));
    assert_eq!(store.outbox.message(new_id(at(2))).await, Ok(None));
}

pub async fn files_are_in_use_while_their_messages_are_open(store: &Store) {
    let file = |byte| Attachment {
        hash: MediaHash([byte; 32]),
        size: 3,
        kind: MediaKind::Document,
        mimetype: "application/pdf".to_owned(),
        filename: Some("nota.pdf".to_owned()),
        width: None,
        height: None,
        seconds: None,
        pages: Some(2),
    };
    let with = |byte| NewMessage { content: Body::Media(file(byte)).into(), ..message("", at(1)) };
    let (first, _) = (enqueued(store, with(1)).await, enqueued(store, with(2)).await);
    enqueued(store, message("no file", at(1))).await;
    let in_use = |bytes: &[u8]| Ok(bytes.iter().map(|byte| MediaHash([*byte; 32])).collect());
    assert_eq!(store.outbox.files_in_use().await, in_use(&[1, 2]));
    send(store, first, 2).await;
    assert_eq!(store.outbox.files_in_use().await, in_use(&[2]));
}

pub async fn a_batch_is_accepted_in_order(store: &Store) {
    let messages: Vec<NewMessage> = (0..250).map(|n| message(&n.to_string(), at(1))).collect();
    let ids: Vec<MessageId> = messages.iter().map(|message| message.id).collect();
    let batch = Batch { messages, idempotency: None };
    assert_eq!(store.outbox.enqueue(batch).await, Ok(Enqueued::Fresh));
    let open: Vec<MessageId> = store.outbox.open().await.unwrap().iter().map(|open| open.id).collect();
    assert_eq!(open, ids);
    assert_eq!(store.outbox.counts().await.unwrap().pending, 250);
}

pub async fn a_repeat_queues_nothing(store: &Store) {
    let first = message("Halo", at(1));
    let ids = [first.id];
    assert_eq!(store.outbox.known(&idempotency(1, 1, 1)).await, Ok(None));
    let batch = Batch { messages: vec![first], idempotency: Some(idempotency(1, 1, 1)) };
    assert_eq!(store.outbox.enqueue(batch).await, Ok(Enqueued::Fresh), "asking remembers nothing");
    assert_eq!(store.outbox.known(&idempotency(1, 1, 2)).await, Ok(Some(placed(&ids))));
    assert_eq!(store.outbox.known(&idempotency(1, 2, 2)).await, Ok(Some(Enqueued::Conflict)));
    assert_eq!(store.outbox.known(&idempotency(2, 1, 2)).await, Ok(None));
    let again = Batch { messages: vec![message("Halo", at(2))], idempotency: Some(idempotency(1, 1, 2)) };
    assert_eq!(store.outbox.enqueue(again).await, Ok(placed(&ids)));
    assert_eq!(store.outbox.counts().await.unwrap().pending, 1);
}

pub async fn another_body_under_the_same_key_is_a_conflict(store: &Store) {
    let batch = Batch { messages: vec![message("a", at(1))], idempotency: Some(idempotency(1, 1, 1)) };
    assert_eq!(store.outbox.enqueue(batch).await, Ok(Enqueued::Fresh));
    let other = Batch { messages: vec![message("b", at(2))], idempotency: Some(idempotency(1, 2, 2)) };
    assert_eq!(store.outbox.enqueue(other).await, Ok(Enqueued::Conflict));
    let other_key = Batch { messages: vec![message("b", at(2))], idempotency: Some(idempotency(2, 2, 2)) };
    assert_eq!(store.outbox.enqueue(other_key).await, Ok(Enqueued::Fresh));
    assert_eq!(store.outbox.counts().await.unwrap().pending, 2);
}

pub async fn a_forgotten_key_is_fresh_again(store: &Store) {
    for (seconds, fresh) in [(1, true), (100, false), (102, true)] {
        let asked = idempotency(1, 1, seconds);
        assert_eq!(store.outbox.known(&asked).await.unwrap().is_none(), fresh, "after {seconds} s");
        let batch = Batch { messages: vec![message("a", at(seconds))], idempotency: Some(asked) };
        let answer = store.outbox.enqueue(batch).await.unwrap();
        assert_eq!(answer == Enqueued::Fresh, fresh, "after {seconds} s: {answer:?}");
    }
}

pub async fn a_large_request_is_repeated_whole(store: &Store) {
    let messages: Vec<NewMessage> = (0..10_000).map(|_| message("promo", at(1))).collect();
    let ids: Vec<MessageId> = messages.iter().map(|message| message.id).collect();
    let asked = Idempotency { positions: (7..10_007).collect(), ..idempotency(1, 1, 1) };
    let batch = Batch { messages, idempotency: Some(asked) };
    assert_eq!(store.outbox.enqueue(batch).await, Ok(Enqueued::Fresh));
    let again = Batch { messages: vec![message("promo", at(2))], idempotency: Some(idempotency(1, 1, 2)) };
    assert_eq!(store.outbox.known(&idempotency(1, 1, 2)).await, Ok(Some(placed(&ids))));
    assert_eq!(store.outbox.enqueue(again).await, Ok(placed(&ids)));
    assert_eq!(store.outbox.counts().await.unwrap().pending, 10_000);
}

pub async fn one_at_a_time_of_equal_requests_wins(store: &Store) {
    let mut asking = tokio::task::JoinSet::new();
    for _ in 0..32 {
        let batch = Batch { messages: vec![message("a", at(1))], idempotency: Some(idempotency(1, 1, 1)) };
        let outbox = std::sync::Arc::clone(&store.outbox);
        asking.spawn(async move { (batch.messages[0].id, outbox.enqueue(batch).await.unwrap()) });
    }
    let answers = asking.join_all().await;
    let fresh: Vec<MessageId> =
        answers.iter().filter(|(_, answer)| *answer == Enqueued::Fresh).map(|(id, _)| *id).collect();
    assert_eq!(fresh.len(), 1);
    let repeats = answers.iter().filter(|(_, answer)| *answer == placed(&fresh)).count();
    assert_eq!(repeats, 31);
    assert_eq!(store.outbox.counts().await.unwrap().pending, 1);
}

pub async fn a_message_goes_all_the_way(store: &Store) {
    let id = enqueued(store, message("Halo", at(1))).await;
    assert_eq!(change(store, id, Change::Claim, 2).await.status, Status::Sending);
    assert_eq!(store.outbox.counts().await, Ok(Counts { sending: 1, ..Counts::default() }));
    let retry = Change::Retry { at: at(9), reason: "no answer".to_owned() };
    let waiting = change(store, id, retry, 3).await;
    assert_eq!((waiting.attempts, waiting.retry_at, waiting.error.as_deref()), (1, Some(at(9)), Some("no answer")));
    let sent = send(store, id, 9).await;
    assert_eq!((sent.status, sent.ack, sent.sent_at, sent.attempts), (Status::Sent, Ack::Server, Some(at(9)), 2));
    assert_eq!(store.outbox.open().await, Ok(Vec::new()));
    let read = change(store, id, Change::Receipt { kind: ReceiptKind::Read, at: at(11) }, 12).await;
    assert_eq!((read.ack, read.read_at, read.delivered_at), (Ack::Read, Some(at(11)), Some(at(11))));
    let again = Change::Receipt { kind: ReceiptKind::Delivered, at: at(13) };
    assert_eq!(store.outbox.change(id, again, at(13)).await, Ok(Changed::Already(Box::new(read))));
    assert_eq!(store.outbox.counts().await, Ok(Counts { sent: 1, ..Counts::default() }));
}

pub async fn members_are_kept_and_counted(store: &Store) {
    let id = enqueued(store, message("Halo", at(1))).await;
    assert_eq!(store.outbox.roster(id).await, Ok(None));
    change(store, id, Change::Claim, 2).await;
    let members = Roster::new(&[chat(1), chat(2), ChatId::lid("123456789012345")]).unwrap();
    let addressed = change(store, id, Change::Addressed { members: members.clone() }, 2).await;
    assert_eq!(addressed.receipts.map(|seen| (seen.members, seen.delivered())), Some((3, 0)));
    assert_eq!(store.outbox.roster(id).await, Ok(Some(members)));
    let other = Change::Addressed { members: Roster::new(&[chat(7)]).unwrap() };
    assert!(matches!(store.outbox.change(id, other, at(2)).await, Ok(Changed::Already(_))));
    assert_eq!(store.outbox.roster(id).await.unwrap().map(|roster| roster.len()), Some(3));
    let read = |member| Change::MemberReceipt { kind: ReceiptKind::Read, at: at(4), member };
    for (member, ack) in [(0, Ack::Server), (2, Ack::Server), (1, Ack::Read)] {
        let seen = change(store, id, read(member), 4).await;
        assert_eq!(seen.ack, ack);
        assert!(matches!(store.outbox.change(id, read(member), at(5)).await, Ok(Changed::Already(_))), "said twice");
    }
    let keep = Keep { age: Duration::ZERO, newest: 0 };
    assert_eq!(store.outbox.prune(keep, at(9)).await, Ok(1));
    assert_eq!(store.outbox.roster(id).await, Ok(None));
}

pub async fn what_does_not_fit_is_refused(store: &Store) {
    let id = enqueued(store, message("Halo", at(1))).await;
    let sent = send(store, id, 2).await;
    for refused in [Change::Claim, Change::Cancel, Change::PutBack, Change::RetryByHand] {
        let answer = store.outbox.change(id, refused, at(3)).await;
        assert_eq!(answer, Ok(Changed::Refused(Refusal { status: Status::Sent })));
    }
    assert_eq!(store.outbox.message(id).await, Ok(Some(sent)));
}

pub async fn an_unknown_row_is_said_to_be(store: &Store) {
    let nobody = new_id(at(1));
    assert_eq!(store.outbox.change(nobody, Change::Claim, at(1)).await, Ok(Changed::Unknown));
    assert_eq!(store.outbox.by_whatsapp_id(&WhatsAppId("3EB0".to_owned())).await, Ok(None));
}

pub async fn a_failed_one_that_arrived_is_sent(store: &Store) {
    let id = enqueued(store, message("Halo", at(1))).await;
    change(store, id, Change::Claim, 2).await;
    let failed = change(store, id, Change::Failed { reason: "no answer".to_owned() }, 3).await;
    assert_eq!((failed.status, failed.error.as_deref()), (Status::Failed, Some("no answer")));
    assert_eq!(store.outbox.counts().await, Ok(Counts { failed: 1, ..Counts::default() }));
    let arrived = change(store, id, Change::Receipt { kind: ReceiptKind::Delivered, at: at(4) }, 5).await;
    assert_eq!((arrived.status, arrived.error), (Status::Sent, None));
    assert_eq!(store.outbox.counts().await, Ok(Counts { sent: 1, ..Counts::default() }));
}

pub async fn retried_by_hand_it_is_open_again(store: &Store) {
    let id = enqueued(store, message("Halo", at(1))).await;
    change(store, id, Change::Cancel, 2).await;
    assert_eq!(store.outbox.open().await, Ok(Vec::new()));
    assert_eq!(store.outbox.counts().await, Ok(Counts { cancelled: 1, ..Counts::default() }));
    change(store, id, Change::RetryByHand, 3).await;
    assert_eq!(store.outbox.open().await.unwrap().len(), 1);
    assert_eq!(store.outbox.counts().await, Ok(Counts { pending: 1, ..Counts::default() }));
}

pub async fn open_rows_come_oldest_first(store: &Store) {
    let mut ids = Vec::new();
    for n in 0..5 {
        let new = NewMessage { chat: chat(n), lane: Lane::Low, ..message("x", at(n)) };
        ids.push(enqueued(store, new).await);
    }
    send(store, ids[1], 6).await;
    change(store, ids[2], Change::Claim, 6).await;
    let open = store.outbox.open().await.unwrap();
    assert_eq!(open.iter().map(|open| open.id).collect::<Vec<_>>(), [ids[0], ids[2], ids[3], ids[4]]);
    let expected = OpenMessage {
        id: ids[2],
        chat: chat(2),
        lane: Lane::Low,
        status: Status::Sending,
        created_at: at(2),
        not_before: None,
        retry_at: None,
        claimed: true,
        typing: Typing::of("x", &Content::default()),
    };
    assert_eq!(open[1], expected);
}

pub async fn whatsapp_ids_are_known_from_the_first_claim_on(store: &Store) {
    let new = message("Halo", at(1));
    let whatsapp_id = new.whatsapp_id.clone();
    let id = enqueued(store, new).await;
    for step in [Change::Claim, Change::PutBack, Change::Claim, Change::Acked] {
        change(store, id, step, 2).await;
        assert_eq!(store.outbox.by_whatsapp_id(&whatsapp_id).await, Ok(Some(id)));
    }
}

pub async fn references_find_the_newest_first(store: &Store) {
    let mut ids = Vec::new();
    for (n, reference) in ["a", "b", "a", "a"].into_iter().enumerate() {
        let new = NewMessage { reference_id: Some(reference.to_owned()), ..message("x", at(n as u64)) };
        ids.push(enqueued(store, new).await);
    }
    let found = store.outbox.by_reference("a", 2).await.unwrap();
    assert_eq!(found.iter().map(|message| message.id).collect::<Vec<_>>(), [ids[3], ids[2]]);
    assert_eq!(store.outbox.by_reference("a", 10).await.unwrap().len(), 3);
    assert_eq!(store.outbox.count_by_reference("a").await, Ok(3));
    assert_eq!(store.outbox.count_by_reference("c").await, Ok(0));
    assert_eq!(store.outbox.by_reference("", 10).await, Ok(Vec::new()));
}

pub async fn lists_are_filtered_and_newest_first(store: &Store) {
    let mut ids = Vec::new();
    for n in 0..6 {
        ids.push(enqueued(store, message("x", at(n))).await);
    }
    send(store, ids[1], 7).await;
    send(store, ids[4], 7).await;
    change(store, ids[2], Change::Cancel, 7).await;
    let list = |statuses: Vec<Status>, before: Option<MessageId>, limit: usize| async move {
        let found = store.outbox.list(ListFilter { statuses, before, limit }).await.unwrap();
        found.into_iter().map(|message| message.id).collect::<Vec<_>>()
    };
    assert_eq!(list(vec![], None, 2).await, [ids[5], ids[4]]);
    assert_eq!(list(vec![], Some(ids[4]), 2).await, [ids[3], ids[2]]);
    assert_eq!(list(vec![Status::Sent], None, 10).await, [ids[4], ids[1]]);
    assert_eq!(list(vec![Status::Sent, Status::Cancelled], Some(ids[4]), 10).await, [ids[2], ids[1]]);
    assert_eq!(list(vec![], None, 0).await, []);
    assert_eq!(list(vec![Status::Pending], None, 10).await, [ids[5], ids[3], ids[0]]);
    assert_eq!(list(vec![Status::Pending, Status::Sending], Some(ids[5]), 1).await, [ids[3]]);
    change(store, ids[3], Change::Claim, 8).await;
    assert_eq!(list(vec![Status::Sending], None, 10).await, [ids[3]]);
    assert_eq!(list(vec![Status::Pending, Status::Cancelled], None, 10).await, [ids[5], ids[2], ids[0]]);
}

pub async fn any_text_comes_back_byte_for_byte(store: &Store) {
    let long: String = "0123456789abcdef".repeat(4096);
    for text in ["", " \n\t ", "\u{0}nul", "ñ😀\u{202e}", &long, &"é".repeat(3072), &"é".repeat(4090), &long] {
        let new = NewMessage { reference_id: Some("r".repeat(128)), ..message(text, at(1)) };
        let id = enqueued(store, new).await;
        assert_eq!(store.outbox.message(id).await.unwrap().unwrap().text, text);
        assert_eq!(send(store, id, 2).await.text, text);
        let listed = store.outbox.list(ListFilter { limit: 1, ..ListFilter::default() }).await.unwrap();
        assert_eq!(listed[0].text, text);
    }
}
