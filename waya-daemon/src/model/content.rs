//! What an outgoing message is beside its text: a file, a place, a poll, an answer to another message.
//!
//! What is kept here is all that a resend needs: nothing is looked up again, so that a message leaves the same however
//! often it is tried.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::{ChatId, Timestamp};

/// The most people one message may mention.
pub const MAX_MENTIONS: usize = 100;
/// The most options of a poll, by WhatsApp's rule.
pub const MAX_POLL_OPTIONS: usize = 12;
/// The longest option of a poll, in characters, by WhatsApp's rule.
pub const MAX_POLL_OPTION_CHARS: usize = 100;
/// The longest question of a poll, in characters, by WhatsApp's rule.
pub const MAX_POLL_QUESTION_CHARS: usize = 255;
/// So much of a quoted text goes along, in characters; the recipient's phone shows its own copy when it has one.
pub const MAX_QUOTE_CHARS: usize = 512;

/// What an outgoing message is beside its text. The default is a plain text.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Content {
    /// What it is.
    #[serde(default, skip_serializing_if = "Body::is_text")]
    pub body: Body,
    /// The message it answers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub quoted: Option<Quoted>,
    /// When the other side's message was sent that this answers or puts an emoji under: it is none that we start.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub answers: Option<Timestamp>,
    /// Whom the text names with `@`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub mentions: Vec<ChatId>,
    /// It is shown as forwarded.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub forwarded: bool,
    /// A link in the text gets a preview.
    #[serde(default = "yes", skip_serializing_if = "Clone::clone")]
    pub preview: bool,
}

const fn yes() -> bool {
    true
}

impl Default for Content {
    fn default() -> Self {
        Self { body: Body::Text, quoted: None, answers: None, mentions: Vec::new(), forwarded: false, preview: true }
    }
}

impl Content {
    /// With this text it is neither an answer nor something taken back: limits hold it.
    #[must_use]
    pub const fn is_started(&self, text: &str) -> bool {
        self.answers.is_none() && !self.takes_back(text)
    }

    /// With this text it takes something back and says nothing: those who want no messages may get it too.
    #[must_use]
    pub const fn takes_back(&self, text: &str) -> bool {
        match self.body {
            Body::Revoke(_) => true,
            Body::Reaction(_) => text.is_empty(),
            _ => false,
        }
    }
}

impl From<Body> for Content {
    fn from(body: Body) -> Self {
        Self { body, ..Self::default() }
    }
}

/// What a message is.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Body {
    /// The text is all.
    #[default]
    Text,
    /// A file, with the text as its caption.
    Media(Attachment),
    /// A file that is fetched when the message leaves, with the text as its caption.
    Remote(Remote),
    /// A place on the map.
    Location(Location),
    /// Somebody's card.
    Contact(Contact),
    /// A poll; the text is its question.
    Poll(Poll),
    /// The text is an emoji under another message; an empty one takes it back.
    Reaction(MessageKey),
    /// The text replaces that of another message.
    Edit(MessageKey),
    /// Another message is taken back.
    Revoke(MessageKey),
    /// A message that came in is passed on as it is.
    Forward(Forward),
}

impl Body {
    /// Whether the text is all.
    #[must_use]
    pub const fn is_text(&self) -> bool {
        matches!(self, Self::Text)
    }

    /// The word of the contract: those of incoming messages, so that a message reads the same either way.
    #[must_use]
    pub const fn as_str(&self) -> &'static str {
        match self {
            Self::Text => "chat",
            Self::Media(attachment) => attachment.kind.as_str(),
            Self::Remote(_) => "media",
            Self::Location(_) => "location",
            Self::Contact(_) => "vcard",
            Self::Poll(_) => "poll_creation",
            Self::Reaction(_) => "reaction",
            Self::Edit(_) => "edited",
            Self::Revoke(_) => "revoked",
            Self::Forward(_) => "forward",
        }
    }

    /// The file it needs to leave.
    #[must_use]
    pub const fn file(&self) -> Option<MediaHash> {
        match self {
            Self::Media(attachment) => Some(attachment.hash),
            Self::Forward(forward) => Some(forward.hash),
            _ => None,
        }
    }
}

