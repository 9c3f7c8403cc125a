//! What one webhook is being told, and which notice comes next. Pure: no clock, no store, no network.
//!
//! It holds what was read from the journal and is not told yet, without contents: a notice is a place in the journal.
//! What concerns one message (or the session) is told in order: the next one waits until the one before was taken or
//! given up. Incoming messages of a chat leave in order, but one that fails does not hold up those behind it. All others
//! go side by side.
//!
//! The place in the journal that is safe to remember is the one before the first notice without a row of its own; a
//! notice gets a row when it failed, or waits behind one that did.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::Duration;

use super::policy::{Patience, Receiver};
use crate::model::{ChatId, Cursor, EventBody, MessageId, Notice, Timestamp, Topic};
use crate::store::webhooks::{Settlement, Unsettled};

/// So many notices are told at once.
pub const AT_ONCE: usize = 8;
/// Nothing more is read while so many notices without a row wait.
const AHEAD: usize = 256;
/// Nothing more is read while so many notices wait in all: a receiver that takes nothing fills no memory.
pub const MOST: usize = 10_000;

/// Whose order a notice stands in.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Subject {
    /// An outgoing message: strictly in order.
    Message(MessageId),
    /// What comes in in a chat: begun in order.
    Chat(ChatId),
    /// The link to WhatsApp: strictly in order.
    Session,
}

impl Subject {
    /// Of an event.
    #[must_use]
    pub fn of(body: &EventBody) -> Self {
        match body {
            EventBody::Status(changed) => Self::Message(changed.id),
            EventBody::Message(incoming) => Self::Chat(incoming.chat.clone()),
            EventBody::Link(_) => Self::Session,
        }
    }

    const fn is_strict(&self) -> bool {
        matches!(self, Self::Message(_) | Self::Session)
    }
}

#[derive(Debug)]
struct Entry {
    subject: Subject,
    attempts: u32,
    since: Timestamp,
    /// Not tried before; its place in `due` as long as it is not on its way.
    at: Timestamp,
    on_its_way: bool,
    reason: String,
}

/// What one webhook is being told.
#[derive(Debug)]
pub struct Window {
    patience: Patience,
    entries: BTreeMap<Notice, Entry>,
    subjects: HashMap<Subject, BTreeSet<Notice>>,
    due: BTreeSet<(Timestamp, Notice)>,
    /// Those without a row of their own.
    unwritten: BTreeSet<Notice>,
    on_their_way: usize,
    read_to: Cursor,
    receiver: Receiver,
}

impl Window {
    /// Nothing yet; the journal is read from behind `cursor` on.
    #[must_use]
    pub fn new(cursor: Cursor, patience: Patience) -> Self {
        Self {
            patience,
            entries: BTreeMap::new(),
            subjects: HashMap::new(),
            due: BTreeSet::new(),
            unwritten: BTreeSet::new(),
            on_their_way: 0,
            read_to: cursor,
            receiver: Receiver::default(),
        }
    }

    /// How far the journal was read.
    #[must_use]
    pub const fn read_to(&self) -> Cursor {
        self.read_to
    }

    /// The place in the journal behind which a new start must read again.
    #[must_use]
    pub fn safe(&self) -> Cursor {
        self.unwritten.first().map_or(self.read_to, |notice| Cursor(notice.cursor.0.saturating_sub(1)))
    }

    /// Whether more of the journal may be read.
    #[must_use]
    pub fn has_room(&self) -> bool {
        self.unwritten.len() < AHEAD && self.entries.len() < MOST
    }

    /// Whether this one is here already.
    #[must_use]
    pub fn knows(&self, notice: Notice) -> bool {
        self.entries.contains_key(&notice)
    }

    /// A row of the store.
    pub fn take_back(&mut self, row: Unsettled, subject: Subject) {
        let Unsettled { notice, attempts, since, at, reason } = row;
        self.add(notice, Entry { subject, attempts, since, at, on_its_way: false, reason });
    }

    /// A notice that was read from the journal. What is to be written of it at once, if it waits behind one that failed.
    pub fn read(&mut self, notice: Notice, subject: Subject, since: Timestamp, now: Timestamp) -> Option<Settlement> {
        if self.knows(notice) {
            return None;
        }
        let held = subject.is_strict()
            && self.subjects.get(&subject).and_then(BTreeSet::first).is_some_and(|first| self.has_row(*first));
        self.unwritten.insert(notice);
        self.add(notice, Entry { subject, attempts: 0, since, at: now, on_its_way: false, reason: String::new() });
        held.then(|| self.write(notice))
    }

    /// The journal was read up to here.
    pub fn read_up_to(&mut self, cursor: Cursor) {
        self.read_to = self.read_to.max(cursor);
    }

    fn has_row(&self, notice: Notice) -> bool {
        !self.unwritten.contains(&notice)
    }

    fn add(&mut self, notice: Notice, entry: Entry) {
        self.subjects.entry(entry.subject.clone()).or_default().insert(notice);
        self.due.insert((entry.at, notice));
        self.entries.insert(notice, entry);
    }

    /// What to tell next, and the how-manieth attempt that is; it counts as on its way from then on.
    pub fn next(&mut self, now: Timestamp) -> Option<(Notice, u32)> {
        if self.on_their_way >= if self.receiver.is_down() { 1 } else { AT_ONCE } {
            return None;
        }
        if self.receiver.not_before.is_some_and(|at| at > now) {
            return None;
        }
        let free = |(at, notice): &&(Timestamp, Notice)| *at <= now && !self.is_held(*notice);
        let (at, notice) = *self.due.iter().take_while(|(at, _)| *at <= now).find(free)?;
        self.due.remove(&(at, notice));
        self.on_their_way += 1;
        let entry = self.entries.get_mut(&notice)?;
        entry.on_its_way = true;
        Some((notice, entry.attempts + 1))
    }

