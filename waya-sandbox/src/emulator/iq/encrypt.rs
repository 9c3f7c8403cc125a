//! Pre-keys: handing them in, counting them, checking them, and giving them to others.

use bytes::Bytes;
use whatsapp_rust::wacore::libsignal::protocol::KeyPair;
use whatsapp_rust::wacore::prekeys::compute_key_bundle_digest;
use whatsapp_rust::wacore_binary::builder::NodeBuilder;
use whatsapp_rust::wacore_binary::{Jid, Node, NodeRef};

use super::{Answer, Request};
use crate::emulator::faults::{Faults, Whom};
use crate::emulator::handset::{big_endian, share_keys_soon};
use crate::emulator::relay::{jid_attr, queue_for};
use crate::emulator::state::account::SIGNED_PRE_KEY_ID;
use crate::emulator::state::record::{Change, DeviceKey, DeviceRecord, PreKey, PreKeyTaken, PreKeysRecord};
use crate::emulator::state::{Account, Device, State};

const CURVE_TYPE: u8 = 5;
/// Fewer one-time keys than this and the device is told with each that goes: clients differ in when they hand more in.
const LOW: usize = 10;
/// How the ids of what it is told begin.
const PROMPT: &str = "low-";

pub(super) fn answer(request: &Request<'_>) -> Answer {
    if request.is_set() {
        return match request.child("rotate") {
            Some(rotate) => take_signed(request, rotate),
            None => take(request),
        };
    }
    if request.child("count").is_some() {
        let state = request.session.emulator.state();
        let count = state.device(request.phone, request.device).map_or(0, |own| own.pre_keys.len());
        return Answer::With(NodeBuilder::new("count").attr("value", count).build());
    }
    if request.child("digest").is_some() {
        let state = request.session.emulator.state();
        let own = state.device(request.phone, request.device);
        return own
            .filter(|own| !own.pre_keys.is_empty())
            .map_or(Answer::Refused(404, "item-not-found"), |own| Answer::With(digest(own)));
    }
    match request.child("key") {
        Some(key) => give(request, key),
        None => Answer::Refused(400, "bad-request"),
    }
}

fn content(node: &NodeRef<'_>, tag: &str) -> Option<Bytes> {
    Some(Bytes::copy_from_slice(node.get_optional_child(tag)?.content_bytes()?))
}

/// A device hands in its bundle and one-time keys.
fn take(request: &Request<'_>) -> Answer {
    let mut state = request.session.emulator.state();
    let Some(own) = state.device(request.phone, request.device) else {
        return Answer::Refused(404, "item-not-found");
    };
    let Some(record) = updated(&own.record, request.node) else {
        return Answer::Refused(406, "not-acceptable");
    };
    let known: std::collections::HashSet<_> = own.pre_keys.iter().map(|pre_key| pre_key.id).collect();
    let keys = request.child("list").and_then(NodeRef::children).unwrap_or_default();
    let pre_keys: Vec<_> = keys
        .iter()
        .filter_map(|key| Some(PreKey { id: big_endian(&content(key, "id")?), public: content(key, "value")? }))
        .filter(|pre_key| !known.contains(&pre_key.id))
        .collect();
    let key = record.key.clone();
    let kept = state
        .commit(Change::Device(record))
        .and_then(|()| state.commit(Change::PreKeys(PreKeysRecord { key, pre_keys })));
    drop(state);
    if kept.is_err() {
        return Answer::Refused(500, "internal-server-error");
    }
    request.answer(Answer::Done);
    share_keys_soon(&request.session.emulator, request.phone, request.device);
    Answer::Later
}

fn take_signed(request: &Request<'_>, rotate: &NodeRef<'_>) -> Answer {
    let mut state = request.session.emulator.state();
    let own = state.device(request.phone, request.device);
    let Some(record) = own.and_then(|own| with_signed(own.record.clone(), rotate)) else {
        return Answer::Refused(406, "not-acceptable");
    };
    let kept = state.commit(Change::Device(record));
    kept.map_or(Answer::Refused(500, "internal-server-error"), |()| Answer::Done)
}

fn updated(record: &DeviceRecord, node: &NodeRef<'_>) -> Option<DeviceRecord> {
    // A linked device keeps its identity for life.
    (content(node, "identity")? == record.identity_public).then_some(())?;
    let mut record = with_signed(record.clone(), node)?;
    record.registration_id = big_endian(&content(node, "registration")?);
    Some(record)
}