/// What a file is to WhatsApp.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MediaKind {
    /// A picture.
    Image,
    /// A video.
    Video,
    /// A video without sound that plays over and over.
    Gif,
    /// Sound.
    Audio,
    /// A voice note.
    Voice,
    /// Any file.
    Document,
    /// A sticker.
    Sticker,
}

impl MediaKind {
    /// The word of the contract.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Image => "image",
            Self::Video => "video",
            Self::Gif => "gif",
            Self::Audio => "audio",
            Self::Voice => "ptt",
            Self::Document => "document",
            Self::Sticker => "sticker",
        }
    }

    /// Whether it can carry words.
    #[must_use]
    pub const fn has_caption(self) -> bool {
        matches!(self, Self::Image | Self::Video | Self::Gif | Self::Document)
    }
}

/// The SHA-256 of a file: what the file is kept under.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct MediaHash(pub [u8; 32]);

/// The text is no hash of a file.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not the SHA-256 of a file; expected 64 hex digits")]
pub struct InvalidHash(pub String);

impl fmt::Display for MediaHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for MediaHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for MediaHash {
    type Err = InvalidHash;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let invalid = || InvalidHash(text.to_owned());
        let mut bytes = [0; 32];
        if text.len() != 64 || !text.bytes().all(|digit| digit.is_ascii_hexdigit()) {
            return Err(invalid());
        }
        for (byte, digits) in bytes.iter_mut().zip(0..32) {
            *byte = u8::from_str_radix(&text[digits * 2..digits * 2 + 2], 16).map_err(|_| invalid())?;
        }
        Ok(Self(bytes))
    }
}

impl TryFrom<String> for MediaHash {
    type Error = InvalidHash;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<MediaHash> for String {
    fn from(hash: MediaHash) -> Self {
        hash.to_string()
    }
}

/// A file that is kept and will be sent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attachment {
    /// Which file.
    pub hash: MediaHash,
    /// Its length in bytes.
    pub size: u64,
    /// What it is to WhatsApp.
    #[serde(rename = "as")]
    pub kind: MediaKind,
    /// Its MIME type.
    pub mimetype: String,
    /// The name that recipients see of a document.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub filename: Option<String>,
    /// Width in pixels.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub width: Option<u32>,
    /// Height in pixels.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub height: Option<u32>,
    /// How long it plays, in seconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seconds: Option<u32>,
    /// How many pages it has.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pages: Option<u32>,
}

/// A file that is fetched when its message leaves.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Remote {
    /// Where it is.
    pub url: String,
    /// What the caller says of it.
    #[serde(default)]
    pub hints: MediaHints,
}

/// What a caller says of a file.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct MediaHints {
    /// Its MIME type.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mimetype: Option<String>,
    /// The name that recipients see of a document.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub filename: Option<String>,
    /// Sound is to be a voice note.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub voice: bool,
    /// Whatever it is, it is to be a document.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub document: bool,
}

/// A place on the map. Degrees are kept as whole numbers of 10⁻⁷ degrees, about a centimetre.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Location {
    /// Degrees north, times 10⁷.
    pub latitude_e7: i32,
    /// Degrees east, times 10⁷.
    pub longitude_e7: i32,
    /// What the place is called.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Where it is, in words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address: Option<String>,
}

impl Location {
    /// From degrees; `None` for what is nowhere on Earth.
    #[must_use]
    pub fn from_degrees(latitude: f64, longitude: f64) -> Option<Self> {
        let fits = latitude.abs() <= 90.0 && longitude.abs() <= 180.0;
        let e7 = |degrees: f64| (degrees * 1e7).round() as i32;
        fits.then(|| Self { latitude_e7: e7(latitude), longitude_e7: e7(longitude), name: None, address: None })
    }

    /// Degrees north and east.
    #[must_use]
    pub fn degrees(&self) -> (f64, f64) {
        (f64::from(self.latitude_e7) / 1e7, f64::from(self.longitude_e7) / 1e7)
    }
}

