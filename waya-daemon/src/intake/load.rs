//! One file of a message that came in: from WhatsApp's servers into the folder of files.

use crate::media::{Media, MediaError, Stored};
use crate::session::{SendError, WhatsApp};

/// A file was not loaded.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// WhatsApp did not give it.
    #[error(transparent)]
    WhatsApp(#[from] SendError),
    /// It could not be kept.
    #[error("the file {0}")]
    Media(#[from] MediaError),
}

/// Loads the file of a message, given in its encoded form; at most `limit` bytes.
///
/// # Errors
/// [`LoadError`]; nothing is left of the file then.
pub async fn load(media: &Media, whatsapp: &dyn WhatsApp, raw: Vec<u8>, limit: u64) -> Result<Stored, LoadError> {
    let writer = media.writer_up_to(limit)?;
    let into = writer.handle().map_err(MediaError::from)?;
    whatsapp.download(raw, into, limit).await?;
    Ok(writer.reread_finish().await?)
}
