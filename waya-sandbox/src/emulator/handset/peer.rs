//! What a handset tells a device it linked: end-to-end-encrypted messages between the devices of one account.
//!
//! Each hand-over starts a fresh session from the device's bundle.

use bytes::Bytes;
use futures_util::FutureExt;
use whatsapp_rust::wacore::libsignal::protocol::{
    CiphertextMessage, IdentityKey, PreKeyBundle, ProtocolAddress, PublicKey, SessionRecord, UsePQRatchet,
    message_encrypt, process_prekey_bundle,
};
use whatsapp_rust::wacore::messages::MessageUtils;
use whatsapp_rust::wacore_binary::builder::NodeBuilder;
use whatsapp_rust::wacore_binary::{Jid, marshal};
use whatsapp_rust::waproto::whatsapp as wa;

use super::signal::{Handset, OneSession};
use crate::emulator::relay::canonical;
use crate::emulator::state::letters::HandedOver;
use crate::emulator::state::record::{Change, PreKey, PreKeyTaken, QueuedRecord};
use crate::emulator::state::{Account, Device, State};

/// Queues a message of the handset for a device; `None` if there is no such device, or it cannot be written down.
///
/// It is kept until the device confirms it: what cannot be read is asked for again.
pub(super) fn hand_over(state: &mut State, phone: &str, device: u16, message: &wa::Message) -> Option<()> {
    let id = format!("3A{:016X}", rand::random::<u64>());
    let plaintext = Bytes::from(MessageUtils::encode_and_pad(message));
    let handed = HandedOver { device, id, plaintext };
    queue(state, phone, &handed, None)?;
    state.letters.entry(phone.to_owned()).or_default().keep_handed(handed);
    Some(())
}

/// A device could not read what it was handed, for the `count`th time: it gets the same once more.
pub(super) fn again(state: &mut State, phone: &str, device: u16, id: &str, count: u32) -> Option<()> {
    let handed = state.letters.get(phone)?.handed(device, id)?.clone();
    queue(state, phone, &handed, Some(count))
}

fn queue(state: &mut State, phone: &str, handed: &HandedOver, count: Option<u32>) -> Option<()> {
    let HandedOver { device, id, plaintext } = handed;
    let account = state.accounts.get(phone)?;
    let known = account.devices.get(device)?;
    let key = account.key(*device);
    let pre_key = known.pre_keys.front().cloned();
    let Some((sealed, session)) = seal(account, known, *device, pre_key.as_ref(), plaintext) else {
        tracing::warn!(device, "the handset cannot encrypt for a device");
        return None;
    };
    let from = Jid::pn(phone);
    let mut enc = NodeBuilder::new("enc").attr("v", "2").attr("type", "pkmsg");
    if let Some(count) = count {
        enc = enc.attr("count", count);
    }
    let stanza = NodeBuilder::new("message")
        .attr("from", &from)
        .attr("id", id.as_str())
        .attr("type", "text")
        .attr("category", "peer")
        .attr("t", state.now())
        .attr("notify", account.record.name.as_str())
        .children([enc.bytes(sealed).build()])
        .build();
    let stanza = marshal(&stanza).ok()?;
    let from = canonical(state, &from);
    let entry = state.entry(key.clone(), "message", id, from, Bytes::from(stanza));
    if let Some(pre_key) = pre_key {
        state.commit(Change::PreKeyTaken(PreKeyTaken { key, id: pre_key.id })).ok()?;
    }
    let entries = vec![entry];
    state.commit(Change::Queued(QueuedRecord { entries: entries.clone() })).ok()?;
    state.deliver(&entries);
    state.letters.entry(phone.to_owned()).or_default().keep_session(*device, session);
    Some(())
}

fn seal(
    account: &Account,
    device: &Device,
    number: u16,
    pre_key: Option<&PreKey>,
    plaintext: &[u8],
) -> Option<(Vec<u8>, SessionRecord)> {
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
    let mut identity = Handset::of(account);
    let address = ProtocolAddress::new(account.phone(), u32::from(number).into());
    // The stores answer at once, so these futures never wait.
    process_prekey_bundle(&address, &mut sessions, &mut identity, &bundle, &mut signal_rand::rng(), UsePQRatchet::No)
        .now_or_never()?
        .ok()?;
    let sealed = message_encrypt(plaintext, &address, &mut sessions, &mut identity).now_or_never()?.ok()?;
    let opens = matches!(sealed, CiphertextMessage::PreKeySignalMessage(_));
    Some((opens.then(|| sealed.serialize().to_vec())?, sessions.0?))
}
