//! The body of `POST /api/send-message`, read straight from its bytes.
//!
//! Fields that are not of the contract are ignored, as other gateways do, so that a caller's extra fields harm nothing.

use std::borrow::Cow;

use serde::Deserialize;
use serde_json::Value;
use serde_json::value::RawValue;

use super::given::Given;
use super::what_body::Parts;

use crate::api::{
    ApiError, Content, IdempotencyKey, PersonalMessage, Priority, SendRequest, body_hash, time_from_millis,
    time_from_text,
};
use crate::http::error::HttpError;
use crate::model::Timestamp;

/// The body as it came; what its fields mean is checked by [`SendBody::request`].
#[derive(Deserialize)]
#[serde(expecting = "a JSON object")]
pub(super) struct SendBody<'a> {
    #[serde(borrow)]
    number: Option<Given<'a>>,
    #[serde(borrow)]
    recipients: Option<Vec<Given<'a>>>,
    #[serde(borrow)]
    message: Option<Given<'a>>,
    #[serde(borrow)]
    messages: Option<Vec<PersonalBody<'a>>>,
    #[serde(borrow)]
    media: Option<&'a RawValue>,
    #[serde(borrow)]
    quoted: Option<Given<'a>>,
    #[serde(borrow)]
    mentions: Option<&'a RawValue>,
    #[serde(borrow)]
    location: Option<&'a RawValue>,
    #[serde(borrow)]
    contact: Option<&'a RawValue>,
    #[serde(borrow)]
    poll: Option<&'a RawValue>,
    #[serde(borrow)]
    reaction: Option<&'a RawValue>,
    #[serde(borrow)]
    preview: Option<Given<'a>>,
    #[serde(borrow)]
    reference_id: Option<Given<'a>>,
    #[serde(borrow)]
    scheduled_at: Option<Given<'a>>,
    #[serde(borrow)]
    priority: Option<Given<'a>>,
    #[serde(borrow)]
    idempotency_key: Option<Given<'a>>,
    #[serde(borrow)]
    dry_run: Option<Given<'a>>,
}

// The fields of `Parts` stand here once more: serde's `flatten` buffers what it passes on, and `RawValue` cannot be read from that.
#[derive(Deserialize)]
#[serde(expecting = "an object with number and message")]
struct PersonalBody<'a> {
    #[serde(borrow)]
    number: Option<Given<'a>>,
    #[serde(borrow)]
    message: Option<Given<'a>>,
    #[serde(borrow)]
    media: Option<&'a RawValue>,
    #[serde(borrow)]
    quoted: Option<Given<'a>>,
    #[serde(borrow)]
    mentions: Option<&'a RawValue>,
    #[serde(borrow)]
    location: Option<&'a RawValue>,
    #[serde(borrow)]
    contact: Option<&'a RawValue>,
    #[serde(borrow)]
    poll: Option<&'a RawValue>,
    #[serde(borrow)]
    reaction: Option<&'a RawValue>,
    #[serde(borrow)]
    preview: Option<Given<'a>>,
    #[serde(borrow)]
    reference_id: Option<Given<'a>>,
}

/// Reads the body. Text is taken over as it is; a NUL, written `\u0000`, too.
pub(super) fn read(bytes: &[u8], header_key: Option<&str>) -> Result<SendRequest, HttpError> {
    let text = std::str::from_utf8(bytes).map_err(|error| {
        HttpError::InvalidJson(format!("the body is not valid UTF-8 (byte {})", error.valid_up_to()))
    })?;
    // Some programs put a byte order mark before the JSON.
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    if !text.trim_start().starts_with('{') {
        return Err(HttpError::InvalidJson("the body must be a JSON object".to_owned()));
    }
    let body: SendBody<'_> = serde_json::from_str(text).map_err(|error| wrong(text, &error))?;
    body.request(text, header_key)
}

