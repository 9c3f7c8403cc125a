//! What a handset tells a device it linked: end-to-end-encrypted messages between the devices of one account.
//!
//! The handset keeps no session: each hand-over starts a fresh one from the device's bundle.

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::FutureExt;
use whatsapp_rust::wacore::libsignal::protocol::error::Result as SignalResult;
use whatsapp_rust::wacore::libsignal::protocol::{
    CiphertextMessage, Direction, IdentityChange, IdentityKey, IdentityKeyPair, IdentityKeyStore, PreKeyBundle,
    ProtocolAddress, PublicKey, SessionRecord, SessionStore, UsePQRatchet, message_encrypt, process_prekey_bundle,
};
use whatsapp_rust::wacore::messages::MessageUtils;
use whatsapp_rust::wacore_binary::builder::NodeBuilder;
use whatsapp_rust::wacore_binary::{Jid, marshal};
use whatsapp_rust::waproto::whatsapp as wa;

use crate::emulator::relay::canonical;
use crate::emulator::state::record::{Change, PreKey, PreKeyTaken, QueuedRecord};
use crate::emulator::state::{Account, Device, State};

/// Queues a message of the handset for a device; `None` if there is no such device, or it cannot be written down.
pub(super) fn hand_over(state: &mut State, phone: &str, device: u16, message: &wa::Message) -> Option<()> {
    let account = state.accounts.get(phone)?;
    let known = account.devices.get(&device)?;
    let key = account.key(device);
    let pre_key = known.pre_keys.front().cloned();
    let Some(sealed) = seal(account, known, device, pre_key.as_ref(), message) else {
        tracing::warn!(device, "the handset cannot encrypt for a device");
        return None;
    };
    let from = Jid::pn(phone);
    let id = format!("3A{:016X}", rand::random::<u64>());
    let stanza = NodeBuilder::new("message")
        .attr("from", &from)
        .attr("id", id.as_str())
        .attr("type", "text")
        .attr("category", "peer")
        .attr("t", state.now())
        .attr("notify", account.record.name.as_str())
        .children([NodeBuilder::new("enc").attr("v", "2").attr("type", "pkmsg").bytes(sealed).build()])
        .build();
    let stanza = marshal(&stanza).ok()?;
    let from = canonical(state, &from);
    let entry = state.entry(key.clone(), "message", &id, from, Bytes::from(stanza));
    if let Some(pre_key) = pre_key {
        state.commit(Change::PreKeyTaken(PreKeyTaken { key, id: pre_key.id })).ok()?;
    }
    let entries = vec![entry];
    state.commit(Change::Queued(QueuedRecord { entries: entries.clone() })).ok()?;
    state.deliver(&entries);
    Some(())
}

fn seal(
    account: &Account,
    device: &Device,
    number: u16,
    pre_key: Option<&PreKey>,
    message: &wa::Message,
) -> Option<Vec<u8>> {
    let record = &device.record;
    let public = |bytes: &[u8]| PublicKey::from_djb_public_key_bytes(bytes).ok();
    let pre_key = match pre_key {
        Some(pre_key) => Some((pre_key.id.into(), public(&pre_key.public)?)),
        None => None,
    };
    let bundle = PreKeyBundle::new(
        record.registration_id,
        u32::from(number).into(),
        pre_key,
        record.signed_pre_key_id.into(),
        public(&record.signed_pre_key_public)?,
        record.signed_pre_key_signature.to_vec(),
        IdentityKey::new(public(&record.identity_public)?),
    )
    .ok()?;
    let mut sessions = OneSession(None);
    let mut identity = Handset {
        identity: IdentityKeyPair::new(
            IdentityKey::new(account.identity.public_key),
            account.identity.private_key.clone(),
        ),
        registration_id: account.record.registration_id,
    };
    let address = ProtocolAddress::new(account.phone(), u32::from(number).into());
    let plaintext = MessageUtils::encode_and_pad(message);
    // The stores answer at once, so these futures never wait.
    process_prekey_bundle(&address, &mut sessions, &mut identity, &bundle, &mut signal_rand::rng(), UsePQRatchet::No)
        .now_or_never()?
        .ok()?;
    let sealed = message_encrypt(&plaintext, &address, &mut sessions, &mut identity).now_or_never()?.ok()?;
    matches!(sealed, CiphertextMessage::PreKeySignalMessage(_)).then(|| sealed.serialize().to_vec())
}

/// The session of one hand-over.
struct OneSession(Option<SessionRecord>);

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

/// A handset as Signal sees it: it trusts whatever bundle the server holds.
struct Handset {
    identity: IdentityKeyPair,
    registration_id: u32,
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
