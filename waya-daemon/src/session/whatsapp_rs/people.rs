//! What messages tell of people: which phone number and LID are one person, and what it calls itself.
//!
//! Remembers what was told last, so that a busy chat does not repeat it with every message.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use whatsapp_rust::types::message::MessageInfo;

use super::convert;
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

    /// What is known of a person, when it is new and says anything.
    #[must_use]
    pub fn note(&self, phone: Option<String>, lid: Option<String>, push_name: Option<String>) -> Option<WaEvent> {
        let key = phone.clone().or_else(|| lid.clone())?;
        if push_name.is_none() && (phone.is_none() || lid.is_none()) {
            return None;
        }
        let person = (phone, lid, push_name);
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if known.get(&key) == Some(&person) {
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

    #[test]
    fn a_person_is_told_once_and_again_when_something_changes() {
        let people = People::default();
        assert!(people.note(Some("6281".into()), Some("99".into()), Some("Budi".into())).is_some());
        assert!(people.note(Some("6281".into()), Some("99".into()), Some("Budi".into())).is_none());
        assert!(people.note(Some("6281".into()), Some("99".into()), Some("Budi S.".into())).is_some());
    }

    #[test]
    fn a_number_alone_says_nothing() {
        let people = People::default();
        assert!(people.note(Some("6281".into()), None, None).is_none());
        assert!(people.note(None, None, Some("Budi".into())).is_none());
        assert!(people.note(None, Some("99".into()), Some("Budi".into())).is_some());
    }
}
