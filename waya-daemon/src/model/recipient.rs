//! A recipient as users write one, in every usual spelling.

use super::ChatId;

/// Whom a message is for, before it is resolved to chats.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Recipient {
    /// One chat.
    Chat(ChatId),
    /// The Main Number of the settings.
    Main,
    /// Everybody in a category.
    Category(String),
}

/// The text names no recipient. The wording is for users.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidRecipient {
    /// Nothing there.
    #[error("the recipient is empty; give digits with country code, e.g. 6282146727409")]
    Empty,
    /// Something that is no digit.
    #[error(
        "{text:?} is not a phone number: {found:?} does not belong in one; give digits with country code, e.g. 6282146727409"
    )]
    NotDigits {
        /// What was given.
        text: String,
        /// The first character that does not belong.
        found: char,
    },
    /// Fewer than 7 or more than 15 digits.
    #[error("{text:?} has {digits} digits; a phone number with country code has 7 to 15")]
    Length {
        /// What was given.
        text: String,
        /// How many digits were found.
        digits: usize,
    },
    /// A national spelling and no default country.
    #[error("{text:?} starts with 0; write the country code (62…), or set default_country so that 08… becomes 628…")]
    National {
        /// What was given.
        text: String,
    },
    /// An address of a kind that cannot be written to.
    #[error(
        "{text:?} is not a recipient; expected digits, …@c.us, …@s.whatsapp.net, …@lid, …@g.us, main or category:NAME"
    )]
    Address {
        /// What was given.
        text: String,
    },
}

/// Phone numbers have at most 15 digits (E.164) and with country code hardly fewer than 7.
const DIGITS: std::ops::RangeInclusive<usize> = 7..=15;

impl Recipient {
    /// Reads one recipient. `default_country` is digits, e.g. `62`.
    ///
    /// # Errors
    /// [`InvalidRecipient`] says what was wrong, in words for the user.
    pub fn parse(text: &str, default_country: Option<&str>) -> Result<Self, InvalidRecipient> {
        let cleaned: String = text.chars().filter(|c| !is_invisible(*c)).collect();
        let trimmed = cleaned.trim();
        if trimmed.is_empty() {
            return Err(InvalidRecipient::Empty);
        }
        if trimmed.eq_ignore_ascii_case("main") {
            return Ok(Self::Main);
        }
        if let Some(name) = trimmed.strip_prefix("category:") {
            let name = name.trim();
            return if name.is_empty() { Err(InvalidRecipient::Empty) } else { Ok(Self::Category(name.to_owned())) };
        }
        if let Some((user, server)) = trimmed.split_once('@') {
            return address(text, user, server, default_country);
        }
        number(text, trimmed, default_country).map(|digits| Self::Chat(ChatId::phone(&digits)))
    }
}

fn address(text: &str, user: &str, server: &str, country: Option<&str>) -> Result<Recipient, InvalidRecipient> {
    if matches!(server, "c.us" | "s.whatsapp.net") {
        return number(text, user, country).map(|digits| Recipient::Chat(ChatId::phone(&digits)));
    }
    match server {
        "lid" | "g.us" => format!("{user}@{server}").parse().map(Recipient::Chat).ok(),
        _ => None,
    }
    .ok_or_else(|| InvalidRecipient::Address { text: text.to_owned() })
}

/// The digits with country code, from any usual spelling.
fn number(text: &str, written: &str, country: Option<&str>) -> Result<String, InvalidRecipient> {
    let mut digits = String::with_capacity(written.len());
    for c in written.chars() {
        match c {
            _ if c.is_ascii_digit() => digits.push(c),
            '+' if digits.is_empty() => {}
            '-' | '(' | ')' | '[' | ']' | '.' | '/' | '‐'..='―' => {}
            _ if c.is_whitespace() => {}
            _ => return Err(InvalidRecipient::NotDigits { text: text.to_owned(), found: c }),
        }
    }
    let digits = international(text, digits, country)?;
    if !DIGITS.contains(&digits.len()) {
        return Err(InvalidRecipient::Length { text: text.to_owned(), digits: digits.len() });
    }
    Ok(digits)
}

