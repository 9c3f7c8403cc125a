//! Device identities: what a handset signs for a linked device, and what the device signs back.

use hmac::{Hmac, Mac};
use sha2::Sha256;
use whatsapp_rust::buffa::Message;
use whatsapp_rust::wacore::libsignal::protocol::PublicKey;
use whatsapp_rust::waproto::whatsapp as wa;
use whatsapp_rust::waproto::whatsapp::ADVEncryptionType;

use crate::emulator::state::Account;

const ACCOUNT_SIGNATURE: &[u8] = &[6, 0];
const DEVICE_SIGNATURE: &[u8] = &[6, 1];
const KEY_INDEX_SIGNATURE: &[u8] = &[6, 2];

/// A device identity signed by its account.
pub(super) struct SignedIdentity {
    details: Vec<u8>,
    account_key: Vec<u8>,
    signed: Vec<u8>,
}

impl SignedIdentity {
    /// Signs a device in; `None` only if signing itself fails.
    pub(super) fn new(account: &Account, key_index: u32, companion: &[u8; 32], now: i64) -> Option<Self> {
        let details = wa::ADVDeviceIdentity {
            raw_id: Some(account.record.raw_id),
            timestamp: Some(now.unsigned_abs()),
            key_index: Some(key_index),
            account_type: Some(ADVEncryptionType::E2EE),
            device_type: Some(ADVEncryptionType::E2EE),
        }
        .encode_to_vec();
        let account_key = account.identity.public_key.public_key_bytes().to_vec();
        let signature = sign(account, &[ACCOUNT_SIGNATURE, &details, companion].concat())?;
        let signed = wa::ADVSignedDeviceIdentity {
            details: Some(details.clone()),
            account_signature_key: Some(account_key.clone()),
            account_signature: Some(signature),
            device_signature: None,
        }
        .encode_to_vec();
        Some(Self { details, account_key, signed })
    }

    /// The container for the client, sealed with the secret only it and the handset know.
    pub(super) fn sealed(&self, adv_secret: &[u8]) -> Option<Vec<u8>> {
        let mut mac = Hmac::<Sha256>::new_from_slice(adv_secret).ok()?;
        mac.update(&self.signed);
        let container = wa::ADVSignedDeviceIdentityHMAC {
            details: Some(self.signed.clone()),
            hmac: Some(mac.finalize().into_bytes().to_vec()),
            account_type: Some(ADVEncryptionType::E2EE),
        };
        Some(container.encode_to_vec())
    }

    /// Checks the client's countersignature and gives the identity others get to see.
    pub(super) fn countersigned(&self, answer: &[u8], companion: &[u8; 32]) -> Option<Vec<u8>> {
        let mut identity = wa::ADVSignedDeviceIdentity::decode_from_slice(answer).ok()?;
        let signature = identity.device_signature.as_deref()?;
        let signed = [DEVICE_SIGNATURE, &self.details, companion, &self.account_key].concat();
        let key = PublicKey::from_djb_public_key_bytes(companion).ok()?;
        key.verify_signature(&signed, signature).then_some(())?;
        // Some clients leave the account's key out of their answer; others need it.
        identity.account_signature_key = Some(self.account_key.clone());
        Some(identity.encode_to_vec())
    }
}

/// The list of an account's devices, signed by it.
pub(crate) fn key_index_list(account: &Account, now: i64) -> Option<Vec<u8>> {
    let indexes = account.devices.values().map(|device| device.record.key_index);
    let details = wa::ADVKeyIndexList {
        raw_id: Some(account.record.raw_id),
        timestamp: Some(now.unsigned_abs()),
        current_index: Some(account.record.last_device),
        valid_indexes: std::iter::once(0).chain(indexes).collect(),
        account_type: Some(ADVEncryptionType::E2EE),
    }
    .encode_to_vec();
    let signature = sign(account, &[KEY_INDEX_SIGNATURE, &details].concat())?;
    let list = wa::ADVSignedKeyIndexList {
        details: Some(details),
        account_signature: Some(signature),
        account_signature_key: Some(account.identity.public_key.public_key_bytes().to_vec()),
    };
    Some(list.encode_to_vec())
}

fn sign(account: &Account, message: &[u8]) -> Option<Vec<u8>> {
    let key = &account.identity.private_key;
    let signature = key.calculate_signature(message, &mut signal_rand::rng()).ok()?;
    Some(signature.to_vec())
}
