//! What a message is to say, from a caller's words to what the queue keeps: files are taken in, other messages looked
//! up. One request may make several messages a recipient, since WhatsApp puts one file into each.

use super::found::Found;
use super::recipients::{Form, Target};
use super::{Api, ApiError};
use crate::media::{self, MediaError};
use crate::model::{
    Body, ChatId, Contact, Content, Location, MAX_MENTIONS, MAX_POLL_OPTION_CHARS, MAX_POLL_OPTIONS,
    MAX_POLL_QUESTION_CHARS, MAX_TEXT_CHARS, MediaHash, MediaHints, Poll, Recipient, Remote, Timestamp,
};

/// The most files of one message.
pub const MAX_FILES: usize = 30;
/// No name of a place or a person is longer, in characters.
const MAX_NAME_CHARS: usize = 256;

/// What somebody gets.
#[derive(Clone, Default)]
pub struct What {
    /// The text, byte for byte; the caption of the first file that can have one.
    pub text: String,
    /// Files.
    pub media: Vec<MediaInput>,
    /// Something else than text and files; nothing else goes with it.
    pub special: Option<Special>,
    /// A message that is passed on, as it is; nothing else goes with it but its text.
    pub(crate) ready: Option<Body>,
    /// The message it answers: a queue id, a reference, or WhatsApp's id.
    pub quoted: Option<String>,
    /// Whom the text names with `@`, as recipients are written.
    pub mentions: Vec<String>,
    /// No preview of a link in the text.
    pub no_preview: bool,
}

/// Neither text nor file.
#[derive(Clone)]
pub enum Special {
    /// A place.
    Location {
        /// Degrees north.
        latitude: f64,
        /// Degrees east.
        longitude: f64,
        /// What it is called.
        name: Option<String>,
        /// Where it is, in words.
        address: Option<String>,
    },
    /// Somebody's card.
    Contact {
        /// Their name.
        name: String,
        /// Their number, as recipients are written.
        number: String,
    },
    /// A poll.
    Poll {
        /// What is asked.
        question: String,
        /// What can be chosen.
        options: Vec<String>,
        /// How many one person may choose; 0: any number.
        selectable: u32,
    },
    /// An emoji under another message; an empty one takes it back.
    Reaction {
        /// A queue id, a reference, or WhatsApp's id.
        message: String,
        /// The emoji.
        emoji: String,
    },
}

/// A file as a caller gives it.
#[derive(Clone)]
pub struct MediaInput {
    /// Where it comes from.
    pub source: MediaSource,
    /// What the caller says of it.
    pub hints: MediaHints,
}

/// Where a file comes from.
#[derive(Clone)]
pub enum MediaSource {
    /// From there, now.
    Url(String),
    /// From there, when the message leaves.
    UrlAtSend(String),
    /// Base64, or a `data:` URL.
    Base64(String),
    /// It is kept already.
    Kept(MediaHash),
}

/// One message to be.
#[derive(Debug, Clone)]
pub(super) struct Prepared {
    /// The text, byte for byte.
    pub text: String,
    /// What it is beside its text.
    pub content: Content,
}

impl From<String> for What {
    fn from(text: String) -> Self {
        Self { text, ..Self::default() }
    }
}

impl From<&str> for What {
    fn from(text: &str) -> Self {
        text.to_owned().into()
    }
}

impl What {
    /// Checks all that can be said without looking anything up.
    pub(super) fn check(&self, form: Form, index: usize) -> Result<(), ApiError> {
        let field = |name: &str| form.each_or(index, name);
        if self.ready.is_some() {
            return Ok(());
        }
        if let Some(special) = &self.special {
            if !self.text.is_empty() || !self.media.is_empty() {
                let problem = "goes alone; send text and files as messages of their own";
                return Err(ApiError::field_error(field(special.field()), problem));
            }
            return special.check(&field);
        }
        if self.text.is_empty() && self.media.is_empty() {
            return Err(ApiError::NothingToSend { field: field("message") });
        }
        check_length(&field("message"), &self.text, MAX_TEXT_CHARS)?;
        if self.media.len() > MAX_FILES {
            let problem = format!("has {} files, at most {MAX_FILES} fit", self.media.len());
            return Err(ApiError::field_error(field("media"), problem));
        }
        if self.mentions.len() > MAX_MENTIONS {
            let problem = format!("has {} entries, at most {MAX_MENTIONS} fit", self.mentions.len());
            return Err(ApiError::field_error(field("mentions"), problem));
        }
        Ok(())
    }
}

impl What {
    /// It takes something back and says nothing.
    pub(super) fn takes_back(&self) -> bool {
        matches!(&self.special, Some(Special::Reaction { emoji, .. }) if emoji.is_empty())
    }

