//! Random lives of a message against what must never happen to one.

use proptest::prelude::*;

use super::*;
use crate::model::Content;

fn message() -> Message {
    Message::from(NewMessage {
        id: MessageId(uuid::Uuid::nil()),
        reference_id: None,
        chat: ChatId::phone("6281200000002"),
        text: "Halo".to_owned(),
        content: Content::default(),
        lane: Lane::Normal,
        source: Source::Api,
        whatsapp_id: WhatsAppId::from_random([7; 9]),
        created_at: Timestamp::from_millis(1),
        not_before: None,
    })
}

fn changes() -> impl Strategy<Value = Change> {
    let receipt = prop_oneof![Just(ReceiptKind::Delivered), Just(ReceiptKind::Read), Just(ReceiptKind::Played)];
    let member =
        (receipt.clone(), 1u64..1000, 0usize..4).prop_map(|(kind, at, member)| member_receipt(kind, at, member));
    prop_oneof![
        3 => Just(Change::Claim),
        1 => (0u8..4).prop_map(addressed),
        4 => member,
        1 => Just(Change::PutBack),
        1 => Just(Change::Postpone { at: Timestamp::from_millis(500), reason: "busy".to_owned() }),
        1 => (1u64..1000).prop_map(|at| Change::Retry { at: Timestamp::from_millis(at), reason: "later".to_owned() }),
        2 => Just(Change::Acked),
        1 => Just(Change::Failed { reason: "no".to_owned() }),
        1 => Just(Change::Cancel),
        1 => Just(Change::RetryByHand),
        2 => (receipt, 1u64..1000).prop_map(|(kind, at)| Change::Receipt { kind, at: Timestamp::from_millis(at) }),
    ]
}

proptest! {
    #[test]
    fn a_life_never_goes_back_and_always_adds_up(changes in proptest::collection::vec(changes(), 0..30)) {
        let mut message = message();
        for (n, change) in changes.iter().enumerate() {
            let now = Timestamp::from_millis(1000 + n as u64);
            let before = message.clone();
            if let Ok(true) = message.apply(change, now) {
                prop_assert_ne!(&message, &before);
            } else {
                prop_assert_eq!(&message, &before, "{:?} touched what it did not change", change);
            }
            // Forward only.
            prop_assert!(message.ack >= before.ack);
            prop_assert!(before.status != Status::Sent || message.status == Status::Sent);
            for (was, is) in [(before.sent_at, message.sent_at), (before.delivered_at, message.delivered_at), (before.read_at, message.read_at)] {
                prop_assert!(was.is_none() || was == is);
            }
            // Sent needs WhatsApp's word; WhatsApp's word needs sent.
            let told = matches!(change, Change::Acked | Change::Receipt { .. } | Change::MemberReceipt { .. });
            prop_assert!(message.status != Status::Sent || before.status == Status::Sent || told);
            prop_assert_eq!(message.status == Status::Sent, message.ack >= Ack::Server);
            prop_assert_eq!(message.status == Status::Sent, message.sent_at.is_some());
            // What is kept fits the status.
            prop_assert_eq!(message.status.is_finished(), message.finished_at.is_some());
            prop_assert_eq!(message.ack >= Ack::Device, message.delivered_at.is_some());
            prop_assert_eq!(message.ack >= Ack::Read, message.read_at.is_some());
            prop_assert!(message.status != Status::Sent || message.error.is_none());
            prop_assert!(message.retry_at.is_none() || message.status == Status::Pending);
            prop_assert!(message.delivered_at.is_none() || message.delivered_at >= message.sent_at);
            // In a group it got no further than with everybody.
            if let Some(receipts) = &message.receipts {
                let all = |count: u32| receipts.members > 0 && count == receipts.members;
                prop_assert!(before.receipts.is_none() || message.ack == before.ack.max(receipts.ack()) || !told);
                prop_assert!(before.ack >= Ack::Device || message.ack < Ack::Device || all(receipts.delivered()));
                prop_assert!(before.ack >= Ack::Read || message.ack < Ack::Read || all(receipts.read()));
            }
            // The id WhatsApp knows it by is chosen once.
            prop_assert_eq!(&message.whatsapp_id, &before.whatsapp_id);
        }
    }
}

/// A message that went through these changes, one a millisecond.
fn after(changes: &[Change]) -> Message {
    let mut message = message();
    for (n, change) in (10..).zip(changes) {
        assert_eq!(message.apply(change, Timestamp::from_millis(n)), Ok(true), "{change:?} at {n}");
    }
    message
}

fn addressed(people: u8) -> Change {
    let people: Vec<ChatId> = (0..people).map(|n| ChatId::phone(&format!("62812000000{n:02}"))).collect();
    Change::Addressed { members: Roster::new(&people).unwrap() }
}

fn member_receipt(kind: ReceiptKind, at: u64, member: usize) -> Change {
    Change::MemberReceipt { kind, at: Timestamp::from_millis(at), member }
}