fn with_signed(mut record: DeviceRecord, node: &NodeRef<'_>) -> Option<DeviceRecord> {
    let signed = node.get_optional_child("skey")?;
    record.signed_pre_key_id = big_endian(&content(signed, "id")?);
    record.signed_pre_key_public = content(signed, "value")?;
    record.signed_pre_key_signature = content(signed, "signature")?;
    Some(record)
}

fn digest(own: &Device) -> Node {
    let record = &own.record;
    let publics: Vec<&[u8]> = own.pre_keys.iter().map(|pre_key| &pre_key.public[..]).collect();
    let hash = compute_key_bundle_digest(
        &record.identity_public,
        &record.signed_pre_key_public,
        &record.signed_pre_key_signature,
        &publics,
    );
    let ids = own.pre_keys.iter().map(|pre_key| leaf("id", id_bytes(pre_key.id)));
    let mut children = bundle(record);
    children.push(NodeBuilder::new("list").children(ids).build());
    children.push(leaf("hash", hash));
    NodeBuilder::new("digest").children(children).build()
}

/// Gives out the bundles asked for, one one-time key each.
fn give(request: &Request<'_>, key: &NodeRef<'_>) -> Answer {
    let mut state = request.session.emulator.state();
    let asked: Vec<_> = key.get_children_by_tag("user").filter_map(|user| jid_attr(user, "jid")).collect();
    let faults = request.session.emulator.fault_rules();
    let users: Vec<_> = asked.iter().map(|jid| give_one(&mut state, faults, jid)).collect();
    Answer::With(NodeBuilder::new("list").children(users).build())
}

fn give_one(state: &mut State, faults: &Faults, jid: &Jid) -> Node {
    let user = NodeBuilder::new("user").attr("jid", jid);
    let unknown = || {
        let error = NodeBuilder::new("error").attr("code", 406).attr("text", "not-acceptable");
        NodeBuilder::new("user").attr("jid", jid).children([error.build()]).build()
    };
    let Some(account) = state.account_of(jid) else { return unknown() };
    let garbled = faults.garbles_bundles(Whom(account.phone(), Some(jid.device)));
    let shown = |record: DeviceRecord| bundle(&if garbled { garble(record) } else { record });
    if jid.device == 0 {
        return user.children(shown(handset(account))).build();
    }
    let Some(known) = account.devices.get(&jid.device) else { return unknown() };
    let mut children = shown(known.record.clone());
    let taken = known.pre_keys.front().cloned();
    let key = account.key(jid.device);
    children.push(leaf("device-identity", known.record.device_identity.to_vec()));
    let stale_keys = faults.gives_stale_keys(Whom(account.phone(), Some(jid.device)));
    if known.pre_keys.len() <= LOW {
        tell_running_low(state, &key, jid.device);
    }
    if stale_keys {
        children.push(one_time(&stale()));
        return user.children(children).build();
    }
    if let Some(pre_key) = taken
        && state.commit(Change::PreKeyTaken(PreKeyTaken { key, id: pre_key.id })).is_ok()
    {
        children.push(one_time(&pre_key));
    }
    user.children(children).build()
}

fn one_time(pre_key: &PreKey) -> Node {
    let parts = [leaf("id", id_bytes(pre_key.id)), leaf("value", pre_key.public.to_vec())];
    NodeBuilder::new("key").children(parts).build()
}

/// A key that its owner used long ago, or never had.
fn stale() -> PreKey {
    let public = KeyPair::generate(&mut signal_rand::rng()).public_key.public_key_bytes().to_vec();
    PreKey { id: 0x00FF_FFFE, public: public.into() }
}

/// A handset is never short of keys, nor does it open what is encrypted for it.
fn handset(account: &Account) -> DeviceRecord {
    DeviceRecord {
        registration_id: account.record.registration_id,
        identity_public: Bytes::copy_from_slice(account.identity.public_key.public_key_bytes()),
        signed_pre_key_id: SIGNED_PRE_KEY_ID,
        signed_pre_key_public: Bytes::copy_from_slice(account.signed_pre_key.public_key.public_key_bytes()),
        signed_pre_key_signature: account.record.signed_pre_key_signature.clone(),
        ..Default::default()
    }
}

