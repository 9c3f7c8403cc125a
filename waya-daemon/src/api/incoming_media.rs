//! The files of messages, for callers: of incoming ones loaded when they are asked for, of outgoing ones as they are kept.

use std::path::PathBuf;

use super::found::Found;
use super::{Api, ApiError};
use crate::intake::{self, LoadError};
use crate::media::MediaError;
use crate::model::{Body, Incoming, MediaHash};
use crate::session::SendError;

/// A message's file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MediaFile {
    /// Where it lies.
    pub path: PathBuf,
    /// Its length in bytes.
    pub size: u64,
    /// Its MIME type.
    pub mimetype: String,
    /// Its name, if it has one.
    pub filename: Option<String>,
}

impl Api {
    /// The file of a message, named by queue id, reference or WhatsApp's id. One that came in is loaded from WhatsApp's
    /// servers the first time, and kept for `media.keep_days` after its last use.
    ///
    /// # Errors
    /// There is no such message, it has no file, or the file cannot be had.
    pub async fn message_media(&self, id: &str) -> Result<MediaFile, ApiError> {
        match self.named(id).await?.ok_or_else(|| ApiError::NoSuchMessage(id.to_owned()))? {
            Found::Ours(message) => match message.content.body {
                Body::Media(file) => self.file(file.hash, file.mimetype, file.filename).await,
                _ => Err(ApiError::NoMedia),
            },
            Found::Theirs(incoming) => self.load(*incoming).await,
        }
    }

    async fn file(&self, hash: MediaHash, mimetype: String, filename: Option<String>) -> Result<MediaFile, ApiError> {
        let stored = self.0.media.stored(hash).await.map_err(|problem| match problem {
            MediaError::Gone => ApiError::MediaGone("the file is not kept any more".to_owned()),
            problem => ApiError::InvalidMedia { field: "media".to_owned(), problem },
        })?;
        Ok(MediaFile { path: self.0.media.path(hash), size: stored.size, mimetype, filename })
    }

    async fn load(&self, incoming: Incoming) -> Result<MediaFile, ApiError> {
        let told = self.0.whatsapp.file_of(&incoming.raw).ok_or(ApiError::NoMedia)?;
        let mimetype = told.mimetype.unwrap_or_else(|| "application/octet-stream".to_owned());
        if let Some(hash) = told.hash
            && let Ok(file) = self.file(hash, mimetype.clone(), told.filename.clone()).await
        {
            return Ok(file);
        }
        let limit = self.0.media.limits().download;
        let stored = intake::load(&self.0.media, &*self.0.whatsapp, incoming.raw, limit).await;
        let stored = stored.map_err(|error| match error {
            LoadError::WhatsApp(SendError::Offline) => ApiError::Session(crate::session::SessionError::Offline),
            LoadError::WhatsApp(SendError::Transient(reason) | SendError::Permanent(reason)) => {
                ApiError::MediaGone(reason)
            }
            LoadError::Media(problem) => ApiError::InvalidMedia { field: "media".to_owned(), problem },
        })?;
        Ok(MediaFile { path: self.0.media.path(stored.hash), size: stored.size, mimetype, filename: told.filename })
    }
}
