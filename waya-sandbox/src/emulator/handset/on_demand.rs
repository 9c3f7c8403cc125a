//! More history of a chat, when a device asks for it: what lies on the handset from before the message that it names.

use whatsapp_rust::buffa::{Message as _, MessageField};
use whatsapp_rust::wacore_binary::Jid;
use whatsapp_rust::waproto::whatsapp as wa;
use whatsapp_rust::waproto::whatsapp::conversation::EndOfHistoryTransferType;
use whatsapp_rust::waproto::whatsapp::history_sync::HistorySyncType;
use whatsapp_rust::waproto::whatsapp::message as parts;
use whatsapp_rust::waproto::whatsapp::message::peer_data_operation_request_message::HistorySyncOnDemandRequest;

use super::pieces::{Asked, Piece, hand_over};
use super::requests::shown;
use crate::emulator::Emulator;
use crate::emulator::relay::canonical;
use crate::emulator::state::State;
use crate::emulator::state::letters::Letter;

/// Messages in one answer at most, and where no number is given.
const MESSAGES: usize = 50;

/// Answers the request `id` of a device.
pub(super) fn answer(
    emulator: &Emulator,
    state: &mut State,
    asker: (&str, u16),
    id: String,
    request: &HistorySyncOnDemandRequest,
) -> Option<()> {
    let account = state.accounts.get(asker.0)?;
    let chat: Jid = request.chat_jid.as_deref()?.parse().ok()?;
    let kept = state.letters.get(asker.0).map(|letters| letters.of_chat(&canonical(state, &chat)));
    let kept = kept.unwrap_or_default();
    let older = before(&kept, account.phone(), request);
    let wanted = request.on_demand_msg_count.and_then(|count| usize::try_from(count).ok()).unwrap_or(MESSAGES);
    let wanted = wanted.clamp(1, MESSAGES);
    let messages = older.iter().take(wanted).filter_map(|letter| shown(state, account, letter, &chat));
    let messages =
        messages.map(|message| wa::HistorySyncMsg { message: MessageField::some(message), ..Default::default() });
    let more = older.len() > wanted;
    let conversation = wa::Conversation {
        id: chat.to_string(),
        messages: messages.collect(),
        end_of_history_transfer: Some(!more),
        end_of_history_transfer_type: Some(if more {
            EndOfHistoryTransferType::COMPLETE_ON_DEMAND_SYNC_BUT_MORE_MSG_REMAIN_ON_PRIMARY
        } else {
            EndOfHistoryTransferType::COMPLETE_AND_NO_MORE_MESSAGE_REMAIN_ON_PRIMARY
        }),
        ..Default::default()
    };
    let history = wa::HistorySync {
        sync_type: HistorySyncType::ON_DEMAND,
        conversations: vec![conversation],
        chunk_order: Some(1),
        progress: Some(100),
        ..Default::default()
    };
    let piece = Piece {
        kind: parts::HistorySyncType::ON_DEMAND,
        order: 1,
        progress: 100,
        bytes: &history.encode_to_vec(),
        asked: Some(Asked { id, inside: request.support_inline_response.unwrap_or_default() }),
    };
    hand_over(emulator, state, asker, &piece)
}

/// Those of a chat's messages, the latest first, that are older than the one that was named; where that is not known,
/// older than its time.
fn before<'a>(kept: &'a [&'a Letter], own: &str, request: &HistorySyncOnDemandRequest) -> Vec<&'a Letter> {
    let from_me = request.oldest_msg_from_me.unwrap_or_default();
    let is_named = |letter: &&Letter| {
        request.oldest_msg_id.as_deref() == Some(letter.id.as_str()) && (letter.sender.0 == own) == from_me
    };
    if let Some(place) = kept.iter().position(is_named) {
        return kept[place + 1..].to_vec();
    }
    let limit = request.oldest_msg_timestamp_ms.filter(|at| *at > 0).unwrap_or(i64::MAX);
    kept.iter().copied().filter(|letter| letter.at.saturating_mul(1_000) < limit).collect()
}