/// With one bit of the signature turned.
fn garble(mut record: DeviceRecord) -> DeviceRecord {
    let mut signature = record.signed_pre_key_signature.to_vec();
    if let Some(byte) = signature.first_mut() {
        *byte ^= 1;
    }
    record.signed_pre_key_signature = signature.into();
    record
}

fn bundle(record: &DeviceRecord) -> Vec<Node> {
    let signed = NodeBuilder::new("skey").children([
        leaf("id", id_bytes(record.signed_pre_key_id)),
        leaf("value", record.signed_pre_key_public.to_vec()),
        leaf("signature", record.signed_pre_key_signature.to_vec()),
    ]);
    vec![
        leaf("registration", record.registration_id.to_be_bytes().to_vec()),
        leaf("type", vec![CURVE_TYPE]),
        leaf("identity", record.identity_public.to_vec()),
        signed.build(),
    ]
}

fn leaf(tag: &'static str, bytes: Vec<u8>) -> Node {
    NodeBuilder::new(tag).bytes(bytes).build()
}

fn id_bytes(id: u32) -> Vec<u8> {
    id.to_be_bytes()[1..].to_vec()
}

/// Tells a device with each key that goes; one that is away, or does not confirm, finds one such prompt when it comes.
fn tell_running_low(state: &mut State, key: &DeviceKey, number: u16) {
    let now = state.now();
    // One that was never there brings its first keys by itself.
    let Some(known) = state.device(&key.phone, number).filter(|known| known.keys_shared) else { return };
    let stanza = running_low(known.pre_keys.len().saturating_sub(1), now);
    if !known.queue.iter().any(|entry| entry.id.starts_with(PROMPT)) {
        queue_for(state, vec![key.clone()], "notification", &stanza);
    } else if let Some(connection) = known.live() {
        connection.send_node(&stanza);
    }
}

fn running_low(left: usize, at: i64) -> Node {
    NodeBuilder::new("notification")
        .attr("from", "s.whatsapp.net")
        .attr("type", "encrypt")
        .attr("id", format!("{PROMPT}{:08x}", rand::random::<u32>()))
        .attr("t", at)
        .children([NodeBuilder::new("count").attr("value", left).build()])
        .build()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::emulator::session::trial::{ANI, BUDI, sessions};

    #[tokio::test]
    async fn who_runs_low_while_away_finds_one_prompt() {
        let mut trial = sessions().await;
        let (budi, _hears) = trial.another(BUDI, 1);
        let key = DeviceKey { phone: ANI.to_owned(), device: 1 };
        let pre_keys = (0..5).map(|id| PreKey { id, public: Bytes::from_static(&[5; 32]) }).collect();
        {
            let mut state = trial.emulator.state();
            state.commit(Change::PreKeys(PreKeysRecord { key: key.clone(), pre_keys })).unwrap();
            state.commit(Change::KeysShared(key)).unwrap();
        }
        let user = NodeBuilder::new("user").attr("jid", Jid::pn_device(ANI, 1)).build();
        let asked = NodeBuilder::new("key").children([user]).build();
        let iq = NodeBuilder::new("iq").attr("id", "1").attr("xmlns", "encrypt").attr("type", "get");
        let iq = iq.attr("to", "s.whatsapp.net").children([asked]).build();
        let prompts = |told: Vec<Node>| {
            let prompts = told.into_iter().filter(|node| node.attrs.get("type").is_some_and(|kind| kind == "encrypt"));
            prompts.count()
        };
        for _ in 0..3 {
            budi.hand(&iq);
        }
        assert_eq!(prompts(trial.told(0)), 0, "it is away");
        crate::emulator::relay::backlog::begin(&trial.emulator, &trial.sessions[0].connection, ANI, 1);
        assert_eq!(prompts(trial.told(0)), 1);
        budi.hand(&iq);
        assert_eq!(prompts(trial.told(0)), 1, "who is there is told with each key");
        let ack = NodeBuilder::new("ack").attr("class", "notification").attr("to", "s.whatsapp.net");
        let id = trial.emulator.state().device(ANI, 1).unwrap().queue.iter().next().unwrap().id.clone();
        trial.sessions[0].hand(&ack.attr("id", id).build());
        assert_eq!(trial.emulator.state().queued(), 0);
    }
}
