//! What lies on a handset: the latest messages as they came, sealed, what their keys are opened with, and what it handed
//! to devices that did not confirm it yet.
//!
//! In memory only: after a restart of the server the handsets have forgotten their messages.

use std::collections::{HashMap, VecDeque};

use bytes::Bytes;
use whatsapp_rust::wacore::libsignal::protocol::SessionRecord;

/// Messages a handset keeps, of those with media and of the others.
const LETTERS: usize = 64;
/// What it handed over and keeps until that is confirmed.
const HANDED: usize = 32;
/// Bytes of that at most.
const HANDED_BYTES: usize = 8 << 20;
/// Sessions kept with one device.
const SESSIONS: usize = 8;
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

/// A message.
#[derive(Debug, Clone)]
pub(crate) struct Letter {
    /// As in [`canonical`](crate::emulator::relay::canonical).
    pub(crate) chat: String,
    pub(crate) id: String,
    pub(crate) sender: Sender,
    /// Unix seconds.
    pub(crate) at: i64,
    pub(crate) sealed: Sealed,
    /// Its place among all that the handset got, given when it is kept.
    pub(crate) place: u64,
}

/// What a handset said to a device of its account.
#[derive(Clone)]
pub(crate) struct HandedOver {
    pub(crate) device: u16,
    pub(crate) id: String,
    /// Encoded and padded, not sealed.
    pub(crate) plaintext: Bytes,
}

/// What one handset keeps.
#[derive(Default)]
pub(crate) struct Letters {
    media: VecDeque<Letter>,
    others: VecDeque<Letter>,
    /// Of the latest.
    place: u64,
    handed: VecDeque<HandedOver>,
    /// By chat and device: messages that hand sender keys over, the oldest first.
    sender_keys: HashMap<(String, Sender), VecDeque<Sealed>>,
    /// The sessions that the handset began with each device it linked, as they were at their beginning, the oldest first.
    sessions: HashMap<u16, VecDeque<SessionRecord>>,
}

impl std::fmt::Debug for Letters {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.debug_struct("Letters").field("media", &self.media.len()).finish_non_exhaustive()
    }
}

impl Letters {
    /// Keeps a message, with a file or without; the oldest goes when there are too many.
    pub(crate) fn keep(&mut self, letter: Letter, media: bool) {
        self.place += 1;
        let kept = if media { &mut self.media } else { &mut self.others };
        kept.push_back(Letter { place: self.place, ..letter });
        if kept.len() > LETTERS {
            kept.pop_front();
        }
    }

    /// Keeps what was handed to a device, until it is confirmed.
    pub(crate) fn keep_handed(&mut self, handed: HandedOver) {
        self.forget_handed(handed.device, &handed.id);
        self.handed.push_back(handed);
        let bytes = |handed: &VecDeque<HandedOver>| handed.iter().map(|one| one.plaintext.len()).sum::<usize>();
        while self.handed.len() > HANDED || (self.handed.len() > 1 && bytes(&self.handed) > HANDED_BYTES) {
            self.handed.pop_front();
        }
    }

    pub(crate) fn handed(&self, device: u16, id: &str) -> Option<&HandedOver> {
        self.handed.iter().find(|handed| handed.device == device && handed.id == id)
    }

    pub(crate) fn forget_handed(&mut self, device: u16, id: &str) {
        self.handed.retain(|handed| handed.device != device || handed.id != id);
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
        let known = self.sessions.entry(device).or_default();
        known.push_back(session);
        if known.len() > SESSIONS {
            known.pop_front();
        }
    }

    /// The latest message of this id in a chat, sent by the handset's own account or by others.
    pub(crate) fn find(&self, chat: &str, id: &str, by: impl Fn(&str) -> bool) -> Option<&Letter> {
        let wanted = |letter: &&Letter| letter.id == id && letter.chat == chat && by(&letter.sender.0);
        self.media.iter().rev().find(wanted).or_else(|| self.others.iter().rev().find(wanted))
    }

    /// The messages of a chat, the latest first.
    pub(crate) fn of_chat(&self, chat: &str) -> Vec<&Letter> {
        let all = self.media.iter().chain(&self.others);
        let mut found: Vec<_> = all.filter(|letter| letter.chat == chat).collect();
        found.sort_unstable_by_key(|letter| std::cmp::Reverse(letter.place));
        found
    }

    /// What may hand over the sender key of a message, the latest first.
    pub(crate) fn sender_keys(&self, letter: &Letter) -> impl Iterator<Item = &Sealed> {
        let known = self.sender_keys.get(&(letter.chat.clone(), letter.sender.clone()));
        known.into_iter().flatten().rev()
    }

    /// The sessions with a device, the latest first.
    pub(crate) fn sessions(&self, device: u16) -> impl Iterator<Item = &SessionRecord> {
        self.sessions.get(&device).into_iter().flatten().rev()
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
            at: 1,
            sealed: Sealed::SenderKey(Bytes::new()),
            place: 0,
        }
    }

    #[test]
    fn the_latest_are_kept() {
        let mut letters = Letters::default();
        for id in 0..=LETTERS {
            letters.keep(letter(id), true);
        }
        letters.keep(Letter { id: "text".to_owned(), ..letter(0) }, false);
        assert!(letters.find("c", "text", |_| true).is_some(), "texts take no room from files");
        assert!(letters.find("c", "0", |_| true).is_none());
        assert!(letters.find("c", "1", |_| true).is_some());
        assert!(letters.find("c", "1", str::is_empty).is_none());
        assert!(letters.find("d", "1", |_| true).is_none());
        letters.keep(letter(LETTERS + 1), true);
        let chat: Vec<_> = letters.of_chat("c").into_iter().map(|letter| letter.id.as_str()).collect();
        assert_eq!(chat[..3], ["65", "text", "64"], "the latest first, with a file or without");
        assert!(letters.of_chat("d").is_empty());
        for key in 0..=SENDER_KEYS {
            let sealed = Sealed::Session(Bytes::from(vec![u8::try_from(key).unwrap_or_default()]));
            letters.keep_sender_key("c", letter(0).sender, sealed);
        }
        let kept: Vec<_> = letters.sender_keys(&letter(0)).collect();
        assert_eq!(kept.len(), SENDER_KEYS);
        assert!(matches!(kept[0], Sealed::Session(key) if key[..] == [4]), "the latest is the first");
        for (place, bytes) in [(0, 1), (1, HANDED_BYTES), (2, HANDED_BYTES)] {
            let plaintext = Bytes::from(vec![0; bytes]);
            letters.keep_handed(HandedOver { device: 1, id: format!("{place}"), plaintext });
        }
        assert!(letters.handed(1, "1").is_none() && letters.handed(2, "2").is_none());
        assert!(letters.handed(1, "2").is_some(), "one is kept however large it is");
        letters.forget_handed(1, "2");
        assert!(letters.handed(1, "2").is_none());
        assert!(Sealed::of("pkmsg", &vec![0; BYTES + 1]).is_none() && Sealed::of("frskmsg", b"").is_none());
    }
}