/// Broken JSON, or a field of a type that it cannot have.
fn wrong(text: &str, error: &serde_json::Error) -> HttpError {
    let broken = || HttpError::InvalidJson(format!("the body is broken JSON: {error}"));
    if !error.is_data() {
        return broken();
    }
    // What is wrong beyond this field is not known yet: broken JSON comes first.
    let Ok(value) = serde_json::from_str::<Value>(text) else { return broken() };
    let array = |field: &str| value.get(field).is_some_and(|value| !value.is_array() && !value.is_null());
    if array("recipients") {
        return ApiError::field_error("recipients", "must be an array of recipients; one goes into number").into();
    }
    if array("messages") || value.get("messages").is_some() {
        return ApiError::field_error("messages", "must be an array of objects with number and message").into();
    }
    ApiError::field_error("body", error.to_string()).into()
}

impl SendBody<'_> {
    fn request(self, text: &str, header_key: Option<&str>) -> Result<SendRequest, HttpError> {
        let parts = Parts {
            message: self.message,
            media: self.media,
            quoted: self.quoted,
            mentions: self.mentions,
            location: self.location,
            contact: self.contact,
            poll: self.poll,
            reaction: self.reaction,
            preview: self.preview,
        };
        let own = [self.number.is_some(), self.recipients.is_some(), self.messages.is_some()];
        let content = match (own.iter().filter(|given| **given).count(), self.number, self.recipients, self.messages) {
            (1, Some(number), None, None) => {
                Content::One { number: recipient("number", number)?, message: parts.what(&str::to_owned)? }
            }
            (1, None, Some(recipients), None) => Content::Many {
                recipients: recipients
                    .into_iter()
                    .enumerate()
                    .map(|(index, number)| recipient(format!("recipients[{index}]"), number))
                    .collect::<Result<_, _>>()?,
                message: parts.what(&str::to_owned)?,
            },
            (1, None, None, Some(messages)) if parts.is_empty() => Content::Each(
                messages.into_iter().enumerate().map(|(index, one)| one.message(index)).collect::<Result<_, _>>()?,
            ),
            (1, ..) => {
                let field = parts.first_field();
                return Err(ApiError::field_error(field, "goes into each entry of messages").into());
            }
            (0, ..) => {
                return Err(
                    ApiError::field_error("number", "is missing; give number, or recipients for several").into()
                );
            }
            _ => {
                return Err(
                    ApiError::field_error("recipients", "give exactly one of number, recipients and messages").into()
                );
            }
        };
        let key = idempotency_key(self.idempotency_key, header_key)?;
        Ok(SendRequest {
            content,
            reference_id: reference("reference_id", self.reference_id)?,
            priority: priority(self.priority.as_ref())?,
            scheduled_at: self.scheduled_at.map(scheduled_at).transpose()?,
            idempotency: key.map(|key| idempotency(key, text)).transpose()?,
            dry_run: match self.dry_run {
                None => false,
                Some(Given::Flag(flag)) => flag,
                Some(_) => return Err(ApiError::field_error("dry_run", "must be true or false").into()),
            },
            ..SendRequest::default()
        })
    }
}

impl PersonalBody<'_> {
    fn message(self, index: usize) -> Result<PersonalMessage, ApiError> {
        let field = |name: &str| format!("messages[{index}].{name}");
        let Some(number) = self.number else {
            return Err(ApiError::field_error(field("number"), "is missing"));
        };
        Ok(PersonalMessage {
            number: recipient(field("number"), number)?,
            reference_id: reference(field("reference_id"), self.reference_id)?,
            message: Parts {
                message: self.message,
                media: self.media,
                quoted: self.quoted,
                mentions: self.mentions,
                location: self.location,
                contact: self.contact,
                poll: self.poll,
                reaction: self.reaction,
                preview: self.preview,
            }
            .what(&field)?,
        })
    }
}

pub(super) fn recipient(field: impl Into<Cow<'static, str>>, given: Given<'_>) -> Result<String, ApiError> {
    match given {
        Given::Text(text) => Ok(text.into_owned()),
        Given::Integer(number) if number >= 0 => Ok(number.to_string()),
        _ => Err(ApiError::field_error(field, "must be a string or a whole number; several go into recipients")),
    }
}

