//! People by phone whenever that is known: a message may have been accepted, or have come, before it was.

use std::collections::HashMap;

use super::{AddressBook, Store};
use crate::model::{ChatId, ChatKind};

/// Gives chats named by LID the name of the phone; asks once for each person.
#[derive(Debug)]
pub struct ByPhone<'a> {
    contacts: &'a dyn AddressBook,
    asked: HashMap<ChatId, Option<ChatId>>,
}

impl<'a> ByPhone<'a> {
    /// From what the store knows of people now.
    #[must_use]
    pub fn new(store: &'a Store) -> Self {
        Self { contacts: &*store.contacts, asked: HashMap::new() }
    }

    /// Leaves any other chat as it is, and a person whose phone is not known. A failing look-up costs the better name
    /// only.
    pub async fn name(&mut self, chat: &mut ChatId) {
        if chat.kind() != ChatKind::Lid {
            return;
        }
        if !self.asked.contains_key(chat) {
            let contact = self.contacts.by_lid(chat.user()).await.ok().flatten();
            let phone = contact.and_then(|contact| contact.phone).map(|phone| ChatId::phone(&phone));
            self.asked.insert(chat.clone(), phone);
        }
        if let Some(Some(phone)) = self.asked.get(chat) {
            *chat = phone.clone();
        }
    }
}
