//! Errors of the admin HTTP: `{"success":false,"error","code","field"?}`.

use axum::http::{Method, StatusCode, Uri};
use axum::response::{IntoResponse, Json, Response};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::error::Category;

/// An error as it is answered.
#[derive(Debug, Serialize)]
pub(super) struct AdminError {
    #[serde(skip)]
    status: u16,
    success: bool,
    error: String,
    code: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    field: Option<&'static str>,
}

impl AdminError {
    pub(super) fn new(status: u16, code: &str, error: String) -> Self {
        Self { status, success: false, error, code: code.to_owned(), field: None }
    }

    pub(super) fn about(self, field: Option<&'static str>) -> Self {
        Self { field, ..self }
    }
}

impl IntoResponse for AdminError {
    fn into_response(self) -> Response {
        let status = StatusCode::from_u16(self.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        (status, Json(self)).into_response()
    }
}

/// Reads a body as JSON.
pub(super) fn parse<T: DeserializeOwned>(body: &[u8]) -> Result<T, AdminError> {
    serde_json::from_slice(body).map_err(|error| match error.classify() {
        Category::Data => AdminError::new(422, "invalid_field", format!("{error}")),
        _ => AdminError::new(400, "invalid_json", format!("the body is not JSON: {error}")),
    })
}

pub(super) async fn no_such_path(uri: Uri) -> AdminError {
    AdminError::new(404, "not_found", format!("there is nothing at {}", uri.path()))
}

pub(super) async fn no_such_method(method: Method, uri: Uri) -> AdminError {
    let error = format!("{} does not take {method}", uri.path());
    AdminError::new(405, "method_not_allowed", error)
}
