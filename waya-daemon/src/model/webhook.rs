//! A webhook: a URL that is told what happens.

use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;

use super::{Ack, Cursor, EventBody, Status, StatusChanged, Timestamp};

/// How many characters follow the `wh_` of an id.
const ID_CHARS: usize = 10;
/// Small letters and digits without those that are taken for one another.
const ALPHABET: &[u8; 32] = b"23456789abcdefghijkmnpqrstuvwxyz";

/// A webhook's id: `wh_` and ten characters.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct WebhookId(String);

/// The text is no webhook's id.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a webhook's id; `waya webhooks list` shows them")]
pub struct InvalidWebhookId(pub String);

impl WebhookId {
    /// How long every id is, in bytes.
    pub const LENGTH: usize = 3 + ID_CHARS;

    /// From random bytes.
    #[must_use]
    pub fn from_random(bytes: [u8; ID_CHARS]) -> Self {
        let letters = bytes.iter().map(|byte| char::from(ALPHABET[usize::from(byte % 32)]));
        Self("wh_".chars().chain(letters).collect())
    }

    /// As text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for WebhookId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for WebhookId {
    type Err = InvalidWebhookId;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let letters = text.strip_prefix("wh_").filter(|letters| letters.len() == ID_CHARS);
        match letters {
            Some(letters) if letters.bytes().all(|byte| ALPHABET.contains(&byte)) => Ok(Self(text.to_owned())),
            _ => Err(InvalidWebhookId(text.to_owned())),
        }
    }
}

/// What a webhook may want to hear of. The numbers are written to disk: never reuse them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Topic {
    /// WhatsApp's server took a message.
    Sent = 1,
    /// A device of the recipient has it.
    Delivered = 2,
    /// It was read.
    Read = 3,
    /// Its sound or video was played.
    Played = 4,
    /// It was given up.
    Failed = 5,
    /// It was taken back.
    Cancelled = 6,
    /// Somebody wrote.
    Incoming = 7,
    /// The owner wrote on another device.
    Own = 8,
    /// The link to WhatsApp changed.
    Session = 9,
}

impl Topic {
    /// All of them.
    pub const ALL: [Self; 9] = [
        Self::Sent,
        Self::Delivered,
        Self::Read,
        Self::Played,
        Self::Failed,
        Self::Cancelled,
        Self::Incoming,
        Self::Own,
        Self::Session,
    ];

    /// The word of the contract.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Sent => "message.sent",
            Self::Delivered => "message.delivered",
            Self::Read => "message.read",
            Self::Played => "message.played",
            Self::Failed => "message.failed",
            Self::Cancelled => "message.cancelled",
            Self::Incoming => "message.incoming",
            Self::Own => "message.own",
            Self::Session => "session.state",
        }
    }

    /// From the contract's word.
    #[must_use]
    pub fn from_word(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|topic| topic.as_str() == word)
    }

    /// From the number on disk.
    #[must_use]
    pub fn from_code(code: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|topic| *topic as u8 == code)
    }

    /// What an event of the journal tells, in the order in which it happened: a receipt that overtook the server's ack
    /// tells both.
    #[must_use]
    pub fn of(body: &EventBody) -> Vec<Self> {
        match body {
            EventBody::Message(incoming) if incoming.from_me => vec![Self::Own],
            EventBody::Message(_) => vec![Self::Incoming],
            EventBody::Link(_) => vec![Self::Session],
            EventBody::Status(changed) => match changed.status {
                Status::Pending | Status::Sending => Vec::new(),
                Status::Failed => vec![Self::Failed],
                Status::Cancelled => vec![Self::Cancelled],
                Status::Sent => Self::of_sent(changed),
            },
        }
    }

    /// How far a message must have come for this.
    #[must_use]
    pub const fn ack(self) -> Option<Ack> {
        match self {
            Self::Sent => Some(Ack::Server),
            Self::Delivered => Some(Ack::Device),
            Self::Read => Some(Ack::Read),
            Self::Played => Some(Ack::Played),
            _ => None,
        }
    }

    fn of_sent(changed: &StatusChanged) -> Vec<Self> {
        let steps = [Self::Sent, Self::Delivered, Self::Read, Self::Played];
        let reached = |topic: &Self| topic.ack().is_some_and(|ack| ack <= changed.ack);
        match changed.before {
            // Written before this was noted: only what it became is known.
            None => steps.into_iter().rfind(reached).into_iter().collect(),
            Some(before) => steps
                .into_iter()
                .filter(|topic| reached(topic) && topic.ack().is_some_and(|ack| ack > before))
                .collect(),
        }
    }
}

/// Which topics a webhook hears of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Topics {
    /// `*`: all, also those of later versions.
    All,
    /// These.
    Only(BTreeSet<Topic>),
}

impl Topics {
    /// Whether it hears of this.
    #[must_use]
    pub fn contains(&self, topic: Topic) -> bool {
        match self {
            Self::All => true,
            Self::Only(topics) => topics.contains(&topic),
        }
    }

    /// The contract's words.
    #[must_use]
    pub fn words(&self) -> Vec<&'static str> {
        match self {
            Self::All => vec!["*"],
            Self::Only(topics) => topics.iter().map(|topic| topic.as_str()).collect(),
        }
    }
}

/// What is signed with: never shown, never logged.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(pub String);

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret")
    }
}

/// A webhook as the user made it.
#[derive(Clone, PartialEq, Eq)]
pub struct Webhook {
    /// Its id.
    pub id: WebhookId,
    /// Where it is told.
    pub url: String,
    /// What it is told of.
    pub topics: Topics,
    /// What its deliveries are signed with.
    pub secret: Secret,
    /// It is told now; else it keeps its place.
    pub enabled: bool,
    /// When it was made.
    pub created_at: Timestamp,
}

