//! A chat's address, in the spelling the contract shows.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// What kind of chat an address names.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ChatKind {
    /// A person by phone number: `6281…@c.us`.
    Phone,
    /// A person whose phone number is not known: `1234…@lid`.
    Lid,
    /// A group: `1203…@g.us`.
    Group,
    /// Status posts: `status@broadcast`.
    Status,
    /// A channel: `…@newsletter`.
    Newsletter,
}

/// A chat's canonical address: `DIGITS@c.us`, `DIGITS@lid`, `ID@g.us`, `status@broadcast` or `ID@newsletter`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ChatId(String);

/// The text is no chat address.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a chat id; expected DIGITS@c.us, DIGITS@lid or ID@g.us")]
pub struct InvalidChatId(pub String);

impl ChatId {
    /// The private chat of a phone number (digits with country code).
    #[must_use]
    pub fn phone(digits: &str) -> Self {
        Self(format!("{digits}@c.us"))
    }

    /// The private chat of a person known by LID only.
    #[must_use]
    pub fn lid(digits: &str) -> Self {
        Self(format!("{digits}@lid"))
    }

    /// A group, by the part before `@g.us`.
    #[must_use]
    pub fn group(id: &str) -> Self {
        Self(format!("{id}@g.us"))
    }

    /// The address as the contract shows it.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The part before the `@`.
    #[must_use]
    pub fn user(&self) -> &str {
        self.0.split_once('@').map_or(self.0.as_str(), |(user, _)| user)
    }

    /// What kind of chat this is.
    #[must_use]
    pub fn kind(&self) -> ChatKind {
        match self.0.split_once('@').map_or("", |(_, server)| server) {
            "lid" => ChatKind::Lid,
            "g.us" => ChatKind::Group,
            "broadcast" => ChatKind::Status,
            "newsletter" => ChatKind::Newsletter,
            _ => ChatKind::Phone,
        }
    }

    /// Whether it is the private chat of a person.
    #[must_use]
    pub fn is_person(&self) -> bool {
        matches!(self.kind(), ChatKind::Phone | ChatKind::Lid)
    }

    /// The phone number, when the address has one.
    #[must_use]
    pub fn phone_number(&self) -> Option<&str> {
        (self.kind() == ChatKind::Phone).then(|| self.user())
    }

    /// What answers show as `number`: the phone's digits, else the whole address.
    #[must_use]
    pub fn number(&self) -> &str {
        self.phone_number().unwrap_or(&self.0)
    }
}

impl FromStr for ChatId {
    type Err = InvalidChatId;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let invalid = || InvalidChatId(text.to_owned());
        let (user, server) = text.split_once('@').ok_or_else(invalid)?;
        let digits = !user.is_empty() && user.len() <= 20 && user.bytes().all(|b| b.is_ascii_digit());
        match server {
            "c.us" | "s.whatsapp.net" if digits => Ok(Self::phone(user)),
            "lid" if digits => Ok(Self::lid(user)),
            // Old groups are CREATOR-TIMESTAMP.
            "g.us" | "newsletter"
                if !user.is_empty() && user.len() <= 40 && user.bytes().all(|b| b.is_ascii_digit() || b == b'-') =>
            {
                Ok(Self(format!("{user}@{server}")))
            }
            "broadcast" if user == "status" => Ok(Self(text.to_owned())),
            _ => Err(invalid()),
        }
    }
}

impl TryFrom<String> for ChatId {
    type Error = InvalidChatId;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<ChatId> for String {
    fn from(chat: ChatId) -> Self {
        chat.0
    }
}

impl fmt::Display for ChatId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Masked, because debug output reaches logs: `6281…02@c.us`.
impl fmt::Debug for ChatId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (user, server) = self.0.split_once('@').unwrap_or((&self.0, ""));
        match (user.get(..4), user.get(user.len().saturating_sub(2)..)) {
            (Some(head), Some(tail)) if user.len() > 7 => write!(f, "{head}…{tail}@{server}"),
            _ => write!(f, "…@{server}"),
        }
    }
}