    /// Whether another one of its subject must come first.
    fn is_held(&self, notice: Notice) -> bool {
        let Some(entry) = self.entries.get(&notice) else { return true };
        let Some(of_subject) = self.subjects.get(&entry.subject) else { return false };
        if entry.subject.is_strict() {
            return of_subject.first() != Some(&notice);
        }
        of_subject.iter().any(|other| self.entries.get(other).is_some_and(|other| other.on_its_way))
    }

    /// When to look again, if nothing happens before; `None` when only an event can change anything.
    #[must_use]
    pub fn wake_at(&self, now: Timestamp) -> Option<Timestamp> {
        let (first, _) = self.due.first()?;
        match self.receiver.not_before {
            Some(at) if at > now => Some(at.max(*first)),
            // What is due already and does not leave is held by something on its way.
            _ => {
                let later = (now.plus(Duration::from_millis(1)), Notice { cursor: Cursor(0), topic: Topic::Sent });
                self.due.range(later..).next().map(|(at, _)| *at)
            }
        }
    }

    /// It was taken.
    pub fn told(&mut self, notice: Notice, now: Timestamp) -> Settlement {
        self.remove(notice);
        if self.receiver.took() {
            self.hurry(now);
        }
        Settlement::Done(notice)
    }

    /// There is nothing any more to tell of it.
    pub fn gone(&mut self, notice: Notice) -> Settlement {
        self.remove(notice);
        Settlement::Done(notice)
    }

    /// It was not taken; `for_good` when trying again is of no use. What is to be written of it, and of those that wait
    /// for it.
    pub fn refused(
        &mut self,
        notice: Notice,
        reason: String,
        for_good: bool,
        now: Timestamp,
        chance: f64,
    ) -> Vec<Settlement> {
        self.receiver.refused(&self.patience, now);
        let Some(entry) = self.entries.get_mut(&notice) else { return Vec::new() };
        entry.attempts += 1;
        entry.reason = reason;
        if for_good || self.patience.is_over(entry.since, now) {
            return vec![self.park(notice, now)];
        }
        if std::mem::take(&mut entry.on_its_way) {
            self.on_their_way -= 1;
        }
        entry.at = now.plus(self.patience.retry_after(entry.attempts, chance));
        self.due.insert((entry.at, notice));
        let subject = entry.subject.clone();
        let mut written = vec![self.write(notice)];
        if subject.is_strict() {
            let held = self.subjects.get(&subject).into_iter().flatten().copied();
            let held: Vec<Notice> = held.filter(|other| !self.has_row(*other)).collect();
            written.extend(held.into_iter().map(|other| self.write(other)));
        }
        written
    }

    /// While the receiver is down, what waited too long is given up without an attempt of its own.
    pub fn give_up_overdue(&mut self, now: Timestamp, last_reason: &str) -> Vec<Settlement> {
        if !self.receiver.is_down() {
            return Vec::new();
        }
        let overdue = |entry: &Entry| !entry.on_its_way && self.patience.is_over(entry.since, now);
        let overdue: Vec<Notice> =
            self.entries.iter().filter(|(_, entry)| overdue(entry)).map(|(notice, _)| *notice).collect();
        overdue
            .into_iter()
            .map(|notice| {
                if let Some(entry) = self.entries.get_mut(&notice).filter(|entry| entry.reason.is_empty()) {
                    entry.reason = format!("the receiver took nothing: {last_reason}");
                }
                self.park(notice, now)
            })
            .collect()
    }

    /// The receiver is there again: nothing has to wait out its time.
    fn hurry(&mut self, now: Timestamp) {
        let late: Vec<(Timestamp, Notice)> = self.due.iter().filter(|(at, _)| *at > now).copied().collect();
        for (at, notice) in late {
            self.due.remove(&(at, notice));
            self.due.insert((now, notice));
            if let Some(entry) = self.entries.get_mut(&notice) {
                entry.at = now;
            }
        }
    }

    fn write(&mut self, notice: Notice) -> Settlement {
        self.unwritten.remove(&notice);
        Settlement::Waits(self.row(notice))
    }

    fn row(&self, notice: Notice) -> Unsettled {
        let entry = self.entries.get(&notice);
        Unsettled {
            notice,
            attempts: entry.map_or(0, |entry| entry.attempts),
            since: entry.map_or_else(Timestamp::default, |entry| entry.since),
            at: entry.map_or_else(Timestamp::default, |entry| entry.at),
            reason: entry.map_or_else(String::new, |entry| entry.reason.clone()),
        }
    }

    fn park(&mut self, notice: Notice, now: Timestamp) -> Settlement {
        let row = Unsettled { at: now, ..self.row(notice) };
        self.remove(notice);
        Settlement::Parked(row)
    }

    fn remove(&mut self, notice: Notice) {
        self.unwritten.remove(&notice);
        let Some(entry) = self.entries.remove(&notice) else { return };
        if entry.on_its_way {
            self.on_their_way -= 1;
        }
        self.due.remove(&(entry.at, notice));
        if let Some(of_subject) = self.subjects.get_mut(&entry.subject) {
            of_subject.remove(&notice);
            if of_subject.is_empty() {
                self.subjects.remove(&entry.subject);
            }
        }
    }
}

#[cfg(test)]
#[path = "window_tests.rs"]
mod tests;