#[test]
fn in_a_group_the_last_member_counts() {
    use ReceiptKind::{Delivered, Read};
    let mut message = after(&[Change::Claim, addressed(2), Change::Acked, member_receipt(Read, 100, 0)]);
    let counts =
        |message: &Message| message.receipts.as_ref().map(|seen| (seen.members, seen.delivered(), seen.read()));
    assert_eq!((message.ack, message.delivered_at, counts(&message)), (Ack::Server, None, Some((2, 1, 1))));
    for (again, changes) in [(member_receipt(Delivered, 101, 0), false), (member_receipt(Read, 102, 7), false)] {
        assert_eq!(message.apply(&again, Timestamp::from_millis(200)), Ok(changes), "{again:?}");
    }
    // Somebody who was not in the group as it left says nothing of those who were.
    assert_eq!(message.apply(&receipt(Read), Timestamp::from_millis(200)), Ok(false));
    message.apply(&member_receipt(Delivered, 300, 1), Timestamp::from_millis(301)).unwrap();
    assert_eq!((message.ack, message.delivered_at), (Ack::Device, Some(Timestamp::from_millis(300))));
    assert_eq!(message.read_at, None);
    message.apply(&member_receipt(Read, 400, 1), Timestamp::from_millis(401)).unwrap();
    assert_eq!((message.ack, message.read_at), (Ack::Read, Some(Timestamp::from_millis(400))));
    assert_eq!(counts(&message), Some((2, 2, 2)));
}

#[test]
fn a_resend_keeps_what_members_said() {
    let retry = Change::Retry { at: Timestamp::from_millis(50), reason: "no answer".to_owned() };
    let mut message = after(&[Change::Claim, addressed(2), retry, Change::Claim]);
    assert_eq!(message.apply(&addressed(3), Timestamp::from_millis(60)), Ok(false));
    assert_eq!(message.receipts.map(|seen| seen.members), Some(2));
}

fn receipt(kind: ReceiptKind) -> Change {
    Change::Receipt { kind, at: Timestamp::from_millis(5) }
}

#[test]
fn a_receipt_may_overtake_the_ack_and_says_it_too() {
    let read = after(&[Change::Claim, receipt(ReceiptKind::Read)]);
    assert_eq!((read.status, read.ack), (Status::Sent, Ack::Read));
    assert_eq!(read.sent_at, Some(Timestamp::from_millis(11)));
    // By the receipt's own clock it was read before it was sent.
    assert_eq!((read.delivered_at, read.read_at), (read.sent_at, read.sent_at));
    let mut late = read.clone();
    for change in [Change::Acked, receipt(ReceiptKind::Delivered), receipt(ReceiptKind::Read)] {
        assert_eq!(late.apply(&change, Timestamp::from_millis(99)), Ok(false), "{change:?}");
    }
    assert_eq!(late, read);
}

#[test]
fn the_truth_wins_over_whatever_was_given_up() {
    let failed = Change::Failed { reason: "no answer".to_owned() };
    for given_up in [&[Change::Claim, failed][..], &[Change::Cancel]] {
        for truth in [Change::Acked, receipt(ReceiptKind::Delivered)] {
            let mut message = after(given_up);
            assert_eq!(message.apply(&truth, Timestamp::from_millis(50)), Ok(true));
            assert_eq!((message.status, message.error.clone()), (Status::Sent, None));
            assert_eq!(message.finished_at, Some(Timestamp::from_millis(50)));
        }
    }
}

#[test]
fn waiting_offline_spends_no_attempt_and_a_try_by_hand_begins_anew() {
    let put_back = after(&[Change::Claim, Change::PutBack, Change::Claim, Change::PutBack]);
    assert_eq!((put_back.attempts, put_back.claimed), (0, true));
    let retry = Change::Retry { at: Timestamp::from_millis(500), reason: "busy".to_owned() };
    let backing_off = after(&[Change::Claim, retry, Change::Claim]);
    assert_eq!((backing_off.attempts, backing_off.retry_at), (2, None));
    let postpone = Change::Postpone { at: Timestamp::from_millis(500), reason: "busy".to_owned() };
    let postponed = after(&[Change::Claim, postpone.clone(), Change::Claim, postpone]);
    assert_eq!((postponed.attempts, postponed.retry_at), (0, Some(Timestamp::from_millis(500))));
    assert_eq!(postponed.error.as_deref(), Some("busy"));
    let by_hand = after(&[Change::Claim, Change::Failed { reason: "no".to_owned() }, Change::RetryByHand]);
    assert_eq!((by_hand.attempts, by_hand.status, by_hand.error), (0, Status::Pending, None));
    assert_eq!(by_hand.whatsapp_id, message().whatsapp_id);
}

#[test]
fn what_is_on_its_way_or_done_cannot_be_taken_back() {
    for (changes, status) in [(&[Change::Claim][..], Status::Sending), (&[Change::Claim, Change::Acked], Status::Sent)]
    {
        let mut message = after(changes);
        let refused = message.apply(&Change::Cancel, Timestamp::from_millis(99));
        assert_eq!(refused, Err(Refusal { status }));
    }
}
