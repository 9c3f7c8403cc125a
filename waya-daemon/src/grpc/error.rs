//! Every refusal of the use cases as a gRPC status, in this one place.

use tonic::metadata::MetadataValue;
use tonic::{Code, Status};
use waya_proto::{ERROR_CODE, ERROR_FIELD};

use crate::api::ApiError;

/// By the error's code, which the metadata carries too.
impl From<ApiError> for Status {
    fn from(error: ApiError) -> Self {
        let grpc = match error.code() {
            "invalid_recipient" | "invalid_field" | "nothing_to_send" | "too_large" | "invalid_media" => {
                Code::InvalidArgument
            }
            "recipient_not_allowed" | "recipient_opted_out" => Code::PermissionDenied,
            "not_found" | "no_media" => Code::NotFound,
            "idempotency_conflict" => Code::AlreadyExists,
            "not_implemented" => Code::Unimplemented,
            "store_unavailable" => Code::Unavailable,
            "internal" => Code::Internal,
            // What it asks for does not fit how things stand.
            _ => Code::FailedPrecondition,
        };
        if matches!(grpc, Code::Unavailable | Code::Internal) {
            tracing::warn!(%error, code = error.code(), "a gRPC call failed");
        }
        refusal(grpc, error.to_string(), error.code(), error.field())
    }
}

/// A status with its code, and its field if one is meant.
pub(super) fn refusal(grpc: Code, message: impl Into<String>, code: &'static str, field: Option<&str>) -> Status {
    let mut status = Status::new(grpc, message);
    status.metadata_mut().insert(ERROR_CODE, MetadataValue::from_static(code));
    // Fields are plain words of the contract, so they always fit.
    if let Some(Ok(field)) = field.map(MetadataValue::try_from) {
        status.metadata_mut().insert(ERROR_FIELD, field);
    }
    status
}

/// The daemon stops: a stream that would go on ends with this.
pub(super) fn stopping() -> Status {
    Status::unavailable("the daemon is stopping")
}

/// A number that this version has no name for.
pub(super) fn unknown_value(field: &'static str) -> Status {
    ApiError::field_error(field, "has a value that this version does not know").into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::session::SessionError;
    use crate::settings::SettingsError;
    use crate::store::StoreError;

    #[test]
    fn every_refusal_has_its_status_and_keeps_its_code() {
        let pinned = SettingsError::Pinned { key: "queue.delay", origin: "/etc/waya.toml:3".to_owned() };
        for (error, grpc, code) in [
            (ApiError::field_error("after", "is no cursor"), Code::InvalidArgument, "invalid_field"),
            (ApiError::NothingToSend { field: "message".to_owned() }, Code::InvalidArgument, "nothing_to_send"),
            (ApiError::NoSuchMessage("x".to_owned()), Code::NotFound, "not_found"),
            (ApiError::IdempotencyConflict, Code::AlreadyExists, "idempotency_conflict"),
            (ApiError::NotCancellable(crate::model::Status::Sent), Code::FailedPrecondition, "not_cancellable"),
            (ApiError::Setting(pinned), Code::FailedPrecondition, "pinned"),
            (ApiError::Session(SessionError::AlreadyLinked), Code::FailedPrecondition, "already_linked"),
            (ApiError::Session(SessionError::Offline), Code::FailedPrecondition, "not_connected"),
            (StoreError::Unavailable("disk".to_owned()).into(), Code::Unavailable, "store_unavailable"),
            (ApiError::NotImplemented("media".into()), Code::Unimplemented, "not_implemented"),
        ] {
            let words = error.to_string();
            let status = Status::from(error);
            assert_eq!((status.code(), status.message()), (grpc, words.as_str()));
            assert_eq!(status.metadata().get(ERROR_CODE).unwrap().to_str().unwrap(), code);
        }
        let status = Status::from(ApiError::field_error("after", "is no cursor"));
        assert_eq!(status.metadata().get(ERROR_FIELD).unwrap().to_str().unwrap(), "after");
    }
}
