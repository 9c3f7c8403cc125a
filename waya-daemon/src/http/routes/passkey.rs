//! The passkey that WhatsApp may ask for while it links an account.

use axum::Json;
use axum::extract::{Request, State};
use serde::Deserialize;
use serde::de::IgnoredAny;

use crate::api::view::SessionView;
use crate::api::{ApiError, Login};
use crate::http::Door;
use crate::http::body::read_json;
use crate::http::error::HttpError;

/// The body of a confirmation.
#[derive(Deserialize)]
struct Confirm {
    code: Option<String>,
}

/// `POST /api/session/passkey`: the body is the passkey's answer. 200 with the session once WhatsApp took it.
pub(in crate::http) async fn answer(
    State(door): State<Door>,
    request: Request,
) -> Result<Json<SessionView>, HttpError> {
    let text = body(&door, request).await?;
    serde_json::from_str::<IgnoredAny>(&text).map_err(|error| broken(&error))?;
    after(&door, door.api.answer_passkey(&text).await?).await
}

/// `POST /api/session/passkey/confirm` with `{"code"}`: 200 with the session once WhatsApp was told.
pub(in crate::http) async fn confirm(
    State(door): State<Door>,
    request: Request,
) -> Result<Json<SessionView>, HttpError> {
    let text = body(&door, request).await?;
    let Confirm { code } = match serde_json::from_str(&text) {
        Ok(body) => body,
        Err(error) if error.is_data() => {
            return Err(ApiError::field_error("code", "must be a string in a JSON object").into());
        }
        Err(error) => return Err(broken(&error)),
    };
    let code = code.ok_or_else(|| ApiError::field_error("code", "is missing; give the code that is shown"))?;
    after(&door, door.api.confirm_passkey(&code).await?).await
}

async fn body(door: &Door, request: Request) -> Result<String, HttpError> {
    let (head, body) = request.into_parts();
    let bytes = read_json(&head.headers, body, &door.options).await?;
    String::from_utf8(bytes).map_err(|error| {
        HttpError::InvalidJson(format!("the body is not valid UTF-8 (byte {})", error.utf8_error().valid_up_to()))
    })
}

fn broken(error: &serde_json::Error) -> HttpError {
    HttpError::InvalidJson(format!("the body is broken JSON: {error}"))
}

/// The session as it is next.
async fn after(door: &Door, mut login: Login) -> Result<Json<SessionView>, HttpError> {
    Ok(Json(login.next().await.unwrap_or_else(|| door.api.session())))
}