    /// The message it answers or puts an emoji under, as the caller names it, and the field that does.
    const fn answered(&self) -> Option<(&'static str, &String)> {
        match (&self.special, &self.quoted) {
            (Some(Special::Reaction { message, .. }), _) => Some(("reaction.messageId", message)),
            (None, Some(quoted)) => Some(("quoted", quoted)),
            (Some(_) | None, _) => None,
        }
    }
}

impl Special {
    const fn field(&self) -> &'static str {
        match self {
            Self::Location { .. } => "location",
            Self::Contact { .. } => "contact",
            Self::Poll { .. } => "poll",
            Self::Reaction { .. } => "reaction",
        }
    }

    fn check(&self, field: &impl Fn(&str) -> String) -> Result<(), ApiError> {
        let name = |part: &str| field(&format!("{}.{part}", self.field()));
        match self {
            Self::Location { latitude, longitude, name: called, address } => {
                if Location::from_degrees(*latitude, *longitude).is_none() {
                    let problem = "is nowhere: latitude goes from -90 to 90, longitude from -180 to 180";
                    return Err(ApiError::field_error(field("location"), problem));
                }
                check_length(&name("name"), called.as_deref().unwrap_or_default(), MAX_NAME_CHARS)?;
                check_length(&name("address"), address.as_deref().unwrap_or_default(), MAX_NAME_CHARS)
            }
            Self::Contact { name: called, .. } => {
                check_there(&name("name"), called)?;
                check_length(&name("name"), called, MAX_NAME_CHARS)
            }
            Self::Poll { question, options, selectable } => {
                check_there(&name("question"), question)?;
                check_length(&name("question"), question, MAX_POLL_QUESTION_CHARS)?;
                check_options(&name("options"), options)?;
                if *selectable as usize > options.len() {
                    let problem = format!("must be from 0 (any number) to {}", options.len());
                    return Err(ApiError::field_error(name("selectable"), problem));
                }
                Ok(())
            }
            // One emoji can be a dozen characters long, joined by what nobody sees.
            Self::Reaction { emoji, .. } => check_length(&name("emoji"), emoji, 32),
        }
    }
}

fn check_options(field: &str, options: &[String]) -> Result<(), ApiError> {
    if !(2..=MAX_POLL_OPTIONS).contains(&options.len()) {
        let problem = format!("must be 2 to {MAX_POLL_OPTIONS} options, not {}", options.len());
        return Err(ApiError::field_error(field.to_owned(), problem));
    }
    for (index, option) in options.iter().enumerate() {
        let at = format!("{field}[{index}]");
        check_there(&at, option)?;
        check_length(&at, option, MAX_POLL_OPTION_CHARS)?;
        // Votes name an option by its hash.
        if options[..index].contains(option) {
            return Err(ApiError::field_error(at, "is there twice"));
        }
    }
    Ok(())
}

fn check_there(field: &str, text: &str) -> Result<(), ApiError> {
    if text.trim().is_empty() { Err(ApiError::field_error(field.to_owned(), "is empty")) } else { Ok(()) }
}

/// Any Unicode goes out as it is, NUL too; only too much is refused.
fn check_length(field: &str, text: &str, most: usize) -> Result<(), ApiError> {
    // A character has at least one byte, so that short texts need no counting.
    if text.len() <= most {
        return Ok(());
    }
    let count = text.chars().count();
    if count <= most {
        return Ok(());
    }
    Err(ApiError::field_error(field.to_owned(), format!("has {count} characters, WhatsApp takes at most {most}")))
}

impl Api {
    /// What each of the request's contents becomes.
    pub(super) async fn prepare(
        &self,
        form: Form,
        contents: Vec<What>,
        targets: &[Target],
    ) -> Result<Vec<Vec<Prepared>>, ApiError> {
        let mut prepared = Vec::with_capacity(contents.len());
        for (index, what) in contents.into_iter().enumerate() {
            let chats: Vec<&ChatId> =
                targets.iter().filter(|target| target.content == index).map(|target| &target.chat).collect();
            prepared.push(self.compose(&|name| form.each_or(index, name), what, &chats).await?);
        }
        Ok(prepared)
    }

    /// When the other side's message was sent that this answers, as the journal knows it: the caller's word would let
    /// anything pass as an answer.
    pub(super) async fn answered(
        &self,
        field: &(impl Fn(&str) -> String + Sync),
        what: &What,
        chat: &ChatId,
    ) -> Result<Option<Timestamp>, ApiError> {
        let Some((name, id)) = what.answered() else { return Ok(None) };
        Ok(self.found_in(&field(name), id, &[chat]).await?.written_to_us())
    }

