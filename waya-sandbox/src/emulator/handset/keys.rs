//! What a handset hands to each device it linked, once: the app-state keys, and the history if it asked for that.

use whatsapp_rust::buffa::MessageField;
use whatsapp_rust::waproto::whatsapp as wa;
use whatsapp_rust::waproto::whatsapp::message as parts;
use whatsapp_rust::waproto::whatsapp::message::protocol_message::Type;

use super::{history, peer};
use crate::emulator::Emulator;
use crate::emulator::state::record::Change;
use crate::emulator::state::{Account, State};

/// Queues the app-state keys for a device that never got them, and what else it gets at first, once there are keys of its
/// own to encrypt it with.
pub(crate) fn share_keys_if_due(emulator: &Emulator, phone: &str, device: u16) {
    let mut state = emulator.state();
    if state.device(phone, device).is_some_and(|device| !device.keys_shared && !device.pre_keys.is_empty()) {
        share_all(emulator, &mut state, phone, device);
    }
}

/// The same a moment after a device handed in its keys. No real phone is so near that it speaks together with the answer to
/// that, and there are clients that lose what they hear before they have written their keys down.
pub(crate) fn share_keys_soon(emulator: &Emulator, phone: &str, device: u16) {
    let grace = emulator.config().first_stanza_grace;
    if grace.is_zero() {
        return share_keys_if_due(emulator, phone, device);
    }
    let (emulator, phone) = (emulator.clone(), phone.to_owned());
    tokio::spawn(async move {
        tokio::time::sleep(grace).await;
        share_keys_if_due(&emulator, &phone, device);
    });
}

/// Queues everything that a device gets at first.
pub(super) fn share_all(emulator: &Emulator, state: &mut State, phone: &str, device: u16) {
    let wants_history = state.device(phone, device).is_some_and(|known| known.record.wants_history);
    if share_keys(state, phone, device).is_some() && wants_history {
        history::share(emulator, state, phone, device);
    }
}

/// Queues the app-state keys for a device; `None` if that could not be done.
pub(super) fn share_keys(state: &mut State, phone: &str, device: u16) -> Option<()> {
    let account = state.accounts.get(phone)?;
    let (key, share) = (account.key(device), key_share(account));
    peer::hand_over(state, phone, device, &share)?;
    state.commit(Change::KeysShared(key)).ok()
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
