//! What can go wrong, in the words and with the exit code the user sees. The one error map of this transport.

use std::io;

use tonic::{Code, Status};

use crate::exit_code::ExitCode;

/// A command ended without doing what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum CliError {
    /// What this side found out by itself.
    #[error("{message}")]
    Here {
        /// What the shell is told.
        code: ExitCode,
        /// What is wrong.
        message: String,
        /// What to do about it, where that is known.
        hint: Option<String>,
    },
    /// The daemon answered with an error.
    #[error("{}", told(.0))]
    Daemon(Box<Status>),
    /// Output could not be written, or input not be read.
    #[error("{0}")]
    Io(#[from] io::Error),
}

impl From<Status> for CliError {
    fn from(status: Status) -> Self {
        Self::Daemon(Box::new(status))
    }
}

impl CliError {
    /// An error with its exit code and a hint.
    pub fn new(code: ExitCode, message: impl Into<String>, hint: impl Into<String>) -> Self {
        Self::Here { code, message: message.into(), hint: Some(hint.into()) }
    }

    /// An error whose message says it all.
    pub fn plain(code: ExitCode, message: impl Into<String>) -> Self {
        Self::Here { code, message: message.into(), hint: None }
    }

    /// The command line itself is wrong.
    pub fn usage(message: impl Into<String>, hint: impl Into<String>) -> Self {
        Self::new(ExitCode::Usage, message, hint)
    }

    /// Whoever read the output went away, which is nobody's fault.
    pub fn is_broken_pipe(&self) -> bool {
        matches!(self, Self::Io(error) if error.kind() == io::ErrorKind::BrokenPipe)
    }

    /// What the shell is told.
    pub fn exit_code(&self) -> ExitCode {
        match self {
            Self::Here { code, .. } => *code,
            Self::Daemon(status) => of_status(status),
            Self::Io(_) => ExitCode::Unexpected,
        }
    }

    /// What to do about it, where that is known.
    pub fn hint(&self) -> Option<&str> {
        match self {
            Self::Here { hint, .. } => hint.as_deref(),
            Self::Daemon(status) => hint_of(status),
            Self::Io(_) => None,
        }
    }
}

/// The `snake_case` code of a refused call; empty when the daemon gave none.
fn code(status: &Status) -> &str {
    status.metadata().get(waya_proto::ERROR_CODE).and_then(|value| value.to_str().ok()).unwrap_or_default()
}

/// The connection broke before an answer came: such errors are tonic's own and carry no code of ours.
fn broke_off(status: &Status) -> bool {
    code(status).is_empty() && matches!(status.code(), Code::Unavailable | Code::Cancelled | Code::Unknown)
}

fn told(status: &Status) -> String {
    if broke_off(status) {
        return format!("the daemon broke the call off: {}", status.message());
    }
    match status.message() {
        "" => format!("the daemon refused: {}", status.code()),
        message => message.to_owned(),
    }
}

fn of_status(status: &Status) -> ExitCode {
    match (code(status), status.code()) {
        ("offline" | "not_connected" | "not_linked", _) => ExitCode::NotConnected,
        ("store_unavailable" | "internal", _) => ExitCode::Unexpected,
        ("not_implemented", _)
        | (
            _,
            Code::InvalidArgument
            | Code::NotFound
            | Code::AlreadyExists
            | Code::PermissionDenied
            | Code::FailedPrecondition
            | Code::ResourceExhausted
            | Code::OutOfRange
            | Code::Aborted
            | Code::Unauthenticated,
        ) => ExitCode::Refused,
        (_, Code::DeadlineExceeded) => ExitCode::TimedOut,
        _ if broke_off(status) => ExitCode::Unreachable,
        _ => ExitCode::Unexpected,
    }
}

fn hint_of(status: &Status) -> Option<&'static str> {
    Some(match code(status) {
        "not_connected" | "offline" => "see `waya status`",
        "passkey_not_asked" => "see `waya status`; `waya login` shows what to do next",
        "refused_by_whatsapp" => "see `waya status`; the daemon's log says more",
        "not_linked" => "link an account with `waya login`",
        "recipient_opted_out" => "see `waya opt-outs list`",
        "recipient_not_allowed" => "see `waya settings get allowed_numbers`",
        "idempotency_conflict" => "use a new key for a new message",
        "not_cancellable" => "see `waya message ID`; what has left cannot be cancelled",
        "store_unavailable" => "see the daemon's log, the disk's free space and the data folder's permissions",
        "rate_limited" => "try again a little later",
        "" if status.code() == Code::Unimplemented => "the daemon is older than this command; update and restart it",
        "" if broke_off(status) => "see the daemon's log; `waya status` tells whether it is back",
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use tonic::metadata::MetadataMap;

    fn refused(grpc: Code, code: &'static str) -> CliError {
        let mut metadata = MetadataMap::new();
        if !code.is_empty() {
            metadata.insert(waya_proto::ERROR_CODE, code.parse().unwrap());
        }
        Status::with_metadata(grpc, "what is wrong", metadata).into()
    }

    #[test]
    fn every_refusal_has_its_exit_code() {
        for (grpc, code, expected) in [
            (Code::InvalidArgument, "invalid_recipient", ExitCode::Refused),
            (Code::InvalidArgument, "nothing_to_send", ExitCode::Refused),
            (Code::PermissionDenied, "recipient_not_allowed", ExitCode::Refused),
            (Code::PermissionDenied, "recipient_opted_out", ExitCode::Refused),
            (Code::NotFound, "not_found", ExitCode::Refused),
            (Code::FailedPrecondition, "pinned", ExitCode::Refused),
            (Code::AlreadyExists, "idempotency_conflict", ExitCode::Refused),
            (Code::Unimplemented, "not_implemented", ExitCode::Refused),
            (Code::Unavailable, "store_unavailable", ExitCode::Unexpected),
            (Code::FailedPrecondition, "not_connected", ExitCode::NotConnected),
            (Code::Unavailable, "", ExitCode::Unreachable),
            (Code::Unimplemented, "", ExitCode::Unexpected),
            (Code::Internal, "", ExitCode::Unexpected),
            (Code::DeadlineExceeded, "timeout", ExitCode::TimedOut),
        ] {
            assert_eq!(refused(grpc, code).exit_code(), expected, "{grpc:?} {code}");
        }
    }

    #[test]
    fn only_a_broken_pipe_is_success() {
        assert!(CliError::from(io::Error::from(io::ErrorKind::BrokenPipe)).is_broken_pipe());
        assert!(!CliError::from(io::Error::from(io::ErrorKind::StorageFull)).is_broken_pipe());
        assert!(!refused(Code::Unknown, "").is_broken_pipe());
    }

    #[test]
    fn a_broken_call_is_told_apart_from_a_refusal() {
        assert_eq!(refused(Code::NotFound, "not_found").to_string(), "what is wrong");
        assert_eq!(refused(Code::Unavailable, "").to_string(), "the daemon broke the call off: what is wrong");
        assert!(refused(Code::Unavailable, "").hint().is_some());
    }
}
