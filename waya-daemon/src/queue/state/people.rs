//! One person, one line: a LID and a phone number are one chat from the moment that is known. Pure.

use std::collections::{BTreeSet, HashMap};

use super::State;
use crate::model::{ChatId, ChatKind, Lane, MessageId, Timestamp};

/// So many pairs are remembered. They matter for what was accepted by LID in the moment in which the phone was learnt;
/// later ones are accepted by phone.
const REMEMBERED: usize = 1000;

/// Who is known by LID only, and who is not any more.
#[derive(Debug, Default)]
pub(super) struct People {
    phones: HashMap<ChatId, ChatId>,
    by_lid: HashMap<ChatId, BTreeSet<MessageId>>,
}

impl People {
    /// The chat whose line a message joins; remembered when it may change.
    pub(super) fn admit(&mut self, id: MessageId, chat: ChatId) -> ChatId {
        if chat.kind() != ChatKind::Lid {
            return chat;
        }
        if let Some(phone) = self.phones.get(&chat) {
            return phone.clone();
        }
        self.by_lid.entry(chat.clone()).or_default().insert(id);
        chat
    }

    pub(super) fn forget(&mut self, id: MessageId, chat: &ChatId) {
        if let Some(ids) = self.by_lid.get_mut(chat) {
            ids.remove(&id);
            if ids.is_empty() {
                self.by_lid.remove(chat);
            }
        }
    }

    /// The address that a person's line goes by.
    pub(super) fn shown(&self, chat: ChatId) -> ChatId {
        self.phones.get(&chat).cloned().unwrap_or(chat)
    }

    fn learn(&mut self, lid: &ChatId, phone: &ChatId) -> BTreeSet<MessageId> {
        if self.phones.len() >= REMEMBERED {
            self.phones.clear();
        }
        self.phones.insert(lid.clone(), phone.clone());
        self.by_lid.remove(lid).unwrap_or_default()
    }
}

impl State {
    /// These are one person: what waits under the LID joins the line of the phone, each in its place.
    pub fn pair(&mut self, lid: &ChatId, phone: &ChatId, now: Timestamp) {
        for id in self.people.learn(lid, phone) {
            if let Some(entry) = self.entries.get_mut(&id) {
                entry.chat = phone.clone();
            }
        }
        self.keep_as_one(lid, phone);
        for lane in Lane::ALL {
            let (from, into) = ((lane, lid.clone()), (lane, phone.clone()));
            self.unhead(&from);
            let Some(line) = self.lines.remove(&from) else { continue };
            self.unhead(&into);
            self.lines.entry(into.clone()).or_default().take_in(line);
            self.head(&into, now);
        }
    }
}
