//! Everything the server knows: accounts, devices, groups, queues, counts.
//!
//! One `State` behind one lock, taken for moments and never across an await. Whatever must outlive
//! the process goes through [`State::commit`]: written to the journal first, applied second, so
//! that starting again is replaying the same changes.

pub(crate) mod account;
pub(crate) mod app_state;
pub(crate) mod device;
pub(crate) mod group;
mod journal;
pub(crate) mod letters;
pub(crate) mod newsletter;
mod queue;
pub(crate) mod record;
mod replay;
mod waiting;

use std::collections::{BTreeMap, HashMap};
use std::path::Path;

use bytes::Bytes;
use whatsapp_rust::wacore_binary::{Jid, Server};

pub(crate) use account::{Account, phone_digits};
pub(crate) use device::{Device, Flow, Session};
pub(crate) use group::Group;
use journal::Journal;
use letters::Letters;
pub(crate) use newsletter::Newsletter;
pub(crate) use queue::DeviceQueue;
use record::{Change, DeviceKey, QueueEntry, Record};
pub(crate) use waiting::HandsetQueue;

use super::clock::Clock;
use super::config::EmulatorError;
use super::stats::Counts;

/// All state of one emulator.
#[derive(Debug, Default)]
pub(crate) struct State {
    pub(crate) accounts: HashMap<String, Account>,
    phone_of_lid: HashMap<String, String>,
    pub(crate) groups: BTreeMap<String, Group>,
    pub(crate) newsletters: BTreeMap<String, Newsletter>,
    pub(crate) counts: Counts,
    /// By phone: what lies on the handsets.
    pub(crate) letters: HashMap<String, Letters>,
    last_sequence: u64,
    clock: Clock,
    journal: Option<Journal>,
}

/// The journal could not be written: nothing was changed, nothing may be confirmed.
#[derive(Debug, thiserror::Error)]
#[error("cannot write the journal: {0}")]
pub(crate) struct NotWritten(std::io::Error);

impl State {
    /// The state kept in `folder`, or an empty one that lives in memory.
    pub(crate) fn open(folder: Option<&Path>, clock: Clock) -> Result<Self, EmulatorError> {
        let mut state = Self { clock, ..Self::default() };
        let Some(folder) = folder else { return Ok(state) };
        let (mut journal, records) = Journal::open(folder)?;
        for change in records.into_iter().filter_map(|record| record.change) {
            state.apply(change);
        }
        let snapshot = state.snapshot();
        journal
            .rewrite(snapshot.into_iter())
            .map_err(|source| EmulatorError::Data { path: folder.to_owned(), source })?;
        state.journal = Some(journal);
        Ok(state)
    }

    /// Unix seconds.
    pub(crate) fn now(&self) -> i64 {
        self.clock.now()
    }

    /// Writes a change down, then makes it.
    pub(crate) fn commit(&mut self, change: Change) -> Result<(), NotWritten> {
        let record = Record::from(change);
        if let Some(journal) = &mut self.journal
            && let Err(error) = journal.append(&record)
        {
            tracing::error!(%error, "cannot write the journal");
            return Err(NotWritten(error));
        }
        if let Some(change) = record.change {
            self.apply(change);
        }
        if self.journal.as_ref().is_some_and(Journal::is_bloated) {
            self.rewrite_journal();
        }
        Ok(())
    }

    fn rewrite_journal(&mut self) {
        let snapshot = self.snapshot();
        if let Some(journal) = &mut self.journal
            && let Err(error) = journal.rewrite(snapshot.into_iter())
        {
            tracing::warn!(%error, "cannot rewrite the journal; it goes on growing");
        }
    }

    /// The account a user or device address belongs to, by number or by LID.
    pub(crate) fn account_of(&self, jid: &Jid) -> Option<&Account> {
        match jid.server {
            Server::Pn | Server::Legacy => self.accounts.get(jid.user_base()),
            Server::Lid => self.accounts.get(self.phone_of_lid.get(jid.user_base())?),
            _ => None,
        }
    }

    pub(crate) fn device(&self, phone: &str, device: u16) -> Option<&Device> {
        self.accounts.get(phone)?.devices.get(&device)
    }

    pub(crate) fn device_mut(&mut self, phone: &str, device: u16) -> Option<&mut Device> {
        self.accounts.get_mut(phone)?.devices.get_mut(&device)
    }

    fn device_by_key(&mut self, key: &DeviceKey) -> Option<&mut Device> {
        self.device_mut(&key.phone, u16::try_from(key.device).ok()?)
    }

    /// Nobody is logged in any more.
    pub(crate) fn forget_connections(&mut self) {
        for device in self.accounts.values_mut().flat_map(|account| account.devices.values_mut()) {
            device.session = None;
        }
    }

    /// Makes a queue entry with the next place in line.
    pub(crate) fn entry(&mut self, key: DeviceKey, class: &str, id: &str, from: String, stanza: Bytes) -> QueueEntry {
        self.last_sequence += 1;
        QueueEntry { key, sequence: self.last_sequence, class: class.to_owned(), id: id.to_owned(), from, stanza }
    }

    /// Hands freshly queued stanzas to those recipients that are logged in.
    pub(crate) fn deliver(&self, entries: &[QueueEntry]) {
        for entry in entries {
            let live = u16::try_from(entry.key.device)
                .ok()
                .and_then(|device| self.device(&entry.key.phone, device))
                .and_then(Device::live);
            if let Some(connection) = live {
                connection.send(entry.stanza.clone());
            }
        }
    }

    /// Stanzas kept for all devices together.
    pub(crate) fn queued(&self) -> u64 {
        self.accounts
            .values()
            .flat_map(|account| account.devices.values())
            .map(|device| device.queue.len() as u64)
            .sum()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use record::{ConfirmedRecord, RelayedRecord};

    #[test]
    fn a_journal_in_use_is_rewritten_to_what_still_counts() {
        let folder = tempfile::tempdir().unwrap();
        let key = DeviceKey { phone: "6281200000001".to_owned(), device: 1 };
        let mut state = State::open(Some(folder.path()), Clock::default()).unwrap();
        let account = Account::generate(&key.phone, "Ani", 1).unwrap();
        state.commit(Change::Account(account)).unwrap();
        state.commit(Change::Device(record::DeviceRecord { key: key.clone(), ..Default::default() })).unwrap();
        state.journal.as_mut().unwrap().set_floor(16 << 10);
        let mut longest = 0;
        for number in 0..500 {
            let id = format!("ID{number}");
            let stanza = Bytes::from(vec![7; 200]);
            let entry = state.entry(key.clone(), "message", &id, "somebody".to_owned(), stanza);
            let sequences = vec![entry.sequence];
            let sender = key.phone.clone();
            let relayed = RelayedRecord { sender, id, entries: vec![entry], ..RelayedRecord::default() };
            state.commit(Change::Relayed(relayed)).unwrap();
            // Everything but the last ten is confirmed.
            if number < 490 {
                state.commit(Change::Confirmed(ConfirmedRecord { key: key.clone(), sequences })).unwrap();
            }
            longest = longest.max(state.journal.as_ref().unwrap().length());
        }
        assert!(longest < 64 << 10, "it was never rewritten: {longest} bytes");
        let (queued, counted) = (state.queued(), state.counts.show(0).relayed);
        assert_eq!((queued, counted), (10, 500));
        drop(state);
        let state = State::open(Some(folder.path()), Clock::default()).unwrap();
        assert_eq!((state.queued(), state.counts.show(0).relayed), (queued, counted));
    }
}
