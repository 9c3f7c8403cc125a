//! A request to send, out of its protobuf form.

use prost::Message as _;
use serde_json::json;
use tonic::Status;
use waya_proto::v1::{self, media_input};

use super::error::unknown_value;
use crate::api::{
    ApiError, Content, IdempotencyKey, MediaInput, MediaSource, PersonalMessage, Priority, SendRequest, Special, What,
    body_hash, time_from_millis,
};
use crate::model::MediaHints;

/// In the words of the use case.
pub(super) fn send_request(request: v1::SendRequest) -> Result<SendRequest, Status> {
    let priority = match v1::Priority::try_from(request.priority).map_err(|_| unknown_value("priority"))? {
        v1::Priority::High => Priority::High,
        v1::Priority::Unspecified | v1::Priority::Normal => Priority::Normal,
        v1::Priority::Low => Priority::Low,
    };
    let scheduled_at = request
        .scheduled_at
        .map(time_from_millis)
        .transpose()
        .map_err(|problem| ApiError::field_error("scheduled_at", problem))?;
    let idempotency = request.idempotency_key.clone().map(|key| IdempotencyKey { key, body: hash(&request) });
    let (reference_id, dry_run) = (request.reference_id.clone(), request.dry_run);
    let content = content(request)?;
    Ok(SendRequest { content, reference_id, priority, scheduled_at, idempotency, dry_run, ..SendRequest::default() })
}

fn content(request: v1::SendRequest) -> Result<Content, Status> {
    if !request.personal.is_empty() {
        if !request.recipients.is_empty() {
            return Err(ApiError::field_error("recipients", "cannot go with personal messages").into());
        }
        return Ok(Content::Each(request.personal.into_iter().map(personal).collect::<Result<_, Status>>()?));
    }
    let special = special(request.location, request.contact, request.poll)?;
    let message = What {
        text: request.message,
        media: request.media.into_iter().map(media).collect::<Result<_, _>>()?,
        special,
        quoted: request.quoted.filter(|id| !id.is_empty()),
        mentions: request.mentions,
        no_preview: request.no_preview,
        ..What::default()
    };
    Ok(match <[String; 1]>::try_from(request.recipients) {
        Ok([number]) => Content::One { number, message },
        Err(recipients) => Content::Many { recipients, message },
    })
}

fn personal(one: v1::PersonalMessage) -> Result<PersonalMessage, Status> {
    let media = one.media.into_iter().map(media).collect::<Result<_, _>>()?;
    let message = What { text: one.message, media, ..What::default() };
    Ok(PersonalMessage { number: one.recipient, message, reference_id: one.reference_id })
}

fn special(
    location: Option<v1::Location>,
    contact: Option<v1::ContactCard>,
    poll: Option<v1::Poll>,
) -> Result<Option<Special>, Status> {
    match (location, contact, poll) {
        (None, None, None) => Ok(None),
        (Some(v1::Location { latitude, longitude, name, address }), None, None) => {
            Ok(Some(Special::Location { latitude, longitude, name, address }))
        }
        (None, Some(v1::ContactCard { name, number }), None) => Ok(Some(Special::Contact { name, number })),
        (None, None, Some(v1::Poll { question, options, selectable })) => {
            Ok(Some(Special::Poll { question, options, selectable }))
        }
        _ => Err(ApiError::field_error("location", "give one of location, contact and poll").into()),
    }
}

fn media(input: v1::MediaInput) -> Result<MediaInput, Status> {
    let hints =
        MediaHints { mimetype: input.mimetype, filename: input.filename, voice: input.voice, document: input.document };
    let source = match input.source {
        Some(media_input::Source::File(hash)) => {
            let hash = hash.parse().map_err(|_| ApiError::field_error("media", "is no hash that Upload gave"))?;
            MediaSource::Kept(hash)
        }
        Some(media_input::Source::Url(url)) if input.fetch_at_send => MediaSource::UrlAtSend(url),
        Some(media_input::Source::Url(url)) => MediaSource::Url(url),
        None => return Err(ApiError::field_error("media", "has no content; give file or url").into()),
    };
    Ok(MediaInput { source, hints })
}

/// What makes a repeat the same request.
fn hash(request: &v1::SendRequest) -> [u8; 32] {
    let bare = v1::SendRequest { idempotency_key: None, dry_run: false, ..request.clone() };
    body_hash(&json!({ "request": bare.encode_to_vec() }))
}