/// Somebody's card.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Contact {
    /// Their name.
    pub name: String,
    /// Their phone's digits, with country code.
    pub phone: String,
}

/// A poll.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Poll {
    /// What can be chosen.
    pub options: Vec<String>,
    /// How many of them one person may choose; 0: any number.
    pub selectable: u32,
    /// What votes are encrypted with; made once, so that a resend is the same poll.
    pub secret: [u8; 32],
}

/// Which message of the same chat is meant.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MessageKey {
    /// WhatsApp's id of it.
    pub id: String,
    /// We wrote it.
    pub from_me: bool,
    /// In a group, who wrote it, when it was not us.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub author: Option<ChatId>,
}

/// The message that is answered.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Quoted {
    /// WhatsApp's id of it.
    pub id: String,
    /// Who wrote it; nobody: we did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub author: Option<ChatId>,
    /// The beginning of its text.
    pub text: String,
}

/// A message that came in and is passed on; its encoded form lies with the files.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Forward {
    /// Which file.
    pub hash: MediaHash,
    /// What it is, in the words of incoming messages.
    pub what: String,
}

/// Without what may hold a token, because debug output reaches logs.
impl fmt::Debug for Remote {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Remote").field("hints", &self.hints).finish_non_exhaustive()
    }
}

/// Without the place, because debug output reaches logs.
impl fmt::Debug for Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Location").finish_non_exhaustive()
    }
}

/// Without name and number, because debug output reaches logs.
impl fmt::Debug for Contact {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Contact").finish_non_exhaustive()
    }
}

/// Without words and secret, because debug output reaches logs.
impl fmt::Debug for Poll {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Poll").field("options", &self.options.len()).finish_non_exhaustive()
    }
}

/// Without the text, because debug output reaches logs.
impl fmt::Debug for Quoted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Quoted").field("id", &self.id).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_plain_text_takes_no_room() {
        assert_eq!(serde_json::to_string(&Content::default()).unwrap(), "{}");
        assert_eq!(serde_json::from_str::<Content>("{}").unwrap(), Content::default());
    }

    #[test]
    fn what_is_kept_is_read_again() {
        let key = MessageKey { id: "3EB0".to_owned(), from_me: false, author: Some(ChatId::phone("6281200000002")) };
        let content = Content {
            body: Body::Media(Attachment {
                hash: MediaHash([7; 32]),
                size: 9,
                kind: MediaKind::Image,
                mimetype: "image/png".to_owned(),
                filename: None,
                width: Some(2),
                height: Some(3),
                seconds: None,
                pages: None,
            }),
            quoted: Some(Quoted { id: key.id.clone(), author: key.author.clone(), text: "Halo".to_owned() }),
            answers: Some(Timestamp::from_millis(1_800_000_000_000)),
            mentions: vec![ChatId::phone("6281200000003")],
            forwarded: true,
            preview: false,
        };
        for content in [content, Body::Revoke(key.clone()).into(), Body::Reaction(key).into()] {
            let json = serde_json::to_string(&content).unwrap();
            assert_eq!(serde_json::from_str::<Content>(&json).unwrap(), content, "{json}");
        }
    }

    proptest! {
        #[test]
        fn a_hash_reads_as_it_is_written(bytes: [u8; 32], junk in ".{0,70}") {
            let hash = MediaHash(bytes);
            prop_assert_eq!(hash.to_string().parse(), Ok(hash));
            let _ = junk.parse::<MediaHash>();
        }

        #[test]
        fn places_on_earth_are_kept_to_the_centimetre(north in -90.0f64..=90.0, east in -180.0f64..=180.0) {
            let (latitude, longitude) = Location::from_degrees(north, east).unwrap().degrees();
            prop_assert!((latitude - north).abs() < 1e-7 && (longitude - east).abs() < 1e-7);
        }
    }

    #[test]
    fn what_is_nowhere_is_no_place() {
        for (north, east) in [(90.1, 0.0), (0.0, -180.1), (f64::NAN, 0.0), (0.0, f64::INFINITY)] {
            assert!(Location::from_degrees(north, east).is_none());
        }
    }
}
