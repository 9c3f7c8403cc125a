//! What messages tell of people: which phone number and LID are one person, and what it calls itself.
//!
//! Remembers what was told last, so that a busy chat does not repeat it with every message.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use whatsapp_rust::types::message::MessageInfo;

use super::convert::{self, Address};
use crate::session::WaEvent;

/// Forgets everything beyond this; telling somebody twice does no harm.
const REMEMBERED: usize = 2000;

type Known = (Option<String>, Option<String>, Option<String>);

/// Who was told of already.
#[derive(Debug, Default)]
pub struct People(Mutex<HashMap<String, Known>>);

impl People {
    /// What a message's envelope tells of its sender, when it is new.
    #[must_use]
    pub fn learn(&self, info: &MessageInfo) -> Option<WaEvent> {
        if info.source.is_from_me {
            return None;
        }
        let (phone, lid) = convert::phone_and_lid(&info.source.sender, info.source.sender_alt.as_ref());
        self.note(phone, lid, convert::push_name(info))
    }

    /// What an address tells of the person it names, when it is new.
    #[must_use]
    pub fn named(&self, address: &Address) -> Option<WaEvent> {
        self.note(address.chat.phone_number().map(str::to_owned), address.lid.clone(), None)
    }

    /// What is known of a person, when it is new and says anything. No name says nothing about the name.
    #[must_use]
    pub fn note(&self, phone: Option<String>, lid: Option<String>, push_name: Option<String>) -> Option<WaEvent> {
        let key = phone.clone().or_else(|| lid.clone())?;
        if push_name.is_none() && (phone.is_none() || lid.is_none()) {
            return None;
        }
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let before = known.get(&key);
        let push_name = push_name.or_else(|| before.and_then(|(_, _, name)| name.clone()));
        let person = (phone, lid, push_name);
        if before == Some(&person) {
            return None;
        }
        if known.len() >= REMEMBERED {
            known.clear();
        }
        known.insert(key, person.clone());
        let (phone, lid, push_name) = person;
        Some(WaEvent::Person { phone, lid, push_name })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::ChatId;

    #[test]
    fn a_person_is_told_once_and_again_when_something_changes() {
        let people = People::default();
        assert!(people.note(Some("6281".into()), Some("99".into()), Some("Budi".into())).is_some());
        assert!(people.note(Some("6281".into()), Some("99".into()), Some("Budi".into())).is_none());
        assert!(people.note(Some("6281".into()), Some("99".into()), Some("Budi S.".into())).is_some());
    }

    #[test]
    fn an_address_tells_a_pair_and_forgets_no_name() {
        let people = People::default();
        let address = |chat, lid: Option<&str>| Address { chat, lid: lid.map(str::to_owned) };
        let both = address(ChatId::phone("6281"), Some("99"));
        assert!(people.named(&both).is_some());
        assert!(people.note(Some("6281".into()), Some("99".into()), Some("Budi".into())).is_some());
        assert!(people.named(&both).is_none());
        assert!(people.note(Some("6281".into()), Some("99".into()), Some("Budi".into())).is_none());
        for alone in [address(ChatId::lid("98"), Some("98")), address(ChatId::phone("6282"), None)] {
            assert!(people.named(&alone).is_none());
        }
        assert!(people.named(&address(ChatId::group("120363"), None)).is_none());
    }

    #[test]
    fn a_number_alone_says_nothing() {
        let people = People::default();
        assert!(people.note(Some("6281".into()), None, None).is_none());
        assert!(people.note(None, None, Some("Budi".into())).is_none());
        assert!(people.note(None, Some("99".into()), Some("Budi".into())).is_some());
    }
}
