//! The history a handset hands to a device that it linked: the names of those it shares a group with, and a chat with one
//! old message for each of them and for each group. Nobody else has ever written to it.

use std::collections::BTreeSet;

use whatsapp_rust::buffa::{Message as _, MessageField};
use whatsapp_rust::wacore_binary::Jid;
use whatsapp_rust::waproto::whatsapp as wa;
use whatsapp_rust::waproto::whatsapp::history_sync::HistorySyncType;
use whatsapp_rust::waproto::whatsapp::message as parts;

use super::pieces::{Piece, hand_over};
use crate::emulator::Emulator;
use crate::emulator::state::{Account, Group, State};

/// What was said last in every chat of a history.
pub const HISTORY_TEXT: &str = "an old message, from before this device was linked";

/// Chats in one piece.
const CHATS: usize = 4;

/// Queues an account's history for one of its devices.
pub(super) fn share(emulator: &Emulator, state: &mut State, phone: &str, device: u16) {
    let pn_only = emulator.config().pn_only;
    let at = state.now().unsigned_abs();
    let groups: Vec<_> = state.groups.values().filter(|group| group.has(phone)).collect();
    let members: BTreeSet<_> = groups.iter().flat_map(|group| &group.record.members).collect();
    let people: Vec<_> =
        members.into_iter().filter(|member| *member != phone).filter_map(|member| state.accounts.get(member)).collect();
    let names = wa::HistorySync {
        sync_type: HistorySyncType::PUSH_NAME,
        pushnames: people.iter().filter(|person| !person.record.name.is_empty()).map(|person| name(person)).collect(),
        ..Default::default()
    };
    let chats: Vec<_> = groups
        .into_iter()
        .map(|known| group(known, at))
        .chain(people.iter().map(|person| private(person, pn_only, at)))
        .collect();
    let pairs: Vec<_> = people.iter().filter(|_| !pn_only).map(|person| pair(person)).collect();
    let mut pieces = chats_in_pieces(&chats, &pairs);
    pieces.push((parts::HistorySyncType::PUSH_NAME, names));
    let count = pieces.len() as u32;
    for (order, (kind, mut piece)) in (1..).zip(pieces) {
        let progress = 100 * order / count;
        (piece.chunk_order, piece.progress) = (Some(order), Some(progress));
        let piece = Piece { kind, order, progress, bytes: &piece.encode_to_vec(), asked: None };
        if hand_over(emulator, state, (phone, device), &piece).is_none() {
            return;
        }
    }
}

/// The first chats at once, the others behind them; each piece says what its people's numbers are.
fn chats_in_pieces(
    chats: &[wa::Conversation],
    pairs: &[wa::PhoneNumberToLIDMapping],
) -> Vec<(parts::HistorySyncType, wa::HistorySync)> {
    let piece = |(place, chats): (usize, &[wa::Conversation])| {
        let (kind, sync_type) = match place {
            0 => (parts::HistorySyncType::INITIAL_BOOTSTRAP, HistorySyncType::INITIAL_BOOTSTRAP),
            _ => (parts::HistorySyncType::RECENT, HistorySyncType::RECENT),
        };
        let is_in = |pair: &&wa::PhoneNumberToLIDMapping| chats.iter().any(|chat| chat.pn_jid == pair.pn_jid);
        let piece = wa::HistorySync {
            sync_type,
            conversations: chats.to_vec(),
            phone_number_to_lid_mappings: pairs.iter().filter(is_in).cloned().collect(),
            ..Default::default()
        };
        (kind, piece)
    };
    // Who has no chats is told so.
    let first = if chats.is_empty() { vec![chats] } else { chats.chunks(CHATS).collect() };
    first.into_iter().enumerate().map(piece).collect()
}

/// Queues a piece for all devices of an account; for how many.
pub(crate) fn hand_piece(emulator: &Emulator, state: &mut State, phone: &str, bytes: &[u8]) -> usize {
    let devices = state.accounts.get(phone).map(|account| account.devices.keys().copied().collect::<Vec<_>>());
    let piece = Piece { kind: parts::HistorySyncType::RECENT, order: 1, progress: 100, bytes, asked: None };
    let handed = |device: &u16| hand_over(emulator, state, (phone, *device), &piece).is_some();
    devices.unwrap_or_default().iter().copied().filter(handed).count()
}

fn name(person: &Account) -> wa::Pushname {
    wa::Pushname { id: Some(Jid::pn(person.phone()).to_string()), pushname: Some(person.record.name.clone()) }
}

fn pair(person: &Account) -> wa::PhoneNumberToLIDMapping {
    wa::PhoneNumberToLIDMapping {
        pn_jid: Some(Jid::pn(person.phone()).to_string()),
        lid_jid: Some(Jid::lid(person.record.lid.as_str()).to_string()),
    }
}

/// Chats are addressed by LID where accounts are.
fn private(person: &Account, pn_only: bool, at: u64) -> wa::Conversation {
    let phone = Jid::pn(person.phone()).to_string();
    if pn_only {
        return conversation(phone, &person.record.name, at);
    }
    let chat = conversation(Jid::lid(person.record.lid.as_str()).to_string(), &person.record.name, at);
    wa::Conversation { pn_jid: Some(phone), ..chat }
}

/// Groups are held at the top of the list, and muted.
fn group(group: &Group, at: u64) -> wa::Conversation {
    wa::Conversation {
        pinned: Some(u32::try_from(group.record.created).unwrap_or_default()),
        mute_end_time: Some(u64::MAX),
        ..conversation(Jid::group(group.record.id.as_str()).to_string(), &group.record.subject, at)
    }
}

fn conversation(id: String, name: &str, at: u64) -> wa::Conversation {
    let key = wa::MessageKey {
        remote_jid: Some(id.clone()),
        from_me: Some(true),
        id: Some(format!("3A{:016X}", rand::random::<u64>())),
        ..Default::default()
    };
    let text = wa::Message { conversation: Some(HISTORY_TEXT.to_owned()), ..Default::default() };
    let message = wa::WebMessageInfo {
        key: MessageField::some(key),
        message: MessageField::some(text),
        message_timestamp: Some(at),
        ..Default::default()
    };
    wa::Conversation {
        id,
        name: Some(name.to_owned()),
        conversation_timestamp: Some(at),
        archived: Some(false),
        messages: vec![wa::HistorySyncMsg { message: MessageField::some(message), ..Default::default() }],
        ..Default::default()
    }
}
