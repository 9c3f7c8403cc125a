//! What is done to messages that are there. Each is a message of its own in the queue: 202 once it is on disk.

use axum::Json;
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, Request, State};
use axum::http::StatusCode;
use serde::Deserialize;
use serde_json::Value;

use crate::api::ApiError;
use crate::api::view::SendAnswer;
use crate::http::Door;
use crate::http::body::{path_error, read_json};
use crate::http::error::HttpError;
use crate::model::Source;

type Accepted = (StatusCode, Json<SendAnswer>);
type Answer = Result<Accepted, HttpError>;

#[derive(Deserialize)]
#[serde(expecting = "a JSON object with message")]
struct EditBody {
    message: String,
}

#[derive(Deserialize)]
#[serde(expecting = "a JSON object with emoji")]
struct ReactBody {
    emoji: String,
}

#[derive(Deserialize)]
#[serde(expecting = "a JSON object with number, or with recipients")]
struct ForwardBody {
    number: Option<Value>,
    recipients: Option<Vec<Value>>,
}

/// `PATCH /api/messages/:id`: another text for a message that was sent.
pub(in crate::http) async fn edit(
    State(door): State<Door>,
    path: Result<Path<String>, PathRejection>,
    request: Request,
) -> Answer {
    let Path(id) = path.map_err(path_error)?;
    let EditBody { message } = body(&door, request).await?;
    Ok(accepted(door.api.edit(&id, message, Source::Api).await?))
}

/// `DELETE /api/messages/:id`: takes a message back for everybody.
pub(in crate::http) async fn revoke(State(door): State<Door>, path: Result<Path<String>, PathRejection>) -> Answer {
    let Path(id) = path.map_err(path_error)?;
    Ok(accepted(door.api.revoke(&id, Source::Api).await?))
}

/// `PUT /api/messages/:id/reaction`: an emoji under a message.
pub(in crate::http) async fn react(
    State(door): State<Door>,
    path: Result<Path<String>, PathRejection>,
    request: Request,
) -> Answer {
    let Path(id) = path.map_err(path_error)?;
    let ReactBody { emoji } = body(&door, request).await?;
    Ok(accepted(door.api.react(&id, emoji, Source::Api).await?))
}

/// `DELETE /api/messages/:id/reaction`: takes the emoji back.
pub(in crate::http) async fn take_back(State(door): State<Door>, path: Result<Path<String>, PathRejection>) -> Answer {
    let Path(id) = path.map_err(path_error)?;
    Ok(accepted(door.api.react(&id, String::new(), Source::Api).await?))
}

/// `POST /api/messages/:id/forward`: passes a message on.
pub(in crate::http) async fn forward(
    State(door): State<Door>,
    path: Result<Path<String>, PathRejection>,
    request: Request,
) -> Answer {
    let Path(id) = path.map_err(path_error)?;
    let recipients = match body(&door, request).await? {
        ForwardBody { number: Some(number), recipients: None } => vec![recipient("number".to_owned(), number)?],
        ForwardBody { number: None, recipients: Some(recipients) } => {
            let recipient = |(index, value)| recipient(format!("recipients[{index}]"), value);
            recipients.into_iter().enumerate().map(recipient).collect::<Result<_, _>>()?
        }
        _ => return Err(ApiError::field_error("recipients", "give exactly one of number and recipients").into()),
    };
    Ok(accepted(door.api.forward(&id, recipients, Source::Api).await?))
}

fn accepted(answer: SendAnswer) -> Accepted {
    (StatusCode::ACCEPTED, Json(answer))
}

async fn body<T: for<'de> Deserialize<'de>>(door: &Door, request: Request) -> Result<T, HttpError> {
    let (head, body) = request.into_parts();
    let bytes = read_json(&head.headers, body, &door.options).await?;
    serde_json::from_slice(&bytes).map_err(|error| {
        if error.is_data() {
            return ApiError::field_error("body", error.to_string()).into();
        }
        HttpError::InvalidJson(format!("the body is broken JSON: {error}"))
    })
}

fn recipient(field: String, value: Value) -> Result<String, ApiError> {
    match value {
        Value::String(text) => Ok(text),
        Value::Number(number) if number.is_u64() => Ok(number.to_string()),
        _ => Err(ApiError::field_error(field, "must be a string or a whole number")),
    }
}