    async fn compose(
        &self,
        field: &(impl Fn(&str) -> String + Sync),
        what: What,
        chats: &[&ChatId],
    ) -> Result<Vec<Prepared>, ApiError> {
        let What { text, media, special, ready, quoted, mentions, no_preview } = what;
        if let Some(body) = ready {
            return Ok(vec![Prepared { text, content: Content { forwarded: true, ..body.into() } }]);
        }
        if let Some(special) = special {
            return Ok(vec![self.special(field, special, chats).await?]);
        }
        let quoted = match quoted {
            None => None,
            Some(id) => Some(self.found_in(&field("quoted"), &id, chats).await?),
        };
        let content = Content {
            answers: quoted.as_ref().and_then(Found::written_to_us),
            quoted: quoted.as_ref().map(Found::quoted),
            mentions: self.mentions(field, &mentions)?,
            preview: !no_preview,
            ..Content::default()
        };
        if media.is_empty() {
            return Ok(vec![Prepared { text, content }]);
        }
        let several = media.len() > 1;
        let mut messages = Vec::with_capacity(media.len());
        for (index, file) in media.into_iter().enumerate() {
            let at = if several { format!("{}[{index}]", field("media")) } else { field("media") };
            let body = self.body(at, file).await?;
            messages.push(Prepared { text: String::new(), content: Content { body, ..content.clone() } });
        }
        caption(&mut messages, text, &content);
        Ok(messages)
    }

    /// Takes a file in.
    async fn body(&self, field: String, file: MediaInput) -> Result<Body, ApiError> {
        let invalid = |problem: MediaError| ApiError::InvalidMedia { field: field.clone(), problem };
        let MediaInput { source, hints } = file;
        let media = &self.0.media;
        Ok(Body::Media(match source {
            MediaSource::Base64(text) => media.take_base64(text, hints).await.map_err(invalid)?,
            MediaSource::Kept(hash) => {
                let stored = media.stored(hash).await.map_err(invalid)?;
                media.describe(stored, hints).await.map_err(invalid)?
            }
            MediaSource::Url(url) => media.take_url(&url, hints).await.map_err(invalid)?,
            MediaSource::UrlAtSend(url) => {
                media.check_url(&url).map_err(invalid)?;
                return Ok(Body::Remote(Remote { url, hints }));
            }
        }))
    }

    fn mentions(&self, field: &impl Fn(&str) -> String, mentions: &[String]) -> Result<Vec<ChatId>, ApiError> {
        let chat =
            |(index, written): (usize, &String)| self.person(&format!("{}[{index}]", field("mentions")), written);
        mentions.iter().enumerate().map(chat).collect()
    }

    /// Somebody, as recipients are written.
    fn person(&self, field: &str, written: &str) -> Result<ChatId, ApiError> {
        let country = self.0.settings.now().default_country.clone();
        match Recipient::parse(written, country.as_deref()) {
            Ok(Recipient::Chat(chat)) => Ok(chat),
            Ok(_) => Err(ApiError::field_error(field.to_owned(), "must be a number or a chat id")),
            Err(problem) => Err(ApiError::InvalidRecipient { field: field.to_owned(), problem: problem.into() }),
        }
    }

    async fn special(
        &self,
        field: &(impl Fn(&str) -> String + Sync),
        special: Special,
        chats: &[&ChatId],
    ) -> Result<Prepared, ApiError> {
        Ok(match special {
            Special::Location { latitude, longitude, name, address } => {
                let place = Location::from_degrees(latitude, longitude);
                let place = place.ok_or_else(|| ApiError::field_error(field("location"), "is nowhere"))?;
                prepared(String::new(), Body::Location(Location { name, address, ..place }))
            }
            Special::Contact { name, number } => {
                let chat = self.person(&field("contact.number"), &number)?;
                let Some(phone) = chat.phone_number() else {
                    return Err(ApiError::field_error(field("contact.number"), "must be a phone number"));
                };
                prepared(String::new(), Body::Contact(Contact { name, phone: phone.to_owned() }))
            }
            Special::Poll { question, options, selectable } => {
                let selectable = if selectable == 0 { options.len() as u32 } else { selectable };
                prepared(question, Body::Poll(Poll { options, selectable, secret: rand::random() }))
            }
            Special::Reaction { message, emoji } => {
                let found = self.found_in(&field("reaction.messageId"), &message, chats).await?;
                Prepared { text: emoji, content: found.reaction() }
            }
        })
    }
}

fn prepared(text: String, body: Body) -> Prepared {
    Prepared { text, content: body.into() }
}

/// The text goes with the first file that can have one, else as a message of its own behind them.
fn caption(messages: &mut Vec<Prepared>, text: String, content: &Content) {
    if text.is_empty() {
        return;
    }
    let takes = |one: &&mut Prepared| match &one.content.body {
        Body::Media(attachment) => attachment.kind.has_caption(),
        // What it is shows when it leaves; if that is no place for words, it becomes a document.
        Body::Remote(remote) => !media::seems_wordless(remote),
        _ => false,
    };
    match messages.iter_mut().find(takes) {
        Some(first) => first.text = text,
        None => messages.push(Prepared { text, content: content.clone() }),
    }
}

/// Without texts and numbers, because debug output reaches logs.
impl std::fmt::Debug for What {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("What").field("files", &self.media.len()).finish_non_exhaustive()
    }
}