/// An empty one, as forms send it, is none.
fn reference(field: impl Into<Cow<'static, str>>, given: Option<Given<'_>>) -> Result<Option<String>, ApiError> {
    match given {
        None => Ok(None),
        Some(Given::Text(text)) => Ok((!text.is_empty()).then(|| text.into_owned())),
        Some(Given::Integer(number)) => Ok(Some(number.to_string())),
        Some(_) => Err(ApiError::field_error(field, "must be a string")),
    }
}

fn priority(given: Option<&Given<'_>>) -> Result<Priority, ApiError> {
    let word = match given {
        None => return Ok(Priority::Normal),
        Some(Given::Text(word)) => Priority::from_word(word),
        Some(_) => None,
    };
    word.ok_or_else(|| ApiError::field_error("priority", "must be high, normal or low"))
}

fn scheduled_at(given: Given<'_>) -> Result<Timestamp, ApiError> {
    let time = match given {
        Given::Text(text) => time_from_text(&text),
        Given::Integer(millis) => i64::try_from(millis).map_err(|_| "is out of range").and_then(time_from_millis),
        _ => Err("must be a string or a whole number of milliseconds"),
    };
    time.map_err(|problem| ApiError::field_error("scheduled_at", problem))
}

/// From the header or the body; both may say the same.
fn idempotency_key<'a>(body: Option<Given<'a>>, header: Option<&'a str>) -> Result<Option<Cow<'a, str>>, ApiError> {
    let wrong = |problem: &'static str| Err(ApiError::field_error("idempotency_key", problem));
    match (body, header) {
        (None, None) => Ok(None),
        (None, Some(header)) => Ok(Some(Cow::Borrowed(header))),
        (Some(Given::Text(body)), None) => Ok(Some(body)),
        (Some(Given::Text(body)), Some(header)) if body == header => Ok(Some(body)),
        (Some(Given::Text(_)), Some(_)) => wrong("is not the same as the Idempotency-Key header; give one of them"),
        (Some(_), _) => wrong("must be a string"),
    }
}

/// Only requests with a key pay for this second reading.
fn idempotency(key: Cow<'_, str>, text: &str) -> Result<IdempotencyKey, HttpError> {
    let value: Value = serde_json::from_str(text).map_err(|error| wrong(text, &error))?;
    Ok(IdempotencyKey { key: key.into_owned(), body: body_hash(&value) })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    fn json() -> impl Strategy<Value = String> {
        let value = prop_oneof![
            Just("null".to_owned()),
            Just("[]".to_owned()),
            Just("{}".to_owned()),
            Just("1e400".to_owned()),
            any::<i64>().prop_map(|number| number.to_string()),
            any::<f64>().prop_map(|number| number.to_string()),
            ".{0,8}".prop_map(|text| serde_json::Value::from(text).to_string()),
        ];
        let value = value.prop_recursive(2, 8, 3, |value| {
            prop_oneof![
                proptest::collection::vec(value.clone(), 0..3).prop_map(|items| format!("[{}]", items.join(","))),
                value.prop_map(|value| format!("{{\"number\":{value},\"message\":{value}}}")),
            ]
        });
        let name = prop_oneof![
            Just("number"),
            Just("recipients"),
            Just("message"),
            Just("messages"),
            Just("media"),
            Just("reference_id"),
            Just("scheduled_at"),
            Just("priority"),
            Just("idempotency_key"),
        ];
        let field = (name, value).prop_map(|(name, value)| format!("\"{name}\":{value}"));
        proptest::collection::vec(field, 0..4).prop_map(|fields| format!("{{{}}}", fields.join(",")))
    }

    proptest! {
        #[test]
        fn no_body_is_a_fault_of_ours(text in json(), cut in 0usize..100) {
            for bytes in [text.as_bytes(), text.as_bytes().get(..cut).unwrap_or_default()] {
                if let Err(error) = super::read(bytes, None) {
                    let status = axum::response::IntoResponse::into_response(error).status().as_u16();
                    prop_assert!(matches!(status, 400 | 422 | 501), "{status}");
                }
            }
        }
    }
}
