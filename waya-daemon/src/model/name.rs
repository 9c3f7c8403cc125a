//! Names that people give themselves and their chats: foreign text, made fit to be shown.

use std::fmt;

use super::Timestamp;

/// A longer name is cut; WhatsApp's own limits are far below.
pub const MAX_NAME_CHARS: usize = 128;

/// What a person calls itself, and as of when.
#[derive(Clone, PartialEq, Eq)]
pub struct PushName {
    /// The name.
    pub text: String,
    /// When it was said; the epoch when nobody knows, so that any message's word is newer.
    pub at: Timestamp,
}

impl PushName {
    /// The newer of what was known and what is learnt now. The same name again changes nothing, so that nothing need
    /// be written for it; of two that are as old as each other the later word counts.
    #[must_use]
    pub fn newer(known: Option<Self>, learnt: Option<Self>) -> Option<Self> {
        match (known, learnt) {
            (Some(known), Some(learnt)) if learnt.at >= known.at && learnt.text != known.text => Some(learnt),
            (Some(known), _) => Some(known),
            (None, learnt) => learnt,
        }
    }
}

/// Without the name, because debug output reaches logs.
impl fmt::Debug for PushName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PushName").field("at", &self.at).finish_non_exhaustive()
    }
}

/// A name fit to be shown: without control characters and without those that turn the direction of what follows, in
/// one line, and not endless. `None` when nothing is left.
#[must_use]
pub fn clean_name(text: &str) -> Option<String> {
    let shown = text.chars().filter(|c| c.is_whitespace() || !is_hidden(*c));
    let mut clean = String::new();
    let mut length = 0;
    for c in shown {
        if length == MAX_NAME_CHARS {
            break;
        }
        if !c.is_whitespace() {
            clean.push(c);
        } else if clean.is_empty() || clean.ends_with(' ') {
            continue;
        } else {
            clean.push(' ');
        }
        length += 1;
    }
    clean.truncate(clean.trim_end().len());
    (!clean.is_empty()).then_some(clean)
}

/// Joiners stay: emoji and several scripts need them.
fn is_hidden(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{200b}' | '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_made_fit_to_be_shown() {
        for (said, shown) in [
            ("Budi Santoso", Some("Budi Santoso")),
            ("  Budi\r\n\tSantoso ", Some("Budi Santoso")),
            ("Bu\u{7}di\u{1b}[31m", Some("Budi[31m")),
            ("\u{202e}iduB\u{2066}", Some("iduB")),
            ("\u{1f468}\u{200d}\u{1f469}", Some("\u{1f468}\u{200d}\u{1f469}")),
            ("", None),
            (" \u{200b}\n", None),
        ] {
            assert_eq!(clean_name(said).as_deref(), shown, "{said:?}");
        }
        assert_eq!(clean_name(&"\u{1f600}".repeat(1_000)).map(|name| name.chars().count()), Some(MAX_NAME_CHARS));
    }

    #[test]
    fn the_newest_word_counts_and_a_repeat_changes_nothing() {
        let said = |text: &str, at| Some(PushName { text: text.to_owned(), at: Timestamp::from_millis(at) });
        assert_eq!(PushName::newer(said("Budi", 5), said("Budi S.", 6)), said("Budi S.", 6));
        assert_eq!(PushName::newer(said("Budi", 5), said("Budi S.", 5)), said("Budi S.", 5));
        assert_eq!(PushName::newer(said("Budi", 5), said("Budi S.", 4)), said("Budi", 5));
        assert_eq!(PushName::newer(said("Budi", 5), said("Budi", 6)), said("Budi", 5));
        assert_eq!(PushName::newer(None, said("Budi", 0)), said("Budi", 0));
        assert_eq!(PushName::newer(said("Budi", 5), None), said("Budi", 5));
    }
}
