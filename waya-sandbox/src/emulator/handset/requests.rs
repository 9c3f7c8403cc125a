//! What a device asks of the handset that linked it: what it was handed and could not read, its app-state keys,
//! messages that it has nothing but a placeholder of, and more history of a chat.
//!
//! What a handset hands over by itself it hands over again whether it is switched on or not. Requests, which are
//! end-to-end-encrypted messages themselves, wait until it is on.

use whatsapp_rust::buffa::{Message as _, MessageField};
use whatsapp_rust::wacore_binary::{Jid, NodeRef};
use whatsapp_rust::waproto::whatsapp as wa;
use whatsapp_rust::waproto::whatsapp::message as parts;
use whatsapp_rust::waproto::whatsapp::message::PeerDataOperationRequestType;
use whatsapp_rust::waproto::whatsapp::message::peer_data_operation_request_response_message::PeerDataOperationResult;
use whatsapp_rust::waproto::whatsapp::message::peer_data_operation_request_response_message::peer_data_operation_result::PlaceholderMessageResendResponse;
use whatsapp_rust::waproto::whatsapp::message::protocol_message::Type;

use super::keys::{share_all, share_keys};
use super::{on_demand, opening, peer};
use crate::emulator::Emulator;
use crate::emulator::relay::{canonical, text_attr, wait_for_handset};
use crate::emulator::state::letters::{Letter, Sealed};
use crate::emulator::state::{Account, State};

/// Messages asked for at once that are looked at.
const ASKED: usize = 64;

/// A device could not read what it was handed.
pub(crate) fn hand_over_again(
    emulator: &Emulator,
    state: &mut State,
    (phone, device): (&str, u16),
    receipt: &NodeRef<'_>,
    id: &str,
) {
    let retry = receipt.get_optional_child("retry");
    let count = retry.and_then(|retry| text_attr(retry, "count")?.parse().ok()).unwrap_or(1);
    if peer::again(state, phone, device, id, count).is_none() {
        // Said before the server started anew: then all of it is said once more.
        share_all(emulator, state, phone, device);
    }
}

/// A device has what it was handed.
pub(crate) fn taken(state: &mut State, phone: &str, device: u16, ids: &[String]) {
    if let Some(letters) = state.letters.get_mut(phone) {
        ids.iter().for_each(|id| letters.forget_handed(device, id));
    }
}

/// A device says something to its handset alone.
pub(crate) fn hear(
    emulator: &Emulator,
    state: &mut State,
    (phone, device): (&str, u16),
    message: &NodeRef<'_>,
) -> Option<()> {
    if !state.accounts.get(phone)?.record.handset_online {
        return wait_for_handset(state, (phone, device), message);
    }
    let account = state.accounts.get(phone)?;
    let enc = message.get_optional_child("enc")?;
    let sealed = Sealed::of(&enc.get_attr("type")?.as_str(), enc.content_bytes()?)?;
    let heard = opening::open_peer(account, state.letters.get(phone)?, device, &sealed)?;
    let said = heard.protocol_message.as_option()?;
    if said.app_state_sync_key_request.is_set() {
        return share_keys(state, phone, device);
    }
    let request = said.peer_data_operation_request_message.as_option()?;
    match request.peer_data_operation_request_type? {
        PeerDataOperationRequestType::PLACEHOLDER_MESSAGE_RESEND => {
            let answer = placeholders(state, account, text_attr(message, "id"), request);
            peer::hand_over(state, phone, device, &answer)
        }
        PeerDataOperationRequestType::HISTORY_SYNC_ON_DEMAND => {
            let asked = request.history_sync_on_demand_request.as_option()?;
            on_demand::answer(emulator, state, (phone, device), text_attr(message, "id")?, asked)
        }
        _ => None,
    }
}

/// What is there of the messages that were asked for.
fn placeholders(
    state: &State,
    account: &Account,
    stanza_id: Option<String>,
    request: &parts::PeerDataOperationRequestMessage,
) -> wa::Message {
    let asked = request.placeholder_message_resend_request.iter().take(ASKED);
    let found = asked.map(|asked| found(state, account, asked.message_key.as_option())).collect();
    let answer = parts::PeerDataOperationRequestResponseMessage {
        peer_data_operation_request_type: Some(PeerDataOperationRequestType::PLACEHOLDER_MESSAGE_RESEND),
        stanza_id,
        peer_data_operation_result: found,
    };
    let answer = parts::ProtocolMessage {
        r#type: Some(Type::PEER_DATA_OPERATION_REQUEST_RESPONSE_MESSAGE),
        peer_data_operation_request_response_message: MessageField::some(answer),
        ..Default::default()
    };
    wa::Message { protocol_message: MessageField::some(answer), ..Default::default() }
}

/// What lies on the handset of a message that was asked for: nothing, maybe.
fn found(state: &State, account: &Account, key: Option<&wa::MessageKey>) -> PeerDataOperationResult {
    let message = key.and_then(|key| resent(state, account, key)).map(|message| message.encode_to_vec());
    let response = PlaceholderMessageResendResponse { web_message_info_bytes: message };
    PeerDataOperationResult { placeholder_message_resend_response: MessageField::some(response), ..Default::default() }
}

fn resent(state: &State, account: &Account, key: &wa::MessageKey) -> Option<wa::WebMessageInfo> {
    let chat: Jid = key.remote_jid.as_deref()?.parse().ok()?;
    let (id, own) = (key.id.as_deref()?, key.from_me.unwrap_or_default());
    let letters = state.letters.get(account.phone())?;
    let letter = letters.find(&canonical(state, &chat), id, |sender| (sender == account.phone()) == own)?;
    shown(state, account, letter, &chat)
}

/// A message that lies on the handset, as its devices keep messages.
pub(super) fn shown(state: &State, account: &Account, letter: &Letter, chat: &Jid) -> Option<wa::WebMessageInfo> {
    let own = letter.sender.0 == account.phone();
    let letters = state.letters.get(account.phone())?;
    let mut message = opening::open(account, letters, letter)?;
    if let Some(sent) = message.device_sent_message.take() {
        message = sent.message.into_option()?;
    }
    let sender = state.accounts.get(&letter.sender.0)?;
    // Handsets name people by their numbers.
    let named = |jid: &Jid| state.account_of(jid).map_or_else(|| jid.clone(), |known| Jid::pn(known.phone()));
    let participant = (!own && state.account_of(chat).is_none()).then(|| Jid::pn(sender.phone()).to_string());
    let key = wa::MessageKey {
        remote_jid: Some(named(chat).to_string()),
        from_me: Some(own),
        id: Some(letter.id.clone()),
        participant: participant.clone(),
    };
    Some(wa::WebMessageInfo {
        key: MessageField::some(key),
        message: MessageField::some(message),
        message_timestamp: Some(letter.at.unsigned_abs()),
        push_name: Some(sender.record.name.clone()),
        participant,
        ..Default::default()
    })
}
