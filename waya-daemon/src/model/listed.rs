//! A chat as the account's chat list has it, without what was said in it.

use std::fmt;

use super::{ChatId, Timestamp};

/// A row of the chat list. What is `None` was not told.
#[derive(Clone, PartialEq, Eq)]
pub struct ListedChat {
    /// Its address: by phone whenever that is known.
    pub id: ChatId,
    /// The LID digits of a private chat's other side, when known.
    pub lid: Option<String>,
    /// A group's or channel's subject, or what the owner calls the person.
    pub name: Option<String>,
    /// When something last happened in it.
    pub last_activity: Option<Timestamp>,
    /// Put away from the list.
    pub archived: Option<bool>,
    /// Since when it is held at the top; the epoch when it is not.
    pub pinned_at: Option<Timestamp>,
    /// Until when it is muted: the epoch when it is not, the end of time when for good.
    pub muted_until: Option<Timestamp>,
}

impl ListedChat {
    /// A chat of which nothing but the address is known.
    #[must_use]
    pub const fn new(id: ChatId) -> Self {
        Self { id, lid: None, name: None, last_activity: None, archived: None, pinned_at: None, muted_until: None }
    }

    /// What both know of the same chat: the later word counts where it says anything, and activity never goes back.
    #[must_use]
    pub fn merged(self, learnt: Self) -> Self {
        Self {
            id: learnt.id,
            lid: learnt.lid.or(self.lid),
            name: learnt.name.or(self.name),
            last_activity: learnt.last_activity.max(self.last_activity),
            archived: learnt.archived.or(self.archived),
            pinned_at: learnt.pinned_at.or(self.pinned_at),
            muted_until: learnt.muted_until.or(self.muted_until),
        }
    }
}

/// Without the name and with the number masked, because debug output reaches logs.
impl fmt::Debug for ListedChat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ListedChat").field("id", &self.id).field("archived", &self.archived).finish_non_exhaustive()
    }
}
