//! The inbox of one person: every message that person's own client decrypted, once.
//!
//! Owns the rows and the journal behind them. A row is committed before WhatsApp is told that the
//! message arrived; its receipts are recorded after they went out. Never speaks to the network.

use std::collections::{BTreeSet, HashMap};
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};

use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use super::content::Content;
use super::journal::{Journal, JournalError};

/// A received message on its way into the inbox.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Received {
    /// The message id its sender chose.
    pub id: String,
    /// The chat as people know it: `628…@c.us`, `…@g.us`, or `…@lid` while the phone is unknown.
    pub chat: String,
    /// The sender, written like `chat`.
    pub from: String,
    /// When the server took it, epoch milliseconds.
    pub ts: i64,
    /// What it says.
    pub content: Content,
    /// How the receipts for it are addressed.
    pub address: Address,
    /// Which handing-over of the message this is.
    pub stanza: Stanza,
}

impl Received {
    /// The sender's JID as it stood on the wire.
    pub fn sender(&self) -> &str {
        self.address.participant.as_ref().unwrap_or(&self.address.chat)
    }
}

/// The addresses a receipt needs, as they stood on the wire.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Address {
    /// The chat's JID.
    pub chat: String,
    /// The sender's JID, in groups only.
    pub participant: Option<String>,
}

/// Tells a stanza that came again from a message that its sender sent again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stanza {
    /// When the server took the message: microseconds where `exact`, else whole seconds in them.
    pub stamp: i64,
    /// Whether the server stamped it with microseconds, which no two messages share.
    pub exact: bool,
    /// Whether it came out of the server's queue of unconfirmed stanzas.
    pub queued: bool,
}

impl Stanza {
    /// Whether both are one stanza, handed over again because its confirmation got lost.
    fn is_again(self, earlier: Self) -> bool {
        self.stamp == earlier.stamp && (self.exact && earlier.exact || self.queued)
    }
}

/// One line of the journal. Rows are named by their place in the order of arrival.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Record {
    Received(Box<Received>),
    Copy {
        row: usize,
        stanza: Stanza,
    },
    Delivered {
        rows: Vec<usize>,
        #[serde(default)]
        at: i64,
    },
    Read {
        rows: Vec<usize>,
        #[serde(default)]
        at: i64,
    },
    Played {
        rows: Vec<usize>,
        at: i64,
    },
    Autoread {
        on: bool,
    },
}

#[derive(Debug)]
struct Row {
    received: Received,
    copies: Vec<Stanza>,
    /// When its receipts went out, epoch milliseconds; older journals do not tell (0).
    delivered_at: i64,
    read_at: i64,
    played_at: Option<i64>,
}

/// A receipt that went back, and when.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReceiptTime {
    /// `delivered`, `read` or `played`.
    pub kind: String,
    /// Epoch milliseconds.
    pub ts: i64,
}

/// A row as it is shown. The text stands in exactly one of its fields.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct InboxEntry {
    /// The message id.
    pub id: String,
    /// `628…@c.us`, `…@g.us` or `…@lid`.
    pub chat: String,
    /// The sender, written like `chat`.
    pub from: String,
    /// Kind, text, caption, media and what it answers.
    #[serde(flatten)]
    pub content: Content,
    /// When the server took it, epoch milliseconds.
    pub ts: i64,
    /// How often the message arrived: 2 and more means that it was sent again under its id.
    pub copies: usize,
    /// The receipts that went back for it: `delivered`, `read`, `played`.
    pub receipts: Vec<String>,
    /// When they did.
    #[serde(default, rename = "receiptTimes")]
    pub receipt_times: Vec<ReceiptTime>,
}

/// Messages to be told as read or played: their rows, and one receipt's address and ids.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unread {
    /// Where the receipt goes.
    pub address: Address,
    /// The message ids.
    pub ids: Vec<String>,
    rows: Vec<usize>,
}

#[derive(Debug, Default)]
struct State {
    rows: Vec<Row>,
    index: HashMap<(String, String, String), usize>,
    /// Rows whose receipt has not gone out: few, while the rows may be many.
    undelivered: BTreeSet<usize>,
    unread: BTreeSet<usize>,
    autoread: bool,
    journal: Option<Journal>,
}

/// The inbox. Cheap to read; every change wakes those who watch it.
#[derive(Debug)]
pub struct Inbox {
    state: Mutex<State>,
    changes: watch::Sender<u64>,
}

