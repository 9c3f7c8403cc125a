//! Every refusal of the use cases, once; each transport maps them in one place of its own.

use std::borrow::Cow;

use crate::deliver::DeliverError;
use crate::media::MediaError;
use crate::model::{InvalidRecipient, InvalidWebhookId, Status};
use crate::session::SessionError;
use crate::settings::SettingsError;
use crate::store::StoreError;

/// The request was not carried out. The wording is for users; [`ApiError::code`] is for programs.
#[derive(Debug, thiserror::Error)]
pub enum ApiError {
    /// A recipient that names nobody.
    #[error("{problem}")]
    InvalidRecipient {
        /// Where it stands in the request: `number`, `recipients[3]`, `messages[3].number`.
        field: String,
        /// What is wrong with it.
        problem: RecipientProblem,
    },
    /// The allow-list does not have this recipient.
    #[error(
        "{number} is not in allowed_numbers; add it with `waya settings set allowed_numbers …`, or set * to allow all"
    )]
    RecipientNotAllowed {
        /// Where it stands in the request.
        field: String,
        /// Whom it names.
        number: String,
    },
    /// The recipient wants no more messages.
    #[error("{number} asked for no more messages; `waya opt-outs remove {number}` takes that back")]
    RecipientOptedOut {
        /// Where it stands in the request.
        field: String,
        /// Whom it names.
        number: String,
    },
    /// Nobody of that address is on the do-not-send list.
    #[error("{0} is not on the do-not-send list; `waya opt-outs list` shows who is")]
    NotOptedOut(String),
    /// No text.
    #[error("there is nothing to send: give a text in {field}, or media")]
    NothingToSend {
        /// Where the text should be.
        field: String,
    },
    /// A field's value does not fit.
    #[error("{field}: {problem}")]
    InvalidField {
        /// Which field.
        field: Cow<'static, str>,
        /// What is wrong with it, and what would fit.
        problem: Cow<'static, str>,
    },
    /// Something that this version does not do.
    #[error("{0}")]
    NotImplemented(Cow<'static, str>),
    /// The request, carried out, would be too large.
    #[error("{0}")]
    TooLarge(String),
    /// A file cannot be sent.
    #[error("{field} {problem}")]
    InvalidMedia {
        /// Where it stands in the request.
        field: String,
        /// What is wrong with it.
        problem: MediaError,
    },
    /// A message without a file.
    #[error("the message has no file")]
    NoMedia,
    /// A file that cannot be had; why.
    #[error("the file cannot be had: {0}")]
    MediaGone(String),
    /// A message to which nothing can be done now.
    #[error("{0}")]
    NotPossible(&'static str),
    /// The idempotency key was used with another request.
    #[error("this Idempotency-Key was used with a different request within the last 24 hours; use a new one")]
    IdempotencyConflict,
    /// There is no such message.
    #[error("there is no message with the id or reference_id {0:?}")]
    NoSuchMessage(String),
    /// There is no such API key.
    #[error("there is no API key {0:?}; `waya settings api-key list` shows them all")]
    NoSuchKey(String),
    /// There is no such logged request.
    #[error("there is no logged request {0:?}; the newest 1,000 are kept")]
    NoSuchRequest(String),
    /// The request log cannot be read or written.
    #[error("the request log cannot be used: {0}")]
    RequestLog(std::io::Error),
    /// The message cannot be taken back any more.
    #[error("the message cannot be cancelled: it is {} already", .0.as_str())]
    NotCancellable(Status),
    /// The message need not be tried again.
    #[error("only a failed or cancelled message can be tried again; this one is {}", .0.as_str())]
    NotRetryable(Status),
    /// The text is no webhook's id.
    #[error(transparent)]
    NoSuchWebhook(InvalidWebhookId),
    /// Something cannot be done with webhooks.
    #[error(transparent)]
    Webhook(DeliverError),
    /// A setting was not read or changed.
    #[error(transparent)]
    Setting(SettingsError),
    /// The session refused.
    #[error(transparent)]
    Session(SessionError),
    /// The API key could not be written down.
    #[error("the API key could not be written: {0}")]
    KeyFile(std::io::Error),
    /// The store said no.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// What is wrong with a recipient.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RecipientProblem {
    /// Its form.
    #[error(transparent)]
    Form(#[from] InvalidRecipient),
    /// Longer than any recipient, in bytes.
    #[error("it has {0} bytes; a recipient is digits with country code, or a chat id")]
    TooLong(usize),
    /// `main`, and nobody said who that is.
    #[error("main_number is not set; set it with `waya settings set main_number NUMBER`")]
    NoMainNumber,
    /// A group that this account is not in.
    #[error("this account is not in the group {0}; join it first, or check the id")]
    NotInGroup(crate::model::ChatId),
    /// A category.
    #[error("category:{0} cannot be written to: this version has no categories yet; list the recipients instead")]
    Category(String),
}

impl ApiError {
    /// A field whose value does not fit.
    pub fn field_error(field: impl Into<Cow<'static, str>>, problem: impl Into<Cow<'static, str>>) -> Self {
        Self::InvalidField { field: field.into(), problem: problem.into() }
    }

    /// The word programs tell refusals apart by.
    #[must_use]
    pub const fn code(&self) -> &'static str {
        match self {
            Self::InvalidRecipient { .. } => "invalid_recipient",
            Self::RecipientNotAllowed { .. } => "recipient_not_allowed",
            Self::RecipientOptedOut { .. } => "recipient_opted_out",
            Self::NothingToSend { .. } => "nothing_to_send",
            Self::InvalidField { .. } | Self::Setting(SettingsError::Invalid { .. }) => "invalid_field",
            Self::NoMedia => "no_media",
            Self::MediaGone(_) => "media_unavailable",
            Self::NotPossible(_) => "not_possible",
            Self::NotImplemented(_) => "not_implemented",
            Self::TooLarge(_) | Self::InvalidMedia { problem: MediaError::TooLarge { .. }, .. } => "too_large",
            Self::IdempotencyConflict => "idempotency_conflict",
            Self::NoSuchMessage(_)
            | Self::NotOptedOut(_)
            | Self::NoSuchKey(_)
            | Self::NoSuchRequest(_)
            | Self::NoSuchWebhook(_)
            | Self::Webhook(DeliverError::Unknown(_) | DeliverError::Event(_) | DeliverError::NotParked(_))
            | Self::Setting(SettingsError::Unknown(_)) => "not_found",
            Self::Webhook(DeliverError::TooMany(_)) => "too_many",
            Self::NotCancellable(_) => "not_cancellable",
            Self::NotRetryable(_) => "not_retryable",
            Self::Setting(SettingsError::Pinned { .. }) => "pinned",
            Self::Session(SessionError::AlreadyLinked) => "already_linked",
            Self::Session(SessionError::NotLinked) => "not_linked",
            Self::Session(SessionError::Offline) => "not_connected",
            Self::Session(SessionError::NoPasskeyAsked | SessionError::NoCodeToConfirm) => "passkey_not_asked",
            Self::Session(SessionError::Refused(_)) => "refused_by_whatsapp",
            Self::Session(SessionError::Other(_)) | Self::KeyFile(_) | Self::RequestLog(_) => "internal",
            Self::Store(_)
            | Self::Setting(SettingsError::Store(_))
            | Self::Webhook(DeliverError::Store(_))
            | Self::InvalidMedia { problem: MediaError::Io(_), .. } => "store_unavailable",
            Self::InvalidMedia { .. } => "invalid_media",
        }
    }

    /// Which field of the request is meant, if one is.
    #[must_use]
    pub fn field(&self) -> Option<&str> {
        match self {
            Self::InvalidRecipient { field, .. }
            | Self::RecipientNotAllowed { field, .. }
            | Self::InvalidMedia { field, .. }
            | Self::RecipientOptedOut { field, .. }
            | Self::NothingToSend { field } => Some(field),
            Self::InvalidField { field, .. } => Some(field),
            Self::Setting(SettingsError::Invalid { key, .. }) => Some(key),
            _ => None,
        }
    }
}

impl From<SettingsError> for ApiError {
    fn from(error: SettingsError) -> Self {
        match error {
            SettingsError::Store(error) => Self::Store(error),
            error => Self::Setting(error),
        }
    }
}

impl From<SessionError> for ApiError {
    fn from(error: SessionError) -> Self {
        Self::Session(error)
    }
}
