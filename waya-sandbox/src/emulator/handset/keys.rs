//! The app-state keys a handset hands to each device it linked, as an end-to-end-encrypted message.
//!
//! The handset keeps no session: each hand-over starts a fresh one from the device's bundle.

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::FutureExt;
use whatsapp_rust::buffa::MessageField;
use whatsapp_rust::wacore::libsignal::protocol::error::Result as SignalResult;
use whatsapp_rust::wacore::libsignal::protocol::{
    CiphertextMessage, Direction, IdentityChange, IdentityKey, IdentityKeyPair, IdentityKeyStore, PreKeyBundle,
    ProtocolAddress, PublicKey, SessionRecord, SessionStore, UsePQRatchet, message_encrypt, process_prekey_bundle,
};
use whatsapp_rust::wacore::messages::MessageUtils;
use whatsapp_rust::wacore_binary::builder::NodeBuilder;
use whatsapp_rust::wacore_binary::{Jid, marshal};
use whatsapp_rust::waproto::whatsapp as wa;
use whatsapp_rust::waproto::whatsapp::message as parts;
use whatsapp_rust::waproto::whatsapp::message::protocol_message::Type;

use crate::emulator::relay::canonical;
use crate::emulator::state::record::{Change, PreKey, PreKeyTaken, QueuedRecord};
use crate::emulator::state::{Account, Device, State};
use crate::emulator::{Emulator, now};

/// Queues the app-state keys for a device that never got them.
pub(crate) fn share_keys_if_due(emulator: &Emulator, phone: &str, device: u16) {
    let mut state = emulator.state();
    if state.device(phone, device).is_some_and(|device| !device.keys_shared) {
        share_keys(&mut state, phone, device);
    }
}

/// Queues the app-state keys for a device.
pub(crate) fn share_keys(state: &mut State, phone: &str, device: u16) {
    let Some(account) = state.accounts.get(phone) else { return };
    let Some(known) = account.devices.get(&device) else { return };
    let key = account.key(device);
    let pre_key = known.pre_keys.front().cloned();
    let Some(sealed) = seal(account, known, device, pre_key.as_ref()) else {
        tracing::warn!(device, "the handset cannot encrypt for a device");
        return;
    };
    let from = Jid::pn(phone);
    let id = format!("3A{:016X}", rand::random::<u64>());
    let stanza = NodeBuilder::new("message")
        .attr("from", &from)
        .attr("id", id.as_str())
        .attr("type", "text")
        .attr("category", "peer")
        .attr("t", now())
        .attr("notify", account.record.name.as_str())
        .children([NodeBuilder::new("enc").attr("v", "2").attr("type", "pkmsg").bytes(sealed).build()])
        .build();
    let Ok(stanza) = marshal(&stanza) else { return };
    let from = canonical(state, &from);
    let entry = state.entry(key.clone(), "message", &id, from, Bytes::from(stanza));
    if let Some(pre_key) = pre_key
        && state.commit(Change::PreKeyTaken(PreKeyTaken { key: key.clone(), id: pre_key.id })).is_err()
    {
        return;
    }
    let entries = vec![entry];
    if state.commit(Change::Queued(QueuedRecord { entries: entries.clone() })).is_ok()
        && state.commit(Change::KeysShared(key)).is_ok()
    {
        state.deliver(&entries);
    }
}

fn seal(account: &Account, device: &Device, number: u16, pre_key: Option<&PreKey>) -> Option<Vec<u8>> {
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
    let plaintext = MessageUtils::encode_and_pad(&key_share(account));
    // The stores answer at once, so these futures never wait.
    process_prekey_bundle(&address, &mut sessions, &mut identity, &bundle, &mut signal_rand::rng(), UsePQRatchet::No)
        .now_or_never()?
        .ok()?;
    let sealed = message_encrypt(&plaintext, &address, &mut sessions, &mut identity).now_or_never()?.ok()?;
    matches!(sealed, CiphertextMessage::PreKeySignalMessage(_)).then(|| sealed.serialize().to_vec())
}

fn key_share(account: &Account) -> wa::Message {
    let fingerprint = parts::AppStateSyncKeyFingerprint {
        raw_id: Some(account.record.raw_id),
        current_index: Some(account.record.last_device),
        device_indexes: vec![0],
    };
    let key = parts::AppStateSyncKey {
        key_id: MessageField::some(parts::AppStateSyncKeyId {
            key_id: Some([&[0, 0], &account.record.raw_id.to_be_bytes()[..]].concat()),
        }),
        key_data: MessageField::some(parts::AppStateSyncKeyData {
            key_data: Some(account.record.app_state_key.to_vec()),
            fingerprint: MessageField::some(fingerprint),
            timestamp: Some(account.record.created),
        }),
    };
    let share = parts::AppStateSyncKeyShare { keys: vec![key] };
    wa::Message {
        protocol_message: MessageField::some(parts::ProtocolMessage {
            r#type: Some(Type::APP_STATE_SYNC_KEY_SHARE),
            app_state_sync_key_share: MessageField::some(share),
            ..Default::default()
        }),
        ..Default::default()
    }
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
