//! Random operations, done by an engine and by the [`Model`] alike: both must give the same answers throughout.

use std::time::Duration;

use proptest::prelude::*;

use super::model::{Model, ModelEvent};
use super::{at, chat, incoming, message};
use crate::model::{
    Change, ChatId, Cursor, EventBody, Incoming, MessageId, NewMessage, PushName, ReceiptKind, Roster, Status,
};
use crate::store::{Batch, Contact, Idempotency, Keep, ListFilter, Store};

/// One operation. Numbers choose among what there is.
#[derive(Debug, Clone)]
pub enum Step {
    /// Accept so many messages, with a reference of so many, of such a length, under such a key and body.
    Enqueue {
        /// How many.
        count: usize,
        /// The reference, when not 0.
        reference: u8,
        /// Bytes of the text.
        length: usize,
        /// Idempotency key and body.
        key: Option<(u8, u8)>,
    },
    /// Change one of the messages.
    Change(usize, Change),
    /// A message comes in: its id, its length, and how it is addressed.
    Incoming(u8, usize, Addressed),
    /// Something is learnt of somebody.
    Learn(Option<u8>, Option<u8>, Option<u8>),
    /// From one of the messages on, all that stand at a status are removed.
    Remove(usize, Status),
    /// Retention: so many seconds, so many newest.
    Prune(u64, usize),
    /// The store is closed and opened again.
    Reopen,
}

/// How an incoming message names people.
#[derive(Debug, Clone, Copy)]
pub enum Addressed {
    /// By phone, without a LID.
    ByPhone,
    /// By phone, with the LID.
    ByBoth,
    /// By LID.
    ByLid,
}

/// Random operations.
pub fn steps() -> impl Strategy<Value = Vec<Step>> {
    prop::collection::vec(step(), 1..60)
}

fn step() -> impl Strategy<Value = Step> {
    let length = prop_oneof![6 => 0_usize..40, 1 => 6_000_usize..9_000, 1 => 60_000_usize..66_000];
    let key = prop::option::weighted(0.3, (0_u8..4, 0_u8..2));
    prop_oneof![
        6 => (1_usize..4, 0_u8..4, length.clone(), key)
            .prop_map(|(count, reference, length, key)| Step::Enqueue { count, reference, length, key }),
        20 => (any::<usize>(), change()).prop_map(|(which, change)| Step::Change(which, change)),
        4 => (0_u8..8, length, addressed()).prop_map(|(id, length, how)| Step::Incoming(id, length, how)),
        4 => (prop::option::of(0_u8..4), prop::option::of(0_u8..4), prop::option::of(0_u8..4))
            .prop_map(|(phone, lid, name)| Step::Learn(phone, lid, name)),
        1 => (0_u64..60, 0_usize..10).prop_map(|(age, newest)| Step::Prune(age, newest)),
        1 => (any::<usize>(), finished()).prop_map(|(first, status)| Step::Remove(first, status)),
        1 => Just(Step::Reopen),
    ]
}

fn finished() -> impl Strategy<Value = Status> {
    prop_oneof![Just(Status::Sent), Just(Status::Failed), Just(Status::Cancelled)]
}

fn addressed() -> impl Strategy<Value = Addressed> {
    prop_oneof![Just(Addressed::ByPhone), Just(Addressed::ByBoth), Just(Addressed::ByLid)]
}

fn change() -> impl Strategy<Value = Change> {
    prop_oneof![
        6 => Just(Change::Claim),
        2 => (0_u64..4).prop_map(|people| Change::Addressed { members: roster(people) }),
        3 => (0_u64..60, prop::bool::ANY, 0_usize..4).prop_map(|(s, read, member)| Change::MemberReceipt {
            kind: if read { ReceiptKind::Read } else { ReceiptKind::Delivered },
            at: at(s),
            member,
        }),
        2 => Just(Change::PutBack),
        2 => (0_u64..60).prop_map(|s| Change::Retry { at: at(s), reason: "no answer".to_owned() }),
        1 => (0_u64..60).prop_map(|s| Change::Postpone { at: at(s), reason: "no answer".to_owned() }),
        4 => Just(Change::Acked),
        1 => Just(Change::Failed { reason: "gone".to_owned() }),
        1 => Just(Change::Cancel),
        1 => Just(Change::RetryByHand),
        2 => (0_u64..60, prop::bool::ANY).prop_map(|(s, read)| Change::Receipt {
            kind: if read { ReceiptKind::Read } else { ReceiptKind::Delivered },
            at: at(s),
        }),
    ]
}

fn roster(people: u64) -> Roster {
    Roster::new(&(0..people).map(chat).collect::<Vec<_>>()).unwrap()
}

