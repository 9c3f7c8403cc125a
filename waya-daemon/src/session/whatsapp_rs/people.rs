//! What messages tell of people: which phone number and LID are one person, and what it calls itself.
//!
//! Remembers what was told last, so that a busy chat does not repeat it with every message.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use whatsapp_rust::types::message::MessageInfo;

use super::convert::{self, Address};
use crate::model::{PushName, Timestamp};
use crate::session::{Person, WaEvent};

/// Forgets everything beyond this; telling somebody twice does no harm.
const REMEMBERED: usize = 2000;

/// Phone, LID and name.
type Known = (Option<String>, Option<String>, Option<PushName>);

/// Who was told of already.
#[derive(Debug, Default)]
pub struct People(Mutex<HashMap<String, Known>>);

impl People {
    /// What a message's envelope tells of its sender, when it is new. No name is of a later time than `now`.
    #[must_use]
    pub fn learn(&self, info: &MessageInfo, now: Timestamp) -> Option<WaEvent> {
        if info.source.is_from_me {
            return None;
        }
        let (phone, lid) = convert::phone_and_lid(&info.source.sender, info.source.sender_alt.as_ref());
        let at = convert::timestamp(info.timestamp.timestamp_millis()).min(now);
        self.note(phone, lid, convert::push_name(info).map(|text| PushName { text, at }))
    }

    /// What an address tells of the person it names, when it is new.
    #[must_use]
    pub fn named(&self, address: &Address) -> Option<WaEvent> {
        self.note(address.chat.phone_number().map(str::to_owned), address.lid.clone(), None)
    }

    /// What is known of a person, when it is new and says anything. No name says nothing about the name.
    #[must_use]
    pub fn note(&self, phone: Option<String>, lid: Option<String>, push_name: Option<PushName>) -> Option<WaEvent> {
        let key = phone.clone().or_else(|| lid.clone())?;
        if push_name.is_none() && (phone.is_none() || lid.is_none()) {
            return None;
        }
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let before = known.get(&key);
        let push_name = push_name.or_else(|| before.and_then(|(_, _, name)| name.clone()));
        let person = (phone, lid, push_name);
        if before.is_some_and(|before| is_same(before, &person)) {
            return None;
        }
        if known.len() >= REMEMBERED {
            known.clear();
        }
        known.insert(key, person.clone());
        let (phone, lid, push_name) = person;
        Some(WaEvent::Person(Person { phone, lid, push_name }))
    }

    /// Tells everybody anew from now on.
    pub fn forget(&self) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }
}

/// Whenever it was said.
fn is_same((phone, lid, name): &Known, (other_phone, other_lid, other_name): &Known) -> bool {
    let text = |name: &Option<PushName>| name.as_ref().map(|name| name.text.clone());
    (phone, lid) == (other_phone, other_lid) && text(name) == text(other_name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::ChatId;

    #[expect(clippy::unnecessary_wraps, reason = "as it is asked for")]
    fn name(text: &str) -> Option<PushName> {
        Some(PushName { text: text.to_owned(), at: Timestamp::from_millis(1) })
    }

    #[test]
    fn a_person_is_told_once_and_again_when_something_changes() {
        let people = People::default();
        assert!(people.note(Some("6281".into()), Some("99".into()), name("Budi")).is_some());
        assert!(people.note(Some("6281".into()), Some("99".into()), name("Budi")).is_none());
        assert!(people.note(Some("6281".into()), Some("99".into()), name("Budi S.")).is_some());
        people.forget();
        assert!(people.note(Some("6281".into()), Some("99".into()), name("Budi S.")).is_some());
    }

    #[test]
    fn an_address_tells_a_pair_and_forgets_no_name() {
        let people = People::default();
        let address = |chat, lid: Option<&str>| Address { chat, lid: lid.map(str::to_owned) };
        let both = address(ChatId::phone("6281"), Some("99"));
        assert!(people.named(&both).is_some());
        assert!(people.note(Some("6281".into()), Some("99".into()), name("Budi")).is_some());
        assert!(people.named(&both).is_none());
        assert!(people.note(Some("6281".into()), Some("99".into()), name("Budi")).is_none());
        for alone in [address(ChatId::lid("98"), Some("98")), address(ChatId::phone("6282"), None)] {
            assert!(people.named(&alone).is_none());
        }
        assert!(people.named(&address(ChatId::group("120363"), None)).is_none());
    }

    #[test]
    fn a_number_alone_says_nothing() {
        let people = People::default();
        assert!(people.note(Some("6281".into()), None, None).is_none());
        assert!(people.note(None, None, name("Budi")).is_none());
        assert!(people.note(None, Some("99".into()), name("Budi")).is_some());
    }
}