/// `08…`, `0062 8…` and `62 08…` become `628…` when a default country is set.
fn international(text: &str, digits: String, country: Option<&str>) -> Result<String, InvalidRecipient> {
    let Some(country) = country.filter(|c| !c.is_empty()) else {
        return if digits.starts_with('0') {
            Err(InvalidRecipient::National { text: text.to_owned() })
        } else {
            Ok(digits)
        };
    };
    let without_prefix = digits.strip_prefix("00").unwrap_or(&digits);
    if let Some(national) = without_prefix.strip_prefix('0') {
        return Ok(format!("{country}{national}"));
    }
    match without_prefix.strip_prefix(country).and_then(|rest| rest.strip_prefix('0')) {
        Some(national) => Ok(format!("{country}{national}")),
        None => Ok(without_prefix.to_owned()),
    }
}

/// Zero-width and direction marks that come along when a number is copied from a chat.
fn is_invisible(c: char) -> bool {
    matches!(c, '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2060}'..='\u{2069}' | '\u{feff}' | '\u{ad}')
        || c.is_control()
}

#[cfg(test)]
mod tests {
    use super::{InvalidRecipient, Recipient};

    fn chat(text: &str, country: Option<&str>) -> String {
        match Recipient::parse(text, country) {
            Ok(Recipient::Chat(chat)) => chat.to_string(),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn usual_spellings_name_the_same_chat() {
        for text in [
            "6282146727409",
            "+62 821-4672-7409",
            "(62) 821 4672 7409",
            "\u{202a}+62\u{a0}821\u{2011}4672\u{2011}7409\u{202c}",
            "6282146727409@c.us",
            "6282146727409@s.whatsapp.net",
        ] {
            assert_eq!(chat(text, None), "6282146727409@c.us", "{text}");
        }
        for text in ["082146727409", "006282146727409", "62 0 82146727409", "+62 (0) 821 4672 7409"] {
            assert_eq!(chat(text, Some("62")), "6282146727409@c.us", "{text}");
        }
        assert_eq!(chat("120363041234567890@g.us", None), "120363041234567890@g.us");
        assert_eq!(chat("123456789012345@lid", None), "123456789012345@lid");
    }

    #[test]
    fn a_national_number_needs_a_default_country() {
        assert!(matches!(Recipient::parse("082146727409", None), Err(InvalidRecipient::National { .. })));
    }

    #[test]
    fn what_names_nobody_is_refused_with_its_reason() {
        assert_eq!(Recipient::parse(" \u{200b} ", None), Err(InvalidRecipient::Empty));
        assert!(matches!(Recipient::parse("62abc", None), Err(InvalidRecipient::NotDigits { found: 'a', .. })));
        assert!(matches!(Recipient::parse("628", None), Err(InvalidRecipient::Length { digits: 3, .. })));
        assert!(matches!(
            Recipient::parse("62812345678901234", None),
            Err(InvalidRecipient::Length { digits: 17, .. })
        ));
        assert!(matches!(Recipient::parse("x@example.com", None), Err(InvalidRecipient::Address { .. })));
        assert!(matches!(Recipient::parse("6281@62", None), Err(InvalidRecipient::Address { .. })));
    }

    proptest::proptest! {
        #[test]
        fn never_panics_and_a_chat_is_always_plain_digits(text in ".{0,40}", country in "[1-9][0-9]{0,2}") {
            for country in [None, Some(country.as_str())] {
                if let Ok(Recipient::Chat(chat)) = Recipient::parse(&text, country) {
                    proptest::prop_assert!(!chat.user().is_empty());
                    proptest::prop_assert!(chat.phone_number().is_none_or(|d| d.bytes().all(|b| b.is_ascii_digit())));
                }
            }
        }
    }
}