/// Does the steps on both and compares; `reopen` closes the store and opens it again.
pub async fn compare(steps: Vec<Step>, mut store: Store, mut reopen: impl AsyncFnMut() -> Store) {
    let mut model = Model::default();
    let mut ids: Vec<MessageId> = Vec::new();
    for (second, step) in (1_u64..).zip(steps) {
        let now = at(second);
        match step {
            Step::Enqueue { count, reference, length, key } => {
                let new = |_| NewMessage {
                    reference_id: (reference > 0).then(|| format!("r{reference}")),
                    chat: chat(u64::from(reference)),
                    ..message(&"x".repeat(length), now)
                };
                let messages: Vec<NewMessage> = (0..count).map(new).collect();
                ids.extend(messages.iter().map(|message| message.id));
                let idempotency = key.map(|(key, body)| Idempotency {
                    key: [key; 32],
                    body: [body; 32],
                    at: now,
                    keep: Duration::from_secs(10),
                    positions: (1..=u64::try_from(messages.len()).unwrap()).collect(),
                });
                if let Some(asked) = &idempotency {
                    assert_eq!(store.outbox.known(asked).await, Ok(model.known(asked)));
                }
                let batch = Batch { messages, idempotency };
                assert_eq!(store.outbox.enqueue(batch.clone()).await, Ok(model.enqueue(&batch)));
            }
            Step::Change(which, change) => {
                let Some(id) = ids.get(which % ids.len().max(1)).copied() else { continue };
                let answer = store.outbox.change(id, change.clone(), now).await;
                assert_eq!(answer, Ok(model.change(id, &change, now)), "{change:?}");
            }
            Step::Incoming(id, length, how) => {
                let batch = vec![named(how, incoming(&id.to_string(), &"y".repeat(length), now))];
                assert_eq!(store.journal.record_incoming(batch.clone()).await, Ok(model.record_incoming(&batch)));
            }
            Step::Learn(phone, lid, name) if phone.is_some() || lid.is_some() => {
                let text = |n: Option<u8>| n.map(|n| format!("100{n}"));
                let registered = name.map(|n| (n % 2 == 0, now));
                let push_name = text(name).map(|text| PushName { text, at: now });
                let contact = Contact { phone: text(phone), lid: text(lid), push_name, registered, wrote_at: None };
                model.learn(&contact);
                assert_eq!(store.contacts.learn(vec![contact]).await, Ok(()));
            }
            Step::Learn(..) => {}
            Step::Remove(first, status) => {
                let some = ids[first % ids.len().max(1)..].to_vec();
                assert_eq!(store.outbox.remove(some.clone(), status).await, Ok(model.remove(&some, status)));
            }
            Step::Prune(age, newest) => {
                let keep = Keep { age: Duration::from_secs(age), newest };
                assert_eq!(store.outbox.prune(keep, now).await, Ok(model.prune(keep, now)));
            }
            Step::Reopen => {
                drop(store);
                store = reopen().await;
            }
        }
        same(&store, &model, &ids).await;
    }
    drop(store);
    same(&reopen().await, &model, &ids).await;
}

/// Whether all that can be asked has the same answer.
async fn same(store: &Store, model: &Model, ids: &[MessageId]) {
    assert_eq!(store.outbox.counts().await, Ok(model.counts()));
    let open: Vec<MessageId> = store.outbox.open().await.unwrap().iter().map(|open| open.id).collect();
    assert_eq!(open, model.open());
    let all = ListFilter { limit: 1_000, ..ListFilter::default() };
    let messages = model.list(&all);
    assert_eq!(store.outbox.list(all).await.as_ref(), Ok(&messages));
    for reference in ["r1", "r2", "r3"] {
        assert_eq!(store.outbox.by_reference(reference, 3).await, Ok(model.by_reference(reference, 3)));
    }
    for message in &messages {
        let found = store.outbox.by_whatsapp_id(&message.whatsapp_id).await;
        assert_eq!(found, Ok(model.by_whatsapp_id(&message.whatsapp_id)));
    }
    for id in ids.iter().filter(|id| messages.iter().all(|message| message.id != **id)) {
        assert_eq!(store.outbox.message(*id).await, Ok(None), "pruned, or never accepted");
    }
    for n in 0..4 {
        let digits = format!("100{n}");
        assert_eq!(store.contacts.by_phone(&digits).await, Ok(model.by_phone(&digits)));
        assert_eq!(store.contacts.by_lid(&digits).await, Ok(model.by_lid(&digits)));
    }
    let page = store.journal.after(Cursor(0), 10_000).await.unwrap();
    assert_eq!(page.next, *store.journal.newest().borrow());
    let events: Vec<_> = page.events.into_iter().map(|event| (event.at, plain(event.body))).collect();
    assert_eq!(events, model.events);
}

fn named(how: Addressed, incoming: Incoming) -> Incoming {
    match how {
        Addressed::ByPhone => Incoming { chat_lid: None, sender_lid: None, ..incoming },
        Addressed::ByBoth => incoming,
        Addressed::ByLid => {
            let lid = ChatId::lid(incoming.sender_lid.as_deref().unwrap_or_default());
            Incoming { chat: lid.clone(), sender: lid, ..incoming }
        }
    }
}

fn plain(body: EventBody) -> ModelEvent {
    match body {
        EventBody::Message(incoming) => ModelEvent::Incoming(Box::new(Incoming::clone(&incoming))),
        EventBody::Status(changed) => ModelEvent::Status(changed),
        EventBody::Link(_) => panic!("no link state was written"),
    }
}
