//! What a message is to say, out of the fields of a body: text, files, places, polls and the rest.

use std::borrow::Cow;
use std::fmt::Display;

use serde::Deserialize;
use serde_json::value::RawValue;

use super::given::Given;
use super::send_body::recipient;
use crate::api::{ApiError, MediaInput, MediaSource, Special, What};
use crate::model::MediaHints;

/// The fields, as they came.
pub(super) struct Parts<'a> {
    pub(super) message: Option<Given<'a>>,
    pub(super) media: Option<&'a RawValue>,
    pub(super) quoted: Option<Given<'a>>,
    pub(super) mentions: Option<&'a RawValue>,
    pub(super) location: Option<&'a RawValue>,
    pub(super) contact: Option<&'a RawValue>,
    pub(super) poll: Option<&'a RawValue>,
    pub(super) reaction: Option<&'a RawValue>,
    pub(super) preview: Option<Given<'a>>,
}

#[derive(Deserialize)]
#[serde(expecting = "an object with url, or with data")]
struct MediaBody<'a> {
    #[serde(borrow)]
    url: Option<Given<'a>>,
    #[serde(borrow)]
    data: Option<Given<'a>>,
    #[serde(borrow)]
    mimetype: Option<Given<'a>>,
    #[serde(borrow)]
    filename: Option<Given<'a>>,
    #[serde(borrow)]
    voice: Option<Given<'a>>,
    #[serde(borrow)]
    document: Option<Given<'a>>,
    #[serde(borrow)]
    fetch: Option<Given<'a>>,
}

#[derive(Deserialize)]
#[serde(expecting = "an object with latitude and longitude")]
struct LocationBody {
    latitude: f64,
    longitude: f64,
    name: Option<String>,
    address: Option<String>,
}

#[derive(Deserialize)]
#[serde(expecting = "an object with name and number")]
struct ContactBody<'a> {
    name: String,
    #[serde(borrow)]
    number: Given<'a>,
}

#[derive(Deserialize)]
#[serde(expecting = "an object with question and options")]
struct PollBody {
    question: String,
    options: Vec<String>,
    selectable: Option<u32>,
}

#[derive(Deserialize)]
#[serde(expecting = "an object with messageId and emoji")]
struct ReactionBody {
    #[serde(rename = "messageId", alias = "message_id")]
    message_id: String,
    emoji: String,
}

impl Parts<'_> {
    /// Whether there is nothing to send in it.
    pub(super) fn is_empty(&self) -> bool {
        self.first_field() == ""
    }

    /// The name of the first field that is there.
    pub(super) fn first_field(&self) -> &'static str {
        let raw = |name, value: Option<&RawValue>| value.is_some_and(|value| !is_nothing(value)).then_some(name);
        let given = |name, value: &Option<Given<'_>>| value.as_ref().map(|_| name);
        given("message", &self.message)
            .or_else(|| raw("media", self.media))
            .or_else(|| given("quoted", &self.quoted))
            .or_else(|| raw("mentions", self.mentions))
            .or_else(|| raw("location", self.location))
            .or_else(|| raw("contact", self.contact))
            .or_else(|| raw("poll", self.poll))
            .or_else(|| raw("reaction", self.reaction))
            .or_else(|| given("preview", &self.preview))
            .unwrap_or_default()
    }

    /// What it says; `field` writes a field's name for refusals.
    pub(super) fn what(self, field: &impl Fn(&str) -> String) -> Result<What, ApiError> {
        Ok(What {
            special: self.special(field)?,
            text: text(field("message"), self.message)?.unwrap_or_default(),
            media: self.media.map_or_else(|| Ok(Vec::new()), |raw| media(&field("media"), raw))?,
            quoted: text(field("quoted"), self.quoted)?.filter(|id| !id.is_empty()),
            mentions: self.mentions.map_or_else(|| Ok(Vec::new()), |raw| mentions(&field("mentions"), raw))?,
            no_preview: flag(field("preview"), self.preview.as_ref())? == Some(false),
            ..What::default()
        })
    }

    fn special(&self, field: &impl Fn(&str) -> String) -> Result<Option<Special>, ApiError> {
        let there =
            [("location", self.location), ("contact", self.contact), ("poll", self.poll), ("reaction", self.reaction)];
        let mut there = there.into_iter().filter_map(|(name, raw)| Some((name, raw.filter(|raw| !is_nothing(raw))?)));
        let Some((name, raw)) = there.next() else { return Ok(None) };
        if let Some((second, _)) = there.next() {
            return Err(ApiError::field_error(field(second), format!("cannot go with {name} in one message")));
        }
        let at = field(name);
        Ok(Some(match name {
            "location" => {
                let LocationBody { latitude, longitude, name, address } = parse(&at, raw)?;
                Special::Location { latitude, longitude, name, address }
            }
            "contact" => {
                let ContactBody { name, number } = parse(&at, raw)?;
                Special::Contact { name, number: recipient(format!("{at}.number"), number)? }
            }
            "poll" => {
                let PollBody { question, options, selectable } = parse(&at, raw)?;
                Special::Poll { question, options, selectable: selectable.unwrap_or(1) }
            }
            _ => {
                let ReactionBody { message_id, emoji } = parse(&at, raw)?;
                Special::Reaction { message: message_id, emoji }
            }
        }))
    }
}

