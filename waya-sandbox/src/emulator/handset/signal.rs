//! What Signal asks a handset for. It keeps nothing from one message to the next: its stores live as long as one of
//! them is sealed or opened, and answer at once.

use async_trait::async_trait;
use whatsapp_rust::wacore::libsignal::protocol::error::Result as SignalResult;
use whatsapp_rust::wacore::libsignal::protocol::{
    Direction, GenericSignedPreKey, IdentityChange, IdentityKey, IdentityKeyPair, IdentityKeyStore, PreKeyId,
    PreKeyRecord, PreKeyStore, ProtocolAddress, SenderKeyName, SenderKeyRecord, SenderKeyStore, SessionRecord,
    SessionStore, SignalProtocolError, SignedPreKeyId, SignedPreKeyRecord, SignedPreKeyStore, Timestamp,
};

use crate::emulator::state::Account;
use crate::emulator::state::account::SIGNED_PRE_KEY_ID;

/// The one session that is at work.
pub(super) struct OneSession(pub(super) Option<SessionRecord>);

#[async_trait]
impl SessionStore for OneSession {
    async fn load_session(&self, _: &ProtocolAddress) -> SignalResult<Option<SessionRecord>> {
        Ok(self.0.clone())
    }

    async fn has_session(&self, _: &ProtocolAddress) -> SignalResult<bool> {
        Ok(self.0.is_some())
    }

    async fn store_session(&mut self, _: &ProtocolAddress, record: SessionRecord) -> SignalResult<()> {
        self.0 = Some(record);
        Ok(())
    }
}

/// The one sender key that is at work.
#[derive(Default)]
pub(super) struct OneSenderKey(Option<SenderKeyRecord>);

#[async_trait]
impl SenderKeyStore for OneSenderKey {
    async fn store_sender_key(&mut self, _: &SenderKeyName, record: SenderKeyRecord) -> SignalResult<()> {
        self.0 = Some(record);
        Ok(())
    }

    async fn load_sender_key(&self, _: &SenderKeyName) -> SignalResult<Option<SenderKeyRecord>> {
        Ok(self.0.clone())
    }
}

/// A handset as Signal sees it: it trusts whatever key the server knows, and has no one-time keys.
#[derive(Clone)]
pub(super) struct Handset {
    identity: IdentityKeyPair,
    registration_id: u32,
    signed_pre_key: SignedPreKeyRecord,
}

impl Handset {
    pub(super) fn of(account: &Account) -> Self {
        let record = &account.record;
        Self {
            identity: IdentityKeyPair::new(
                IdentityKey::new(account.identity.public_key),
                account.identity.private_key.clone(),
            ),
            registration_id: record.registration_id,
            signed_pre_key: SignedPreKeyRecord::new(
                SIGNED_PRE_KEY_ID.into(),
                Timestamp::from_epoch_millis(record.created.unsigned_abs() * 1_000),
                &account.signed_pre_key,
                &record.signed_pre_key_signature,
            ),
        }
    }
}

#[async_trait]
impl IdentityKeyStore for Handset {
    async fn get_identity_key_pair(&self) -> SignalResult<IdentityKeyPair> {
        Ok(self.identity.clone())
    }

    async fn get_local_registration_id(&self) -> SignalResult<u32> {
        Ok(self.registration_id)
    }

    async fn save_identity(&mut self, _: &ProtocolAddress, _: &IdentityKey) -> SignalResult<IdentityChange> {
        Ok(IdentityChange::NewOrUnchanged)
    }

    async fn is_trusted_identity(&self, _: &ProtocolAddress, _: &IdentityKey, _: Direction) -> SignalResult<bool> {
        Ok(true)
    }

    async fn get_identity(&self, _: &ProtocolAddress) -> SignalResult<Option<IdentityKey>> {
        Ok(None)
    }
}

#[async_trait]
impl SignedPreKeyStore for Handset {
    async fn get_signed_pre_key(&self, id: SignedPreKeyId) -> SignalResult<SignedPreKeyRecord> {
        match u32::from(id) {
            SIGNED_PRE_KEY_ID => Ok(self.signed_pre_key.clone()),
            _ => Err(SignalProtocolError::InvalidSignedPreKeyId),
        }
    }

    async fn save_signed_pre_key(&mut self, _: SignedPreKeyId, _: &SignedPreKeyRecord) -> SignalResult<()> {
        Ok(())
    }
}

#[async_trait]
impl PreKeyStore for Handset {
    async fn get_pre_key(&self, _: PreKeyId) -> SignalResult<PreKeyRecord> {
        Err(SignalProtocolError::InvalidPreKeyId)
    }

    async fn save_pre_key(&mut self, _: PreKeyId, _: &PreKeyRecord) -> SignalResult<()> {
        Ok(())
    }

    async fn remove_pre_key(&mut self, _: PreKeyId) -> SignalResult<()> {
        Ok(())
    }
}
