//! What chats see of this account: that it types, records, or does neither any more.
//!
//! WhatsApp passes that on only from accounts that are online, so the account is shown as online for as long as any
//! chat sees something, and then as the user wants it.

use std::collections::HashSet;
use std::sync::{Mutex, PoisonError};

use whatsapp_rust::Client;
use whatsapp_rust::features::ChatStateType;

use super::{convert, presence};
use crate::model::ChatId;
use crate::session::{ChatState, SendError};

/// The chats that see something.
#[derive(Debug, Default)]
pub struct Seen(Mutex<HashSet<ChatId>>);

impl Seen {
    /// Notes what a chat sees from now on; whether it is the first one, or there is none any more.
    fn note(&self, chat: &ChatId, state: ChatState) -> bool {
        let mut seen = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if state == ChatState::Paused {
            seen.remove(chat) && seen.is_empty()
        } else {
            seen.insert(chat.clone()) && seen.len() == 1
        }
    }
}

/// Shows a chat something. `online`: whether the account is shown as online anyway.
pub(super) async fn show(
    client: Option<&Client>,
    seen: &Seen,
    chat: &ChatId,
    state: ChatState,
    online: bool,
) -> Result<(), SendError> {
    let turns = seen.note(chat, state);
    let client = client.ok_or(SendError::Offline)?;
    if turns && !online && state != ChatState::Paused {
        presence::say(client, true).await;
    }
    let what = match state {
        ChatState::Typing => ChatStateType::Composing,
        ChatState::Recording => ChatStateType::Recording,
        ChatState::Paused => ChatStateType::Paused,
    };
    let told = client.chatstate().send(&convert::jid(chat), what).await;
    if turns && !online && state == ChatState::Paused {
        presence::say(client, false).await;
    }
    told.map_err(|error| SendError::Transient(error.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn online_from_the_first_to_the_last() {
        let (seen, budi, siti) = (Seen::default(), ChatId::phone("6281200000002"), ChatId::phone("6281200000003"));
        assert!(seen.note(&budi, ChatState::Typing));
        assert!(!seen.note(&budi, ChatState::Typing));
        assert!(!seen.note(&siti, ChatState::Recording));
        assert!(!seen.note(&budi, ChatState::Paused));
        assert!(!seen.note(&budi, ChatState::Paused));
        assert!(seen.note(&siti, ChatState::Paused));
        assert!(!seen.note(&siti, ChatState::Paused), "nobody saw anything");
    }
}
