//! What the other side may see of a message before it comes: that somebody types, or records.

use std::time::Duration;

use super::{Body, Content, MediaKind};

/// The shortest and the longest that somebody seems to type.
const SHORTEST: u64 = 800;
/// See there.
const LONGEST: u64 = 5_000;
/// For each character, in milliseconds: as fast as people type on a good day.
const A_CHARACTER: u64 = 45;

/// How a message is typed. Small, because every message that waits has it in memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Typing {
    /// It is spoken, not typed.
    pub recording: bool,
    /// It quotes the message that it answers.
    pub answers: bool,
    millis: u16,
}

impl Typing {
    /// Of a message of this text and content; `None` for what nobody types (reactions, and what is done to other
    /// messages).
    #[must_use]
    pub fn of(text: &str, content: &Content) -> Option<Self> {
        let (recording, takes) = match &content.body {
            Body::Reaction(_) | Body::Edit(_) | Body::Revoke(_) | Body::Forward(_) => return None,
            Body::Media(file) if file.kind == MediaKind::Voice => (true, 1_000 * u64::from(file.seconds.unwrap_or(3))),
            Body::Remote(remote) if remote.hints.voice => (true, 3_000),
            _ => (false, A_CHARACTER.saturating_mul(text.chars().count() as u64)),
        };
        let millis = u16::try_from(takes.clamp(SHORTEST, LONGEST)).unwrap_or(u16::MAX);
        Some(Self { recording, answers: content.quoted.is_some(), millis })
    }

    /// The same for a text that is not at hand because it is long.
    #[must_use]
    pub fn of_long_text(self) -> Self {
        if self.recording { self } else { Self { millis: LONGEST as u16, ..self } }
    }

    /// For how long it is shown. `random` is in `0.0..1.0`.
    #[must_use]
    pub fn takes(self, random: f64) -> Duration {
        Duration::from_millis(self.millis.into()).mul_f64(0.8 + 0.4 * random.clamp(0.0, 1.0))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::model::MessageKey;

    proptest! {
        #[test]
        fn longer_texts_take_longer_and_none_takes_long(text in ".{0,300}", random in 0.0_f64..1.0) {
            let typing = Typing::of(&text, &Content::default()).unwrap();
            let longer = Typing::of(&format!("{text}!"), &Content::default()).unwrap();
            prop_assert!(longer.takes(random) >= typing.takes(random));
            prop_assert!(typing.takes(random) >= Duration::from_millis(600) && typing.takes(random) <= Duration::from_secs(6));
            prop_assert!(typing.of_long_text().takes(random) >= typing.takes(random));
        }
    }

    #[test]
    fn what_is_done_to_messages_is_not_typed() {
        let key = MessageKey { id: "A".to_owned(), from_me: false, author: None };
        for body in [Body::Reaction(key.clone()), Body::Edit(key.clone()), Body::Revoke(key)] {
            assert_eq!(Typing::of("x", &body.into()), None);
        }
        assert!(!Typing::of("x", &Content::default()).unwrap().recording);
    }
}
