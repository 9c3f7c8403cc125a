//! What lies on a handset: the latest media messages as they came, sealed, and what their keys are opened with.
//!
//! In memory only: after a restart of the server the handsets have forgotten their messages.

use std::collections::{HashMap, VecDeque};

use bytes::Bytes;
use whatsapp_rust::wacore::libsignal::protocol::SessionRecord;

/// Media messages a handset keeps.
const LETTERS: usize = 64;
/// Sender keys kept of one device in one chat.
const SENDER_KEYS: usize = 4;
/// Chats and devices whose sender keys are kept.
const SENDERS: usize = 1_024;
/// Bytes of what is kept at most.
const BYTES: usize = 256 << 10;

/// A device: phone and number.
pub(crate) type Sender = (String, u16);

/// A ciphertext for a handset.
#[derive(Debug, Clone)]
pub(crate) enum Sealed {
    /// It brings its session along.
    PreKey(Bytes),
    /// For the session that the handset began.
    Session(Bytes),
    /// For all members of a group.
    SenderKey(Bytes),
}

impl Sealed {
    /// A ciphertext of this type attribute; `None` for one that no handset reads.
    pub(crate) fn of(kind: &str, bytes: &[u8]) -> Option<Self> {
        let make = match kind {
            "pkmsg" => Self::PreKey,
            "msg" => Self::Session,
            "skmsg" => Self::SenderKey,
            _ => return None,
        };
        (bytes.len() <= BYTES).then(|| make(Bytes::copy_from_slice(bytes)))
    }
}

/// A message with a file.
#[derive(Debug, Clone)]
pub(crate) struct Letter {
    /// As in [`canonical`](crate::emulator::relay::canonical).
    pub(crate) chat: String,
    pub(crate) id: String,
    pub(crate) sender: Sender,
    pub(crate) sealed: Sealed,
}

/// What one handset keeps.
#[derive(Default)]
pub(crate) struct Letters {
    media: VecDeque<Letter>,
    /// By chat and device: messages that hand sender keys over, the oldest first.
    sender_keys: HashMap<(String, Sender), VecDeque<Sealed>>,
    /// The session that the handset began last with each device it linked, as it was at its beginning.
    sessions: HashMap<u16, SessionRecord>,
}

impl std::fmt::Debug for Letters {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.debug_struct("Letters").field("media", &self.media.len()).finish_non_exhaustive()
    }
}

impl Letters {
    /// Keeps a message; the oldest goes when there are too many.
    pub(crate) fn keep(&mut self, letter: Letter) {
        self.media.push_back(letter);
        if self.media.len() > LETTERS {
            self.media.pop_front();
        }
    }

    /// Keeps what may hand over the sender key of a device in a chat.
    pub(crate) fn keep_sender_key(&mut self, chat: &str, sender: Sender, sealed: Sealed) {
        let name = (chat.to_owned(), sender);
        if self.sender_keys.len() >= SENDERS && !self.sender_keys.contains_key(&name) {
            return;
        }
        let known = self.sender_keys.entry(name).or_default();
        known.push_back(sealed);
        if known.len() > SENDER_KEYS {
            known.pop_front();
        }
    }

    /// The handset began a session with a device that it linked.
    pub(crate) fn keep_session(&mut self, device: u16, session: SessionRecord) {
        self.sessions.insert(device, session);
    }

    /// The latest message of this id in a chat, sent by the handset's own account or by others.
    pub(crate) fn find(&self, chat: &str, id: &str, by: impl Fn(&str) -> bool) -> Option<&Letter> {
        let wanted = |letter: &&Letter| letter.id == id && letter.chat == chat && by(&letter.sender.0);
        self.media.iter().rev().find(wanted)
    }

    /// What may hand over the sender key of a message, the latest first.
    pub(crate) fn sender_keys(&self, letter: &Letter) -> impl Iterator<Item = &Sealed> {
        let known = self.sender_keys.get(&(letter.chat.clone(), letter.sender.clone()));
        known.into_iter().flatten().rev()
    }

    pub(crate) fn session(&self, device: u16) -> Option<&SessionRecord> {
        self.sessions.get(&device)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn letter(id: usize) -> Letter {
        Letter {
            chat: "c".to_owned(),
            id: id.to_string(),
            sender: ("6281200000001".to_owned(), 1),
            sealed: Sealed::SenderKey(Bytes::new()),
        }
    }

    #[test]
    fn the_latest_are_kept() {
        let mut letters = Letters::default();
        for id in 0..=LETTERS {
            letters.keep(letter(id));
        }
        assert!(letters.find("c", "0", |_| true).is_none());
        assert!(letters.find("c", "1", |_| true).is_some());
        assert!(letters.find("c", "1", str::is_empty).is_none());
        assert!(letters.find("d", "1", |_| true).is_none());
        for key in 0..=SENDER_KEYS {
            let sealed = Sealed::Session(Bytes::from(vec![u8::try_from(key).unwrap_or_default()]));
            letters.keep_sender_key("c", letter(0).sender, sealed);
        }
        let kept: Vec<_> = letters.sender_keys(&letter(0)).collect();
        assert_eq!(kept.len(), SENDER_KEYS);
        assert!(matches!(kept[0], Sealed::Session(key) if key[..] == [4]), "the latest is the first");
        assert!(Sealed::of("pkmsg", &vec![0; BYTES + 1]).is_none() && Sealed::of("frskmsg", b"").is_none());
    }
}
