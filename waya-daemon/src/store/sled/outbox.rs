//! The outgoing queue's rows.

use std::collections::{HashMap, HashSet};

use async_trait::async_trait;
use sled::IVec;

use super::bodies::{BodyHash, Pin};
use super::codec::{self, Bad, MAX_PAYLOAD};
use super::engine::Engine;
use super::events;
use super::group::Group;
use super::prune;
use super::records::{IdempotencyRecord, NamedRecord, RosterRecord, cut};
use super::rows::{Rows, Stored};
use super::shared::{ReadError, Shared};
use super::trees::{Tree, message_id, message_key, reference_key, reference_prefix};
use crate::model::{
    Ack, Change, EventBody, MediaHash, Message, MessageId, Roster, Status, StatusChanged, Timestamp, Typing, WhatsAppId,
};
use crate::store::{
    Batch, Changed, Counts, Enqueued, Idempotency, Keep, Known, ListFilter, OpenMessage, Outbox, StoreError,
};

/// Longer texts, in bytes, lie in body files; what else a record holds fits beside this.
const MAX_INLINE_TEXT: usize = 6 * 1024;

#[async_trait]
impl Outbox for Rows {
    fn accepts(&self) -> Result<(), StoreError> {
        self.0.engine().ok_or_else(|| self.0.unavailable())?;
        self.0.space.check()
    }

    async fn enqueue(&self, batch: Batch) -> Result<Enqueued, StoreError> {
        self.0.space.check()?;
        let prepared = Prepared::new(&self.0, batch).await?;
        self.0.commit(move |group| prepared.enqueue(group)).await
    }

    async fn known(&self, asked: &Idempotency) -> Result<Option<Enqueued>, StoreError> {
        let key = IVec::from(&asked.key);
        if !self.0.read(|engine| Ok(engine.tree(Tree::Idempotency).contains_key(&key)?))? {
            return Ok(None);
        }
        // What a reader sees may not be on disk yet; what the committer answers is.
        let asked = asked.clone();
        self.0.commit(move |group| Ok(remembered(group, &key, &asked)?.1)).await
    }

    async fn change(&self, id: MessageId, change: Change, now: Timestamp) -> Result<Changed, StoreError> {
        let (outcome, record) = self.0.commit(move |group| apply(group, id, &change, now)).await?;
        let stored = match outcome {
            Outcome::Unknown => return Ok(Changed::Unknown),
            Outcome::Refused(refusal) => return Ok(Changed::Refused(refusal)),
            Outcome::Bad(bad) => return Err(self.0.set_aside(Tree::Messages, &message_key(id), &record, &bad)),
            Outcome::Changed(stored) => Changed::Yes(Box::new(self.with_text(stored, record).await?)),
            Outcome::Already(stored) => Changed::Already(Box::new(self.with_text(stored, record).await?)),
        };
        Ok(stored)
    }

    async fn roster(&self, id: MessageId) -> Result<Option<Roster>, StoreError> {
        let key = message_key(id);
        let Some(record) = self.0.read(|engine| Ok(engine.tree(Tree::Rosters).get(&key)?))? else { return Ok(None) };
        let read = codec::unseal_inline(&key, &record).and_then(RosterRecord::read);
        read.map(Some).map_err(|bad| self.0.set_aside(Tree::Rosters, &key, &record, &bad))
    }

    async fn open(&self) -> Result<Vec<OpenMessage>, StoreError> {
        self.0.read_many(open_messages).await
    }

    async fn files_in_use(&self) -> Result<HashSet<MediaHash>, StoreError> {
        self.0.read_many(files_in_use).await
    }

    async fn message(&self, id: MessageId) -> Result<Option<Message>, StoreError> {
        let key = message_key(id);
        let Some(record) = self.0.read(|engine| Ok(engine.tree(Tree::Messages).get(&key)?))? else {
            return Ok(None);
        };
        match Stored::read(id, &record) {
            Ok(stored) => self.with_text(stored, record).await.map(Some),
            Err(bad) => Err(self.0.set_aside(Tree::Messages, &key, &record, &bad)),
        }
    }

    async fn by_reference(&self, reference: &str, limit: usize) -> Result<Vec<Message>, StoreError> {
        let reference = reference.to_owned();
        self.0.read_many(move |shared, engine| by_reference(shared, engine, &reference, limit)).await
    }

    async fn count_by_reference(&self, reference: &str) -> Result<u64, StoreError> {
        let prefix = reference_prefix(reference);
        let count = move |engine: &Engine| {
            engine.tree(Tree::References).scan_prefix(prefix).keys().try_fold(0, |n, key| key.map(|_| n + 1))
        };
        self.0.read_many(move |_, engine| Ok(count(engine)?)).await
    }