impl Inbox {
    /// Opens the inbox kept in `path`, or one that lives in memory alone.
    pub fn open(path: Option<&Path>) -> Result<Self, JournalError> {
        let mut state = State { autoread: true, ..State::default() };
        if let Some(path) = path {
            let (journal, records) = Journal::open(path)?;
            for record in records {
                state.apply(record);
            }
            state.journal = Some(journal);
        }
        Ok(Self { state: Mutex::new(state), changes: watch::Sender::new(0) })
    }

    /// Commits the messages, all or none. A stanza that came again changes nothing; a message that
    /// was sent again under its id counts as one more copy of its row.
    pub fn commit(&self, messages: Vec<Received>) -> Result<(), JournalError> {
        let mut state = self.lock();
        let mut records = Vec::with_capacity(messages.len());
        // Within one batch a message may repeat too, so rows of the batch are looked up as well.
        let mut fresh = HashMap::new();
        for message in messages {
            let key = (message.chat.clone(), message.from.clone(), message.id.clone());
            let known = state.index.get(&key).or_else(|| fresh.get(&key)).copied();
            match known {
                None => {
                    fresh.insert(key, state.rows.len() + fresh.len());
                    records.push(Record::Received(Box::new(message)));
                }
                Some(row) if state.saw(row, message.stanza) => {}
                Some(row) => records.push(Record::Copy { row, stanza: message.stanza }),
            }
        }
        state.commit(records)?;
        drop(state);
        self.changed();
        Ok(())
    }

    /// Records that the delivery receipts of these messages, as they stood on the wire, went out at this time.
    pub fn mark_delivered(&self, messages: &[(Address, String)], at: i64) -> Result<(), JournalError> {
        let mut state = self.lock();
        let rows: Vec<usize> =
            state.undelivered.iter().copied().filter(|row| state.is_one_of(*row, messages)).collect();
        if rows.is_empty() {
            return Ok(());
        }
        state.commit(vec![Record::Delivered { rows, at }])?;
        drop(state);
        self.changed();
        Ok(())
    }

    /// What is unread, gathered into one receipt a chat and sender, in the order of arrival;
    /// `delivered_only` leaves out what the sender has not been told the arrival of.
    pub fn unread(&self, delivered_only: bool) -> Vec<Unread> {
        let state = self.lock();
        let wanted = state.unread.iter().filter(|place| !delivered_only || !state.undelivered.contains(place));
        state.gathered(wanted.copied())
    }

    /// Voice messages that were read and not played, gathered likewise.
    pub fn unplayed(&self) -> Vec<Unread> {
        let state = self.lock();
        let silent = |(place, row): &(usize, &Row)| {
            row.received.content.kind == "voice" && row.played_at.is_none() && !state.unread.contains(place)
        };
        state.gathered(state.rows.iter().enumerate().filter(silent).map(|(place, _)| place))
    }

    /// Records that the read receipt of these messages went out at this time.
    pub fn mark_read(&self, receipt: Unread, at: i64) -> Result<(), JournalError> {
        self.lock().commit(vec![Record::Read { rows: receipt.rows, at }])?;
        self.changed();
        Ok(())
    }

    /// Records that the played receipt of these messages went out at this time.
    pub fn mark_played(&self, receipt: Unread, at: i64) -> Result<(), JournalError> {
        self.lock().commit(vec![Record::Played { rows: receipt.rows, at }])?;
        self.changed();
        Ok(())
    }

    /// Whether messages are read as soon as they arrive.
    pub fn autoread(&self) -> bool {
        self.lock().autoread
    }

    /// Switches reading at once on or off; kept over restarts.
    pub fn set_autoread(&self, on: bool) -> Result<(), JournalError> {
        self.lock().commit(vec![Record::Autoread { on }])?;
        self.changed();
        Ok(())
    }

    /// All rows, oldest first.
    pub fn entries(&self) -> Vec<InboxEntry> {
        let state = self.lock();
        state.rows.iter().enumerate().map(|(place, row)| state.show(place, row)).collect()
    }

    /// The message of this id, the newest where several people chose the same.
    pub fn find(&self, id: &str) -> Option<Received> {
        self.lock().rows.iter().rev().find(|row| row.received.id == id).map(|row| row.received.clone())
    }