/// `null`, an empty text, array or object: what forms send for a field that was left out.
fn is_nothing(raw: &RawValue) -> bool {
    let text: String = raw.get().chars().filter(|c| !c.is_ascii_whitespace()).take(5).collect();
    matches!(text.as_str(), "null" | "\"\"" | "[]" | "{}" | "false")
}

fn parse<'a, T: Deserialize<'a>>(field: &str, raw: &'a RawValue) -> Result<T, ApiError> {
    serde_json::from_str(raw.get()).map_err(|error| wrong(field, &error))
}

fn wrong(field: &str, error: &dyn Display) -> ApiError {
    // The place is one within this field, and misleads.
    let words = error.to_string();
    let words = words.split(" at line ").next().unwrap_or_default().to_owned();
    ApiError::field_error(field.to_owned(), words)
}

fn text(field: String, given: Option<Given<'_>>) -> Result<Option<String>, ApiError> {
    match given {
        None => Ok(None),
        Some(Given::Text(text)) => Ok(Some(text.into_owned())),
        Some(_) => Err(ApiError::field_error(field, "must be a string")),
    }
}

/// Forms write flags as words.
fn flag(field: String, given: Option<&Given<'_>>) -> Result<Option<bool>, ApiError> {
    match given {
        None => Ok(None),
        Some(Given::Flag(flag)) => Ok(Some(*flag)),
        Some(Given::Text(word)) if word == "true" => Ok(Some(true)),
        Some(Given::Text(word)) if word == "false" => Ok(Some(false)),
        Some(_) => Err(ApiError::field_error(field, "must be true or false")),
    }
}

fn mentions(field: &str, raw: &RawValue) -> Result<Vec<String>, ApiError> {
    if is_nothing(raw) {
        return Ok(Vec::new());
    }
    let given: Vec<Given<'_>> = parse(field, raw)?;
    given.into_iter().enumerate().map(|(index, number)| recipient(format!("{field}[{index}]"), number)).collect()
}

/// One file, several, or an address alone.
fn media(field: &str, raw: &RawValue) -> Result<Vec<MediaInput>, ApiError> {
    if is_nothing(raw) {
        return Ok(Vec::new());
    }
    match raw.get().trim_start().chars().next() {
        Some('[') => {
            let files: Vec<&RawValue> = parse(field, raw)?;
            files.into_iter().enumerate().map(|(index, file)| one_file(&format!("{field}[{index}]"), file)).collect()
        }
        _ => Ok(vec![one_file(field, raw)?]),
    }
}

fn one_file(field: &str, raw: &RawValue) -> Result<MediaInput, ApiError> {
    if raw.get().trim_start().starts_with('"') {
        let address: Cow<'_, str> = parse(field, raw)?;
        return Ok(MediaInput { source: MediaSource::Url(address.into_owned()), hints: MediaHints::default() });
    }
    let body: MediaBody<'_> = parse(field, raw)?;
    let name = |part: &str| format!("{field}.{part}");
    let hints = MediaHints {
        mimetype: text(name("mimetype"), body.mimetype)?,
        filename: text(name("filename"), body.filename)?,
        voice: flag(name("voice"), body.voice.as_ref())?.unwrap_or_default(),
        document: flag(name("document"), body.document.as_ref())?.unwrap_or_default(),
    };
    let at_send = match text(name("fetch"), body.fetch)?.as_deref() {
        None | Some("now") => false,
        Some("at_send") => true,
        Some(_) => return Err(ApiError::field_error(name("fetch"), "must be now or at_send")),
    };
    let given = |value: Option<String>| value.filter(|value| !value.is_empty());
    let source = match (given(text(name("url"), body.url)?), given(text(name("data"), body.data)?)) {
        (Some(url), None) if at_send => MediaSource::UrlAtSend(url),
        (Some(url), None) => MediaSource::Url(url),
        (None, Some(data)) => MediaSource::Base64(data),
        (None, None) => return Err(ApiError::field_error(field.to_owned(), "has no content; give url or data")),
        (Some(_), Some(_)) => return Err(ApiError::field_error(field.to_owned(), "give exactly one of url and data")),
    };
    Ok(MediaInput { source, hints })
}