    async fn by_whatsapp_id(&self, id: &WhatsAppId) -> Result<Option<MessageId>, StoreError> {
        self.0.read(|engine| {
            let found = engine.tree(Tree::WhatsApp).get(whatsapp_key(id))?;
            Ok(found.and_then(|value| message_id(&value)))
        })
    }

    async fn list(&self, filter: ListFilter) -> Result<Vec<Message>, StoreError> {
        self.0.read_many(move |shared, engine| list(shared, engine, &filter)).await
    }

    async fn counts(&self) -> Result<Counts, StoreError> {
        self.0.read(|_| Ok(self.0.counters().statuses))
    }

    async fn remove(&self, ids: Vec<MessageId>, status: Status) -> Result<usize, StoreError> {
        prune::named(&self.0, ids, status).await
    }

    async fn prune(&self, keep: Keep, now: Timestamp) -> Result<usize, StoreError> {
        prune::messages(&self.0, keep, now).await
    }
}

impl Rows {
    /// Fetches the text, on a blocking thread if it lies in a body file.
    async fn with_text(&self, stored: Stored, record: IVec) -> Result<Message, StoreError> {
        if stored.body.is_none() {
            return Ok(stored.message);
        }
        self.0.read_many(move |shared, _| Ok(shared.with_text(stored, &record)?)).await
    }
}

/// The index key of a WhatsApp id.
pub fn whatsapp_key(id: &WhatsAppId) -> &[u8] {
    id.0.as_bytes()
}

/// A batch, encoded by the caller, so that the committer only writes.
struct Prepared {
    rows: Vec<Row>,
    bodies: Vec<(Pin, u64)>,
    idempotency: Option<Request>,
}

struct Row {
    id: MessageId,
    key: IVec,
    record: IVec,
    reference: Option<IVec>,
}

/// What is remembered of a request.
struct Request {
    asked: Idempotency,
    record: IVec,
    body: Option<Pin>,
}

impl Prepared {
    async fn new(shared: &std::sync::Arc<Shared>, batch: Batch) -> Result<Self, StoreError> {
        let mut long: HashMap<BodyHash, (Vec<u8>, u64)> = HashMap::new();
        let mut rows = Vec::with_capacity(batch.messages.len());
        let repeatable = if batch.idempotency.is_some() { batch.messages.len() } else { 0 };
        let (mut ids, mut named) = (Vec::with_capacity(repeatable * 16), Vec::with_capacity(repeatable));
        for new in batch.messages {
            if repeatable > 0 {
                ids.extend_from_slice(new.id.0.as_bytes());
                named.push(NamedRecord::of(&new));
            }
            let mut message = Message::from(new);
            let body = (message.text.len() > MAX_INLINE_TEXT).then(|| {
                let text = std::mem::take(&mut message.text).into_bytes();
                let hash = BodyHash::of(&text);
                long.entry(hash).or_insert((text, 0)).1 += 1;
                hash
            });
            let (id, key) = (message.id, message_key(message.id));
            let reference = message.reference_id.as_deref().map(|reference| reference_key(reference, id));
            rows.push(Row { id, key, record: Stored { message, body }.write(), reference });
        }
        let (texts, times): (Vec<_>, Vec<_>) = long.into_values().unzip();
        let bodies = shared.store_bodies(texts).await?.into_iter().zip(times).collect();
        let idempotency = match batch.idempotency {
            None => None,
            Some(asked) => Some(Request::new(shared, asked, ids, named).await?),
        };
        Ok(Self { rows, bodies, idempotency })
    }

    /// In the committer.
    fn enqueue(self, group: &mut Group<'_>) -> Result<Enqueued, StoreError> {
        if let Some(request) = self.idempotency
            && let Some(known) = request.remember(group)?
        {
            return Ok(known);
        }
        for (pin, times) in self.bodies {
            group.name_body(pin, times)?;
        }
        for row in self.rows {
            // Ids grow, so only one that does not can be there already.
            if group.counters.last_id >= Some(row.id) && group.get(Tree::Messages, &row.key)?.is_some() {
                return Err(StoreError::Unavailable(format!("the message id {} is taken", row.id)));
            }
            group.counters.last_id = group.counters.last_id.max(Some(row.id));
            group.counters.statuses.pending += 1;
            group.insert(Tree::Messages, row.key.clone(), row.record)?;
            group.insert(Tree::Open, row.key, IVec::default())?;
            if let Some(reference) = row.reference {
                group.insert(Tree::References, reference, IVec::default())?;
            }
        }
        Ok(Enqueued::Fresh)
    }
}

