//! How a change is made, live and when the journal is read back, and the shortest list of changes
//! that leads to the present state.

use std::sync::Arc;

use super::State;
use super::account::Account;
use super::app_state::Collection;
use super::device::Device;
use super::group::Group;
use super::record::{
    Change, ConfirmedRecord, CountsRecord, DeviceRecord, HandsetMessage, HandsetWaitsRecord, KnowsRecord,
    PreKeysRecord, QueueEntry, QueuedRecord, Record,
};

impl State {
    pub(super) fn apply(&mut self, change: Change) {
        match change {
            Change::Account(record) => self.apply_account(record),
            Change::Device(record) => self.apply_device(record),
            Change::DeviceGone(key) => {
                if let (Some(account), Ok(device)) = (self.accounts.get_mut(&key.phone), u16::try_from(key.device)) {
                    account.devices.remove(&device);
                }
            }
            Change::PreKeys(record) => {
                if let Some(device) = self.device_by_key(&record.key) {
                    device.pre_keys.extend(record.pre_keys);
                }
            }
            Change::PreKeyTaken(taken) => {
                if let Some(device) = self.device_by_key(&taken.key) {
                    device.pre_keys.retain(|pre_key| pre_key.id != taken.id);
                }
            }
            Change::Group(record) => {
                self.groups.insert(record.id.clone(), Group { record });
            }
            Change::Newsletter(record) => match self.newsletters.get_mut(&record.id) {
                Some(known) => known.record = record,
                None => drop(self.newsletters.insert(record.id.clone(), record.into())),
            },
            Change::NewsletterPost(post) => {
                if let Some(newsletter) = self.newsletters.get_mut(&post.newsletter) {
                    newsletter.publish(post);
                }
            }
            Change::Relayed(record) => {
                self.counts.of(&record.sender).relayed(&record.id);
                self.apply_queued(record.entries);
                if let Some(waits) = record.waits {
                    self.apply_waiting(&record.handsets, waits);
                }
            }
            Change::HandsetWaits(record) => {
                let phone = [record.phone];
                record.messages.into_iter().for_each(|message| self.apply_waiting(&phone, message));
            }
            Change::HandsetCaughtUp(record) => {
                if let Some(account) = self.accounts.get_mut(&record.phone) {
                    account.handset_queue.clear();
                }
                self.apply_queued(record.entries);
            }
            Change::Queued(record) => self.apply_queued(record.entries),
            Change::Confirmed(record) => self.apply_confirmed(&record),
            Change::KeysShared(key) => {
                if let Some(device) = self.device_by_key(&key) {
                    device.keys_shared = true;
                }
            }
            Change::Knows(record) => {
                if let Some(account) = self.accounts.get_mut(&record.phone) {
                    account.known_by.insert(record.watcher);
                }
            }
            Change::AppStatePatch(record) => {
                if let Some(account) = self.accounts.get_mut(&record.phone) {
                    account.app_state.entry(record.collection.clone()).or_default().apply(record);
                }
            }
            Change::AppState(record) => {
                if let Some(account) = self.accounts.get_mut(&record.phone) {
                    account.app_state.insert(record.collection.clone(), Collection::from_record(record));
                }
            }
            Change::Counts(record) => {
                self.counts.of(&record.sender).restore(&record.digests, record.ids);
            }
        }
    }

    fn apply_account(&mut self, record: super::record::AccountRecord) {
        if let Some(known) = self.accounts.get_mut(&record.phone) {
            known.record = record;
            return;
        }
        self.phone_of_lid.insert(record.lid.clone(), record.phone.clone());
        if let Some(account) = Account::from_record(record) {
            self.accounts.insert(account.phone().to_owned(), account);
        }
    }

    fn apply_device(&mut self, record: DeviceRecord) {
        let (Some(account), Ok(number)) = (self.accounts.get_mut(&record.key.phone), u16::try_from(record.key.device))
        else {
            return;
        };
        match account.devices.get_mut(&number) {
            Some(known) => known.record = record,
            None => drop(account.devices.insert(number, Device::new(record))),
        }
    }

    fn apply_queued(&mut self, entries: Vec<QueueEntry>) {
        for entry in entries {
            self.last_sequence = self.last_sequence.max(entry.sequence);
            let key = entry.key.clone();
            if let Some(device) = self.device_by_key(&key) {
                device.queue.push(entry);
            }
        }
    }

    fn apply_waiting(&mut self, phones: &[String], message: HandsetMessage) {
        let message = Arc::new(message);
        for phone in phones {
            if let Some(account) = self.accounts.get_mut(phone) {
                account.handset_queue.push(message.clone());
            }
        }
    }

    fn apply_confirmed(&mut self, record: &ConfirmedRecord) {
        if let Some(device) = self.device_by_key(&record.key) {
            record.sequences.iter().for_each(|sequence| device.queue.remove(*sequence));
        }
    }

    /// The records that lead from nothing to this state.
    pub(super) fn snapshot(&self) -> Vec<Record> {
        let mut changes = Vec::new();
        for account in self.accounts.values() {
            changes.push(Change::Account(account.record.clone()));
            changes.extend(account.known_by.iter().map(|watcher| {
                Change::Knows(KnowsRecord { phone: account.phone().to_owned(), watcher: watcher.clone() })
            }));
            let shared = account.app_state.iter();
            changes.extend(shared.map(|(name, shared)| Change::AppState(shared.record(account.phone(), name))));
            if account.handset_queue.len() > 0 {
                let messages = account.handset_queue.iter().map(|message| (**message).clone()).collect();
                changes.push(Change::HandsetWaits(HandsetWaitsRecord { phone: account.phone().to_owned(), messages }));
            }
            account.devices.values().for_each(|device| snapshot_device(device, &mut changes));
        }
        changes.extend(self.groups.values().map(|group| Change::Group(group.record.clone())));
        for newsletter in self.newsletters.values() {
            changes.push(Change::Newsletter(newsletter.record.clone()));
            changes.extend(newsletter.posts().cloned().map(Change::NewsletterPost));
        }
        changes.extend(self.counts.senders().map(|(phone, counts)| {
            let ids = counts.repeated().clone().into_iter().collect();
            Change::Counts(CountsRecord { sender: phone.clone(), ids, digests: counts.digests() })
        }));
        changes.into_iter().map(Record::from).collect()
    }
}

fn snapshot_device(device: &Device, changes: &mut Vec<Change>) {
    let key = device.record.key.clone();
    changes.push(Change::Device(device.record.clone()));
    if !device.pre_keys.is_empty() {
        let pre_keys = device.pre_keys.iter().cloned().collect();
        changes.push(Change::PreKeys(PreKeysRecord { key: key.clone(), pre_keys }));
    }
    if device.keys_shared {
        changes.push(Change::KeysShared(key));
    }
    changes.extend(device.queue.iter().map(|entry| Change::Queued(QueuedRecord { entries: vec![entry.clone()] })));
}