/// Without the URL, which may hold a token, because debug output reaches logs.
impl fmt::Debug for Webhook {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Webhook").field("id", &self.id).field("enabled", &self.enabled).finish_non_exhaustive()
    }
}

/// One thing that a webhook is to be told: a topic of an event in the journal.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Notice {
    /// The event.
    pub cursor: Cursor,
    /// What of it.
    pub topic: Topic,
}

/// Events are known to receivers by this name, the same on every delivery.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EventNames(String);

/// The text is no event's id.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not an event's id of this daemon; `waya webhooks parked` and `logs` show them")]
pub struct InvalidEventId(pub String);

impl EventNames {
    /// How long the part is that tells this journal from others.
    pub const SEED: usize = 12;

    /// Of the journal with this seed: [`Self::SEED`] letters or digits.
    #[must_use]
    pub fn new(seed: &str) -> Option<Self> {
        let fits = seed.len() == Self::SEED && seed.bytes().all(|byte| byte.is_ascii_alphanumeric());
        fits.then(|| Self(seed.to_owned()))
    }

    /// `evt_`, the journal, the place in it, and which of its topics.
    #[must_use]
    pub fn name(&self, notice: Notice) -> String {
        format!("evt_{}{:016x}{:02x}", self.0, notice.cursor.0, notice.topic as u8)
    }

    /// Which one a name means.
    ///
    /// # Errors
    /// It is no name, or another journal's.
    pub fn parse(&self, name: &str) -> Result<Notice, InvalidEventId> {
        let digits = name.strip_prefix("evt_").and_then(|rest| rest.strip_prefix(self.0.as_str()));
        let digits = digits.filter(|digits| digits.len() == 18 && digits.bytes().all(|byte| byte.is_ascii_hexdigit()));
        let read = |digits: &str| {
            let cursor = u64::from_str_radix(digits.get(..16)?, 16).ok()?;
            let topic = u8::from_str_radix(digits.get(16..)?, 16).ok().and_then(Topic::from_code)?;
            Some(Notice { cursor: Cursor(cursor), topic })
        };
        digits.and_then(read).ok_or_else(|| InvalidEventId(name.to_owned()))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::model::{ChatId, MessageId};

    fn became(before: Option<Ack>, status: Status, ack: Ack) -> Vec<Topic> {
        let changed = StatusChanged {
            id: MessageId(uuid::Uuid::nil()),
            reference_id: None,
            chat: ChatId::phone("6281200000002"),
            status,
            ack,
            error: None,
            before,
        };
        Topic::of(&EventBody::Status(changed))
    }

    #[test]
    fn every_step_is_told_once_also_when_one_was_overtaken() {
        use Topic::{Cancelled, Delivered, Failed, Played, Read, Sent};
        assert_eq!(became(Some(Ack::None), Status::Sent, Ack::Server), [Sent]);
        assert_eq!(became(Some(Ack::Server), Status::Sent, Ack::Device), [Delivered]);
        assert_eq!(became(Some(Ack::None), Status::Sent, Ack::Read), [Sent, Delivered, Read]);
        assert_eq!(became(Some(Ack::Device), Status::Sent, Ack::Played), [Read, Played]);
        assert_eq!(became(None, Status::Sent, Ack::Read), [Read]);
        assert_eq!(became(Some(Ack::None), Status::Failed, Ack::None), [Failed]);
        assert_eq!(became(Some(Ack::None), Status::Cancelled, Ack::None), [Cancelled]);
        assert_eq!(became(Some(Ack::None), Status::Pending, Ack::None), []);
    }

    #[test]
    fn ids_are_read_back_and_others_are_refused() {
        let id = WebhookId::from_random([0, 1, 31, 32, 255, 7, 8, 9, 10, 11]);
        assert_eq!(id.as_str().len(), WebhookId::LENGTH);
        assert_eq!(id.as_str().parse(), Ok(id));
        for wrong in ["", "wh_", "wh_23456789a", "wh_23456789ab ", "wh_23456789aO", "WH_23456789ab"] {
            assert!(wrong.parse::<WebhookId>().is_err(), "{wrong}");
        }
        let names = EventNames::new("abcdef123456").unwrap();
        for topic in Topic::ALL {
            let notice = Notice { cursor: Cursor(77), topic };
            assert_eq!(names.parse(&names.name(notice)), Ok(notice));
            assert_eq!(Topic::from_word(topic.as_str()), Some(topic));
            assert_eq!(Topic::from_code(topic as u8), Some(topic));
        }
        let other = EventNames::new("abcdef123457").unwrap();
        assert!(names.parse(&other.name(Notice { cursor: Cursor(1), topic: Topic::Sent })).is_err());
        assert!(names.parse("evt_abcdef123456000000000000000199").is_err());
        assert!(names.parse("evt_é").is_err());
    }

    #[test]
    fn neither_secret_nor_url_reach_a_log() {
        let webhook = Webhook {
            id: WebhookId::from_random([0; 10]),
            url: "https://example.org/hook?token=t0ken".to_owned(),
            topics: Topics::All,
            secret: Secret("s3cret".to_owned()),
            enabled: true,
            created_at: Timestamp::from_millis(1),
        };
        let shown = format!("{webhook:?} {:?}", webhook.secret);
        assert!(!shown.contains("s3cret") && !shown.contains("t0ken"), "{shown}");
    }
}