impl Request {
    async fn new(
        shared: &std::sync::Arc<Shared>,
        mut asked: Idempotency,
        ids: Vec<u8>,
        named: Vec<NamedRecord>,
    ) -> Result<Self, StoreError> {
        let until = asked.at.plus(asked.keep).as_millis();
        let stored = IdempotencyRecord {
            body: asked.body.to_vec(),
            until,
            ids,
            positions: std::mem::take(&mut asked.positions),
            named,
        };
        let payload = prost::Message::encode_to_vec(&stored);
        if payload.len() <= MAX_PAYLOAD {
            return Ok(Self { record: codec::seal(&asked.key, &payload), asked, body: None });
        }
        let body = shared.store_bodies(vec![payload]).await?.pop();
        let hash = body.as_ref().map(Pin::hash).ok_or_else(|| shared.unavailable())?;
        Ok(Self { record: codec::seal_body(&asked.key, hash), asked, body })
    }

    /// Whether the request is known; otherwise it is from now on.
    fn remember(self, group: &mut Group<'_>) -> Result<Option<Enqueued>, StoreError> {
        let key = IVec::from(&self.asked.key);
        let (there, known) = remembered(group, &key, &self.asked)?;
        if known.is_some() {
            return Ok(known);
        }
        if let Some(record) = &there {
            group.unname_payload(&key, record)?;
        }
        if let Some(pin) = self.body {
            group.name_body(pin, 1)?;
        }
        match there {
            Some(_) => group.update(Tree::Idempotency, key, self.record)?,
            None => group.insert(Tree::Idempotency, key, self.record)?,
        }
        Ok(None)
    }
}

/// What became of a change, and the record as it was or as it is.
enum Outcome {
    Changed(Stored),
    Already(Stored),
    Refused(crate::model::Refusal),
    Unknown,
    Bad(Bad),
}

/// In the committer.
fn apply(group: &mut Group<'_>, id: MessageId, change: &Change, now: Timestamp) -> Result<(Outcome, IVec), StoreError> {
    let key = message_key(id);
    let Some(record) = group.get(Tree::Messages, &key)? else { return Ok((Outcome::Unknown, IVec::default())) };
    let mut stored = match Stored::read(id, &record) {
        Ok(stored) => stored,
        Err(bad) => return Ok((Outcome::Bad(bad), record)),
    };
    let before = (stored.message.status, stored.message.ack);
    match stored.message.apply(change, now) {
        Err(refusal) => return Ok((Outcome::Refused(refusal), record)),
        Ok(false) => return Ok((Outcome::Already(stored), record)),
        Ok(true) => {}
    }
    let message = &stored.message;
    let after = (message.status, message.ack);
    if before.0 != after.0 {
        move_between_statuses(group, &key, before.0, after.0)?;
    }
    if *change == Change::Claim {
        let index = IVec::from(whatsapp_key(&message.whatsapp_id));
        if group.get(Tree::WhatsApp, &index)?.is_none() {
            group.insert(Tree::WhatsApp, index, key.clone())?;
        }
    }
    if let Change::Addressed { members } = change {
        let roster = codec::seal(&key, &RosterRecord::write(members));
        // One that was left behind by a damaged row is not the first.
        match group.get(Tree::Rosters, &key)? {
            Some(_) => group.update(Tree::Rosters, key.clone(), roster)?,
            None => group.insert(Tree::Rosters, key.clone(), roster)?,
        }
    }
    if before != after && !matches!(change, Change::Claim | Change::PutBack) {
        events::append(group, &EventBody::Status(status_changed(message, before.1)), now)?;
    }
    let record = stored.write();
    group.update(Tree::Messages, key, record.clone())?;
    Ok((Outcome::Changed(stored), record))
}

fn move_between_statuses(group: &mut Group<'_>, key: &IVec, from: Status, to: Status) -> Result<(), StoreError> {
    let count = group.counters.status_of(from);
    *count = count.saturating_sub(1);
    *group.counters.status_of(to) += 1;
    match (from.is_finished(), to.is_finished()) {
        (false, true) => group.remove(Tree::Open, key.clone()),
        (true, false) => group.insert(Tree::Open, key.clone(), IVec::default())?,
        _ => {}
    }
    Ok(())
}

fn status_changed(message: &Message, before: Ack) -> StatusChanged {
    StatusChanged {
        id: message.id,
        reference_id: message.reference_id.clone(),
        chat: message.chat.clone(),
        status: message.status,
        ack: message.ack,
        error: message.error.clone().map(|error| cut(error, super::records::MAX_ERROR)),
        before: Some(before),
    }
}

fn open_messages(shared: &Shared, engine: &Engine) -> Result<Vec<OpenMessage>, ReadError> {
    let mut open = Vec::new();
    for key in engine.tree(Tree::Open).iter().keys() {
        let key = key?;
        let Some(record) = engine.tree(Tree::Messages).get(&key)? else { continue };
        let Some(Stored { message, body }) = readable(shared, &key, &record) else { continue };
        let mut message = OpenMessage::from(&message);
        if body.is_some() {
            message.typing = message.typing.map(Typing::of_long_text);
        }
        open.push(message);
    }
    Ok(open)
}

