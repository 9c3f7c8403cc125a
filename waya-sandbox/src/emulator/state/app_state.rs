//! What the devices of an account share: collections of encrypted records, changed by one patch after another.
//!
//! The server reads no record. It keeps the patches in order, and what they leave, so that a new device can begin with a
//! snapshot: the newest patch says the authentication code of all records together.

use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;
use whatsapp_rust::buffa::{Message as _, MessageField};
use whatsapp_rust::waproto::whatsapp as wa;
use whatsapp_rust::waproto::whatsapp::syncd_mutation::SyncdOperation;

use super::record::{AppStatePatchRecord, AppStateRecord};

/// The collections there are.
pub(crate) const COLLECTIONS: [&str; 5] =
    ["critical_block", "critical_unblock_low", "regular_high", "regular_low", "regular"];
/// Patches kept; who is further behind gets a snapshot.
const KEPT: usize = 64;

/// One collection.
#[derive(Debug, Default, Clone)]
pub(crate) struct Collection {
    pub(crate) version: u64,
    /// `SyncdRecord`s by their index.
    records: BTreeMap<Vec<u8>, Bytes>,
    snapshot_mac: Bytes,
    key_id: Bytes,
    patches: VecDeque<Bytes>,
    incomplete: bool,
}

/// A patch that cannot be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct BadPatch;

impl Collection {
    /// A patch as it is kept and handed out: with the version it leads to.
    pub(crate) fn stamped(patch: &[u8], version: u64) -> Result<Bytes, BadPatch> {
        let mut patch = wa::SyncdPatch::decode_from_slice(patch).map_err(|_| BadPatch)?;
        let whole = patch.snapshot_mac.is_some() && patch.patch_mac.is_some() && patch.key_id.is_set();
        if !whole {
            return Err(BadPatch);
        }
        patch.version = MessageField::some(wa::SyncdVersion { version: Some(version) });
        Ok(patch.encode_to_vec().into())
    }

    pub(super) fn apply(&mut self, record: AppStatePatchRecord) {
        self.version = record.version;
        if let Ok(patch) = wa::SyncdPatch::decode_from_slice(&record.patch) {
            self.snapshot_mac = patch.snapshot_mac.unwrap_or_default().into();
            self.key_id = patch.key_id.as_option().and_then(|key| key.id.clone()).unwrap_or_default().into();
            self.incomplete |= patch.external_mutations.is_set();
            for mutation in patch.mutations {
                self.change(&mutation);
            }
        }
        self.patches.push_back(record.patch);
        if self.patches.len() > KEPT && !self.incomplete {
            self.patches.pop_front();
        }
    }

    fn change(&mut self, mutation: &wa::SyncdMutation) {
        let Some(record) = mutation.record.as_option() else { return };
        let Some(index) = record.index.as_option().and_then(|index| index.blob.clone()) else { return };
        if mutation.operation.as_ref().is_some_and(|operation| *operation == SyncdOperation::REMOVE) {
            self.records.remove(&index);
        } else {
            self.records.insert(index, record.encode_to_vec().into());
        }
    }

    /// The patches behind a version; `None` when they do not go back that far.
    pub(crate) fn since(&self, version: u64) -> Option<impl Iterator<Item = &Bytes>> {
        let behind = usize::try_from(self.version.checked_sub(version)?).ok()?;
        let skipped = self.patches.len().checked_sub(behind)?;
        Some(self.patches.iter().skip(skipped))
    }

    /// Everything, for who begins.
    pub(crate) fn snapshot(&self) -> Vec<u8> {
        let records = self.records.values().filter_map(|record| wa::SyncdRecord::decode_from_slice(record).ok());
        let key_id = wa::KeyId { id: Some(self.key_id.to_vec()) };
        wa::SyncdSnapshot {
            version: MessageField::some(wa::SyncdVersion { version: Some(self.version) }),
            records: records.collect(),
            mac: Some(self.snapshot_mac.to_vec()),
            key_id: MessageField::some(key_id),
        }
        .encode_to_vec()
    }

    pub(super) fn record(&self, phone: &str, name: &str) -> AppStateRecord {
        AppStateRecord {
            phone: phone.to_owned(),
            collection: name.to_owned(),
            version: self.version,
            records: self.records.values().cloned().collect(),
            snapshot_mac: self.snapshot_mac.clone(),
            key_id: self.key_id.clone(),
            patches: self.patches.iter().cloned().collect(),
            incomplete: self.incomplete,
        }
    }

    pub(super) fn from_record(record: AppStateRecord) -> Self {
        let indexed = record.records.into_iter().filter_map(|bytes| {
            let record = wa::SyncdRecord::decode_from_slice(&bytes).ok()?;
            Some((record.index.as_option()?.blob.clone()?, bytes))
        });
        Self {
            version: record.version,
            records: indexed.collect(),
            snapshot_mac: record.snapshot_mac,
            key_id: record.key_id,
            patches: record.patches.into(),
            incomplete: record.incomplete,
        }
    }
}
