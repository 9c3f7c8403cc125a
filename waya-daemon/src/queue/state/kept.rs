//! What keeps a person's lines beyond their turn: a refusal to write to strangers, and the gap between two messages to
//! the same person. Answers are never kept. Pure.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use super::State;
use crate::model::{ChatId, Lane, MessageId, Timestamp};

/// From so many people on, those whose gap is over are forgotten.
const REMEMBERED: usize = 4096;

/// Lanes of what we start.
const STARTED: [Lane; 3] = [Lane::High, Lane::Normal, Lane::Low];

/// Who may not be written to now.
#[derive(Debug, Default)]
pub(super) struct Kept {
    /// Strangers may not be written to; whoever is not known to have written counts as one.
    locked: bool,
    /// They have written to this account. Looked up while strangers are kept only.
    warm: HashSet<ChatId>,
    /// WhatsApp counts them as strangers, although they have written.
    refused: HashSet<ChatId>,
    gap: Duration,
    /// What left last to whom.
    last: HashMap<ChatId, (Timestamp, MessageId)>,
}

impl Kept {
    /// Whether this line is kept because it is a stranger's.
    pub(super) fn is_cold(&self, (lane, chat): &(Lane, ChatId)) -> bool {
        self.locked && *lane != Lane::Reply && chat.is_person() && !self.warm.contains(chat)
    }

    /// Until when this one waits for the gap after the last message to the same person.
    pub(super) fn spaced(&self, (lane, chat): &(Lane, ChatId), id: MessageId, now: Timestamp) -> Option<Timestamp> {
        if self.gap.is_zero() || *lane == Lane::Reply {
            return None;
        }
        // One that has left before does not wait for itself; a time ahead is of a clock that was wrong.
        let (last, _) = self.last.get(chat).filter(|(at, other)| *other != id && *at <= now)?;
        Some(last.plus(self.gap)).filter(|at| *at > now)
    }

    fn forget_old(&mut self, now: Timestamp) {
        if self.last.len() >= REMEMBERED && self.last.len().is_power_of_two() {
            let gap = self.gap;
            self.last.retain(|_, (at, _)| at.plus(gap) > now);
        }
    }
}

impl State {
    /// From now on strangers' lines are kept, or not any more. Who has written is to be told anew.
    pub fn keep_strangers(&mut self, locked: bool, now: Timestamp) {
        if self.kept.locked == locked {
            return;
        }
        self.kept.locked = locked;
        self.kept.warm.clear();
        self.kept.refused.clear();
        self.look_again(now);
    }

    /// These have written to this account, by what was written down before.
    pub fn warm(&mut self, chats: impl IntoIterator<Item = ChatId>, now: Timestamp) {
        for chat in chats {
            if self.kept.locked && !self.kept.refused.contains(&chat) && self.kept.warm.insert(chat.clone()) {
                self.look_at(&chat, now);
            }
        }
    }

    /// This one has written to this account just now.
    pub fn wrote(&mut self, chat: ChatId, now: Timestamp) {
        let chat = self.people.shown(chat);
        self.typed.wrote(chat.clone(), now);
        self.kept.refused.remove(&chat);
        self.warm([chat], now);
    }

    /// WhatsApp counts this one as a stranger whatever is known here.
    pub fn refuse(&mut self, chat: &ChatId, now: Timestamp) {
        self.kept.refused.insert(chat.clone());
        if self.kept.warm.remove(chat) {
            self.look_at(chat, now);
        }
    }

    /// The least time between two messages to the same person.
    pub fn keep_gap(&mut self, gap: Duration, now: Timestamp) {
        if self.kept.gap != gap {
            self.kept.gap = gap;
            self.look_again(now);
        }
    }

    /// Something left to this person at that time.
    pub fn left(&mut self, chat: &ChatId, id: MessageId, at: Timestamp, now: Timestamp) {
        if self.kept.gap.is_zero() || !chat.is_person() {
            return;
        }
        self.kept.forget_old(now);
        let last = self.kept.last.entry(chat.clone()).or_insert((at, id));
        if at >= last.0 {
            *last = (at, id);
        }
        self.look_at(chat, now);
    }

    /// The next stranger's message of the lanes that `may_leave`, for trying one.
    #[must_use]
    pub fn next_stranger(&self, may_leave: impl Fn(Lane) -> bool) -> Option<MessageId> {
        self.cold.iter().find(|(lane, _)| may_leave(*lane)).map(|(_, id)| *id)
    }

    /// Whether it is the head of a line that is kept because it is a stranger's.
    #[must_use]
    pub fn is_strangers(&self, id: MessageId) -> bool {
        self.entries.get(&id).is_some_and(|entry| self.cold.contains(&(entry.lane, id)))
    }

    /// Whether one of a lane is kept because it goes to a stranger.
    #[must_use]
    pub fn has_stranger(&self, lane: Lane) -> bool {
        self.next_stranger(|other| other == lane).is_some()
    }

    /// Those that wait for this person and that we start, in a line or for a time of their own.
    #[must_use]
    pub fn started_for(&self, chat: &ChatId) -> Vec<MessageId> {
        let chat = self.people.shown(chat.clone());
        let lines = STARTED.into_iter().filter_map(|lane| self.lines.get(&(lane, chat.clone())));
        let mut ids: Vec<MessageId> = lines.flat_map(|line| line.waiting.iter().copied()).collect();
        let later = self.scheduled.iter().filter(|(_, id)| {
            self.entries.get(id).is_some_and(|entry| entry.chat == chat && entry.lane != Lane::Reply)
        });
        ids.extend(later.map(|(_, id)| *id));
        ids
    }

    /// The chats of all that wait and that we start.
    #[must_use]
    pub fn people_waited_for(&self) -> Vec<ChatId> {
        let waiting = self.lines.keys().filter(|(lane, chat)| *lane != Lane::Reply && chat.is_person());
        let chats: HashSet<&ChatId> = waiting.map(|(_, chat)| chat).collect();
        chats.into_iter().cloned().collect()
    }

    /// Puts the heads of a person's lines where they belong now.
    fn look_at(&mut self, chat: &ChatId, now: Timestamp) {
        for lane in STARTED {
            let key = (lane, chat.clone());
            self.unhead(&key);
            self.head(&key, now);
        }
    }

    fn look_again(&mut self, now: Timestamp) {
        let keys: Vec<_> = self.lines.keys().filter(|(lane, _)| *lane != Lane::Reply).cloned().collect();
        for key in keys {
            self.unhead(&key);
            self.head(&key, now);
        }
    }

    /// Two addresses turned out to be one person.
    pub(super) fn keep_as_one(&mut self, lid: &ChatId, phone: &ChatId) {
        if self.kept.warm.contains(lid) {
            self.kept.warm.insert(phone.clone());
        }
        if let Some((at, id)) = self.kept.last.get(lid).copied() {
            let last = self.kept.last.entry(phone.clone()).or_insert((at, id));
            *last = (*last).max((at, id));
        }
    }
}