fn files_in_use(shared: &Shared, engine: &Engine) -> Result<HashSet<MediaHash>, ReadError> {
    let mut files = HashSet::new();
    for key in engine.tree(Tree::Open).iter().keys() {
        let key = key?;
        let Some(record) = engine.tree(Tree::Messages).get(&key)? else { continue };
        files.extend(readable(shared, &key, &record).and_then(|stored| stored.message.content.body.file()));
    }
    Ok(files)
}

/// The record of a key, and what it says of a request that comes now.
fn remembered(
    group: &mut Group<'_>,
    key: &IVec,
    asked: &Idempotency,
) -> Result<(Option<IVec>, Option<Enqueued>), StoreError> {
    let Some(record) = group.get(Tree::Idempotency, key)? else { return Ok((None, None)) };
    // One that cannot be read is as good as none: refusing the key for ever would help nobody.
    let known = group.payload(key, &record)?.and_then(|payload| IdempotencyRecord::read(&payload).ok());
    let answer = match known.filter(|known| known.until > asked.at.as_millis()) {
        None => None,
        Some(known) if known.body == asked.body => Some(Enqueued::Repeat(messages_of(group, &known)?)),
        Some(_) => Some(Enqueued::Conflict),
    };
    Ok((Some(record), answer))
}

/// The messages of a request, as its first answer named them.
fn messages_of(group: &mut Group<'_>, request: &IdempotencyRecord) -> Result<Vec<Known>, StoreError> {
    let mut known = Vec::with_capacity(request.named.len());
    for (nth, placed) in request.placed().into_iter().enumerate() {
        let named = match request.named.get(nth) {
            Some(named) => named.read().ok(),
            None => group
                .get(Tree::Messages, &message_key(placed.id))?
                .and_then(|record| Stored::read(placed.id, &record).ok())
                .map(|stored| (stored.message.chat, stored.message.reference_id)),
        };
        known.extend(named.map(|(chat, reference_id)| Known { placed, chat, reference_id }));
    }
    Ok(known)
}

/// A message of a list; one that cannot be read is set aside, reported and counted, and the list goes on.
fn readable(shared: &Shared, key: &IVec, record: &IVec) -> Option<Stored> {
    let read = message_id(key).ok_or(Bad::Content).and_then(|id| Stored::read(id, record));
    read.inspect_err(|bad| drop(shared.set_aside(Tree::Messages, key, record, bad))).ok()
}

/// As [`readable`], with its text.
fn whole(shared: &Shared, key: &IVec, record: &IVec) -> Result<Option<Message>, StoreError> {
    let Some(stored) = readable(shared, key, record) else { return Ok(None) };
    match shared.with_text(stored, record) {
        Err(StoreError::Damaged(_)) => Ok(None),
        read => read.map(Some),
    }
}

fn by_reference(shared: &Shared, engine: &Engine, reference: &str, limit: usize) -> Result<Vec<Message>, ReadError> {
    let mut found = Vec::new();
    for key in engine.tree(Tree::References).scan_prefix(reference_prefix(reference)).keys().rev() {
        if found.len() == limit {
            break;
        }
        let key = IVec::from(&key?[16..]);
        let Some(record) = engine.tree(Tree::Messages).get(&key)? else { continue };
        let message = whole(shared, &key, &record)?;
        found.extend(message.filter(|message| message.reference_id.as_deref() == Some(reference)));
    }
    Ok(found)
}

fn list(shared: &Shared, engine: &Engine, filter: &ListFilter) -> Result<Vec<Message>, ReadError> {
    let messages = engine.tree(Tree::Messages);
    let wanted = |status: Status| filter.statuses.is_empty() || filter.statuses.contains(&status);
    // Few are open among many that are finished.
    let only_open = !filter.statuses.is_empty() && !filter.statuses.iter().any(|status| status.is_finished());
    let tree = if only_open { engine.tree(Tree::Open) } else { messages };
    let rows = match filter.before {
        Some(id) => tree.range(..message_key(id)),
        None => tree.iter(),
    };
    let mut found = Vec::new();
    for row in rows.rev() {
        if found.len() >= filter.limit {
            break;
        }
        let (key, mut record) = row?;
        if only_open {
            let Some(message) = messages.get(&key)? else { continue };
            record = message;
        }
        if readable(shared, &key, &record).is_some_and(|stored| wanted(stored.message.status)) {
            found.extend(whole(shared, &key, &record)?);
        }
    }
    Ok(found)
}