    /// Ticks at every change of a row or of the autoread switch.
    pub fn subscribe(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    fn changed(&self) {
        self.changes.send_modify(|version| *version += 1);
    }

    /// A panic elsewhere leaves the rows whole (each change is one step), so poison is ignored.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn saw(&self, row: usize, stanza: Stanza) -> bool {
        self.rows.get(row).is_some_and(|row| {
            stanza.is_again(row.received.stanza) || row.copies.iter().any(|earlier| stanza.is_again(*earlier))
        })
    }

    /// One receipt a chat and sender, in the order of arrival.
    fn gathered(&self, places: impl Iterator<Item = usize>) -> Vec<Unread> {
        let mut receipts: Vec<Unread> = Vec::new();
        for place in places {
            let Some(row) = self.rows.get(place) else { continue };
            let address = &row.received.address;
            let id = row.received.id.clone();
            if let Some(receipt) = receipts.iter_mut().find(|open| open.address == *address) {
                receipt.ids.push(id);
                receipt.rows.push(place);
            } else {
                let address = address.clone();
                receipts.push(Unread { address, ids: vec![id], rows: vec![place] });
            }
        }
        receipts
    }

    fn is_one_of(&self, row: usize, messages: &[(Address, String)]) -> bool {
        self.rows.get(row).is_some_and(|row| {
            messages.iter().any(|(address, id)| row.received.id == *id && row.received.address == *address)
        })
    }

    /// Journal first, memory second: what is shown is what is kept.
    fn commit(&mut self, records: Vec<Record>) -> Result<(), JournalError> {
        if let Some(journal) = &mut self.journal
            && !records.is_empty()
        {
            journal.append(&records)?;
        }
        for record in records {
            self.apply(record);
        }
        Ok(())
    }

    fn apply(&mut self, record: Record) {
        match record {
            Record::Received(received) => {
                let key = (received.chat.clone(), received.from.clone(), received.id.clone());
                let place = self.rows.len();
                self.index.insert(key, place);
                self.undelivered.insert(place);
                self.unread.insert(place);
                let row = Row { received: *received, copies: Vec::new(), delivered_at: 0, read_at: 0, played_at: None };
                self.rows.push(row);
            }
            Record::Copy { row, stanza } => {
                if let Some(row) = self.rows.get_mut(row) {
                    row.copies.push(stanza);
                }
            }
            Record::Delivered { rows, at } => {
                self.undelivered.retain(|row| !rows.contains(row));
                self.each(&rows, |row| row.delivered_at = at);
            }
            Record::Read { rows, at } => {
                self.unread.retain(|row| !rows.contains(row));
                self.each(&rows, |row| row.read_at = at);
            }
            Record::Played { rows, at } => self.each(&rows, |row| row.played_at = Some(at)),
            Record::Autoread { on } => self.autoread = on,
        }
    }

    fn each(&mut self, rows: &[usize], change: impl Fn(&mut Row)) {
        for place in rows {
            if let Some(row) = self.rows.get_mut(*place) {
                change(row);
            }
        }
    }

    fn show(&self, place: usize, row: &Row) -> InboxEntry {
        let read = !self.unread.contains(&place);
        // The record of a delivery receipt can be lost with the process; a read receipt implies it.
        let delivered = read || !self.undelivered.contains(&place);
        let mut content = row.received.content.clone();
        if let Some(media) = &mut content.media {
            media.named_by = None;
        }
        let delivered_at = if row.delivered_at == 0 { row.read_at } else { row.delivered_at };
        let receipts = [
            (delivered, "delivered", delivered_at),
            (read, "read", row.read_at),
            (row.played_at.is_some(), "played", row.played_at.unwrap_or_default()),
        ];
        let sent = || receipts.iter().filter(|(sent, ..)| *sent);
        let time = |(_, kind, ts): &(bool, &str, i64)| ReceiptTime { kind: (*kind).to_owned(), ts: *ts };
        InboxEntry {
            id: row.received.id.clone(),
            chat: row.received.chat.clone(),
            from: row.received.from.clone(),
            content,
            ts: row.received.ts,
            copies: 1 + row.copies.len(),
            receipts: sent().map(|(_, kind, _)| (*kind).to_owned()).collect(),
            receipt_times: sent().filter(|(.., ts)| *ts > 0).map(time).collect(),
        }
    }
}

#[cfg(test)]
#[path = "inbox_tests.rs"]
mod tests;
