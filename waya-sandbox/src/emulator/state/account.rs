//! An account: a phone number, the keys of its handset, and its linked devices.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use bytes::Bytes;
use sha2::{Digest, Sha256};
use whatsapp_rust::wacore::libsignal::protocol::{KeyPair, PrivateKey};

use super::HandsetQueue;
use super::app_state::Collection;
use super::device::Device;
use super::record::{AccountRecord, DeviceKey};
use crate::emulator::config::EmulatorError;
use crate::emulator::view::{AccountInfo, DeviceInfo};

/// Id of the handset's signed pre-key.
pub(crate) const SIGNED_PRE_KEY_ID: u32 = 1;
/// How many devices WhatsApp lets one phone link.
pub(crate) const MAX_LINKED_DEVICES: usize = 4;

/// One account with everything that hangs on it.
pub(crate) struct Account {
    pub(crate) record: AccountRecord,
    /// The account's identity key is also the Signal identity of its handset.
    pub(crate) identity: KeyPair,
    pub(crate) signed_pre_key: KeyPair,
    pub(crate) devices: BTreeMap<u16, Device>,
    /// What waits for its handset.
    pub(crate) handset_queue: HandsetQueue,
    /// Accounts that hold this one's device list.
    pub(crate) known_by: BTreeSet<String>,
    /// What its devices share, by collection.
    pub(crate) app_state: BTreeMap<String, Collection>,
}

impl fmt::Debug for Account {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let devices: Vec<_> = self.devices.keys().collect();
        out.debug_struct("Account").field("devices", &devices).finish_non_exhaustive()
    }
}

impl Account {
    /// Makes the record of a new account with fresh keys.
    pub(crate) fn generate(phone: &str, name: &str, created: i64) -> Result<AccountRecord, EmulatorError> {
        let crypto = |error: &dyn std::fmt::Display| EmulatorError::Crypto(error.to_string());
        let random = &mut signal_rand::rng();
        let identity = KeyPair::generate(random);
        let signed_pre_key = KeyPair::generate(random);
        let signature = identity
            .private_key
            .calculate_signature(&signed_pre_key.public_key.serialize(), random)
            .map_err(|error| crypto(&error))?;
        Ok(AccountRecord {
            phone: phone.to_owned(),
            lid: lid_of(phone),
            name: name.to_owned(),
            identity_private: Bytes::copy_from_slice(identity.private_key.serialize()),
            signed_pre_key_private: Bytes::copy_from_slice(signed_pre_key.private_key.serialize()),
            signed_pre_key_signature: Bytes::copy_from_slice(&signature),
            registration_id: rand::random_range(1..=0x3fff),
            raw_id: rand::random_range(1..=u32::MAX / 2),
            app_state_key: Bytes::copy_from_slice(&rand::random::<[u8; 32]>()),
            handset_online: false,
            last_device: 0,
            created,
            ..AccountRecord::default()
        })
    }

    /// Builds the account of a record; `None` if its keys are none.
    pub(crate) fn from_record(record: AccountRecord) -> Option<Self> {
        Some(Self {
            identity: key_pair(&record.identity_private)?,
            signed_pre_key: key_pair(&record.signed_pre_key_private)?,
            record,
            devices: BTreeMap::new(),
            handset_queue: HandsetQueue::default(),
            known_by: BTreeSet::new(),
            app_state: BTreeMap::new(),
        })
    }

    pub(crate) fn phone(&self) -> &str {
        &self.record.phone
    }

    /// Whether this account does not want to hear of that one.
    pub(crate) fn blocks(&self, phone: &str) -> bool {
        self.record.blocked.iter().any(|blocked| blocked.phone == phone)
    }

    /// A privacy setting; `all` unless it was changed.
    pub(crate) fn privacy(&self, category: &str) -> &str {
        self.record.privacy.get(category).map_or("all", String::as_str)
    }

    /// Whether others see this of the account. The emulator keeps no address books: who is let in only as a
    /// contact is let in.
    pub(crate) fn shows(&self, category: &str) -> bool {
        match self.privacy(category) {
            "none" => false,
            "match_last_seen" => self.shows("last"),
            _ => true,
        }
    }

    pub(crate) fn key(&self, device: u16) -> DeviceKey {
        DeviceKey { phone: self.record.phone.clone(), device: u32::from(device) }
    }

    pub(crate) fn info(&self) -> AccountInfo {
        AccountInfo {
            phone: self.record.phone.clone(),
            lid: self.record.lid.clone(),
            name: self.record.name.clone(),
            handset_online: self.record.handset_online,
            handset_queued: self.handset_queue.len(),
            devices: self
                .devices
                .iter()
                .map(|(number, device)| DeviceInfo {
                    device: *number,
                    connected: device.session.is_some(),
                    queued: device.queue.len(),
                })
                .collect(),
        }
    }
}

fn key_pair(private: &[u8]) -> Option<KeyPair> {
    KeyPair::try_from(PrivateKey::deserialize(private).ok()?).ok()
}

/// A stable LID: fifteen digits that do not give the number away at a glance.
fn lid_of(phone: &str) -> String {
    let digest = Sha256::digest(format!("lid of {phone}"));
    let mut head = [0; 8];
    head.copy_from_slice(&digest[..8]);
    let number = u64::from_be_bytes(head) % 900_000_000_000_000;
    (100_000_000_000_000 + number).to_string()
}

/// The digits of a phone number, without a leading plus sign and the usual separators.
pub(crate) fn phone_digits(text: &str) -> Option<String> {
    let digits: String = text.trim().trim_start_matches('+').chars().filter(|c| !" -.()".contains(*c)).collect();
    let good = (7..=15).contains(&digits.len()) && digits.bytes().all(|byte| byte.is_ascii_digit());
    good.then_some(digits)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_record_gives_the_account_back_with_the_same_keys() {
        let record = Account::generate("6281200000001", "Budi", 1).unwrap();
        let account = Account::from_record(record.clone()).unwrap();
        assert_eq!(account.identity.private_key.serialize()[..], record.identity_private[..]);
        assert!(
            account
                .identity
                .public_key
                .verify_signature(&account.signed_pre_key.public_key.serialize(), &record.signed_pre_key_signature)
        );
        assert_eq!(account.record.lid.len(), 15);
    }

    #[test]
    fn only_phone_numbers_are_phone_numbers() {
        assert_eq!(phone_digits("+62 812-0000-0001").as_deref(), Some("6281200000001"));
        for wrong in ["", "123456", "62812x000001", "1234567890123456", "６２８１２００００００１"] {
            assert_eq!(phone_digits(wrong), None, "{wrong:?}");
        }
    }
}
