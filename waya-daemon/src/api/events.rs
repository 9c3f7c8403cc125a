//! The journal, by cursor.

use std::time::Duration;

use tokio::time::Instant;

use super::view::EventsView;
use super::{Api, ApiError, MAX_WAIT};
use crate::model::{ChatId, ChatKind, Cursor, Event, EventBody};
use crate::store::ByPhone;

/// Events of one answer when the caller does not say.
pub const DEFAULT_EVENTS: usize = 100;
/// The most events of one answer.
pub const MAX_EVENTS: usize = 1_000;

impl Api {
    /// What came after a cursor (`0` is the oldest kept). When there is nothing yet, waits up to `wait` for it.
    ///
    /// # Errors
    /// A cursor that is none, or one that the journal does not reach; or the store.
    pub async fn events(&self, after: &str, limit: usize, wait: Duration) -> Result<EventsView, ApiError> {
        let cursor: Cursor = after
            .parse()
            .map_err(|error: crate::model::InvalidCursor| ApiError::field_error("after", error.to_string()))?;
        let limit = limit.clamp(1, MAX_EVENTS);
        let deadline = Instant::now() + wait.min(MAX_WAIT);
        let mut newest = self.0.store.journal.newest();
        if cursor > *newest.borrow() {
            let problem = "is ahead of this journal, which was begun anew or restored; start again from 0";
            return Err(ApiError::field_error("after", problem));
        }
        loop {
            // Seen before the look, so that no event falls in between.
            newest.mark_unchanged();
            let mut page = self.0.store.journal.after(cursor, limit).await?;
            if !page.events.is_empty() || Instant::now() >= deadline || self.0.shutdown.is_cancelled() {
                self.name_people(&mut page.events).await;
                let events = page.events.into_iter().map(Into::into).collect();
                return Ok(EventsView { events, next: page.next.to_string() });
            }
            tokio::select! {
                changed = newest.changed() => {
                    // A store that went away tells nothing any more.
                    if changed.is_err() {
                        tokio::time::sleep_until(deadline).await;
                    }
                }
                () = tokio::time::sleep_until(deadline) => {}
                () = self.0.shutdown.cancelled() => {}
            }
        }
    }

    /// By phone also those whose phone was learnt after the event, and by name those whose message brought none.
    async fn name_people(&self, events: &mut [Event]) {
        let mut by_phone = ByPhone::new(&self.0.store);
        for event in events {
            match &mut event.body {
                EventBody::Message(incoming) => {
                    by_phone.name(&mut incoming.chat).await;
                    by_phone.name(&mut incoming.sender).await;
                    if incoming.push_name.is_none() && !incoming.from_me {
                        incoming.push_name = self.name_of(&incoming.sender).await;
                    }
                }
                EventBody::Status(changed) => by_phone.name(&mut changed.chat).await,
                EventBody::Link(_) => {}
            }
        }
    }

    /// What a person calls itself, as far as that is known. A failing look-up costs the name only.
    async fn name_of(&self, person: &ChatId) -> Option<String> {
        let contacts = &self.0.store.contacts;
        let contact = match person.kind() {
            ChatKind::Phone => contacts.by_phone(person.user()).await,
            ChatKind::Lid => contacts.by_lid(person.user()).await,
            ChatKind::Group | ChatKind::Status | ChatKind::Newsletter => return None,
        };
        contact.ok().flatten()?.push_name.map(|name| name.text)
    }

    /// Whether the daemon stops: what waits for more need not.
    #[must_use]
    pub fn is_stopping(&self) -> bool {
        self.0.shutdown.is_cancelled()
    }

    /// The cursor of "from now on".
    #[must_use]
    pub fn newest_cursor(&self) -> String {
        self.0.store.journal.newest().borrow().to_string()
    }
}
