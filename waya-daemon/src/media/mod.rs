//! Files that go out and come in: kept by their hash, looked at, made ready, forgotten.
//!
//! ```text
//! <data>/media/<sha256>                the file, fsynced before anything names it
//! <data>/media/<sha256>.<kind>.sent    how messages speak of it once it is on WhatsApp's servers
//! ```
//!
//! Owns that folder. Woken by its callers and, for the sweep, by time. It never decides whether a message may leave,
//! and keeps no file in memory.

mod base64;
mod convert;
mod facts;
mod files;
mod kind;
mod limits;
mod mp4;
mod pdf;
mod picture;
mod previews;
mod remote;
mod sniff;
mod sweep;
mod uploads;

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;

use crate::model::{Attachment, MediaHash, MediaHints, MediaKind};
use crate::net::{FetchError, Fetcher};

pub use files::{Stored, Writer};
pub use limits::Limits;
pub use previews::Shown;
pub use remote::seems_wordless;

/// A file cannot be taken, or not be made ready. The words follow the name of the field that named it.
#[derive(Debug, thiserror::Error)]
pub enum MediaError {
    /// Nothing in it.
    #[error("is empty; a file needs at least one byte")]
    Empty,
    /// Over a limit.
    #[error("is larger than the {limit} bytes that {setting} allows for {what}")]
    TooLarge {
        /// What the limit is for.
        what: &'static str,
        /// In bytes.
        limit: u64,
        /// The setting that says so.
        setting: &'static str,
    },
    /// The text is no base64.
    #[error("is not base64: {0}")]
    NotBase64(String),
    /// The MIME type cannot be one.
    #[error("{0:?} is not a MIME type; expected TYPE/SUBTYPE such as application/pdf")]
    BadMimetype(String),
    /// The content is something else than what it was said to be.
    #[error("is said to be {declared}, but its content is {found}; leave mimetype out, or correct it")]
    WrongType {
        /// What the caller said.
        declared: String,
        /// What it is.
        found: &'static str,
    },
    /// A voice note of something that is no sound.
    #[error("is to be a voice note, but its content is {0}")]
    NoSound(&'static str),
    /// The program that converts is not there.
    #[error(
        "has to be converted to ogg/opus for a voice note, and ffmpeg is not installed; install ffmpeg, or send ogg/opus"
    )]
    NoFfmpeg,
    /// The program that converts could not.
    #[error("cannot be converted: {0}")]
    Conversion(String),
    /// No address of a file.
    #[error("has no usable url; give one that begins with http:// or https://")]
    BadUrl,
    /// The file could not be fetched.
    #[error("cannot be fetched: {0}")]
    Fetch(#[source] FetchError),
    /// The server had no file.
    #[error("cannot be fetched: the server answered {0}")]
    Status(u16),
    /// The server had a page where a file was expected.
    #[error("cannot be fetched: the server answered with a web page; give the address of the file itself")]
    Page,
    /// It is not kept any more.
    #[error("is not kept any more (media.keep_days); send it anew")]
    Gone,
    /// The disk said no.
    #[error("cannot be kept: {0}")]
    Io(#[from] io::Error),
}

/// A cheap handle to the files of one account.
#[derive(Debug, Clone)]
pub struct Media(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    files: files::Files,
    uploads: uploads::Uploads,
    limits: watch::Receiver<Limits>,
    fetcher: Fetcher,
    previews: previews::Previews,
    with_previews: watch::Receiver<bool>,
}

impl Media {
    /// Makes the folder if need be, and drops what a crash left half-written. `with_previews`: whether links get one.
    ///
    /// # Errors
    /// When the folder cannot be made or read.
    pub fn open(
        dir: &Path,
        limits: watch::Receiver<Limits>,
        fetcher: Fetcher,
        with_previews: watch::Receiver<bool>,
    ) -> io::Result<Self> {
        let files = files::Files::open(dir)?;
        let uploads = uploads::Uploads::new(dir);
        Ok(Self(Arc::new(Inner {
            files,
            uploads,
            limits,
            fetcher,
            previews: previews::Previews::default(),
            with_previews,
        })))
    }

    /// The limits as they are now.
    #[must_use]
    pub fn limits(&self) -> Limits {
        *self.0.limits.borrow()
    }

    /// Takes a file in piece by piece, up to the largest that may be sent.
    ///
    /// # Errors
    /// When the disk says no.
    pub fn writer(&self) -> Result<Writer, MediaError> {
        let limits = self.limits();
        self.0.files.writer(limits.document.max(limits.media))
    }

    /// As [`Media::writer`], with a limit of the caller's own.
    ///
    /// # Errors
    /// When the disk says no.
    pub fn writer_up_to(&self, limit: u64) -> Result<Writer, MediaError> {
        self.0.files.writer(limit)
    }

    /// Takes in a file given in base64, with or without `data:…;base64,` in front, which may tell its MIME type.
    ///
    /// # Errors
    /// [`MediaError`] says what is wrong with it.
    pub async fn take_base64(&self, text: String, hints: MediaHints) -> Result<Attachment, MediaError> {
        let writer = self.writer()?;
        let (writer, told) = blocking(move || base64::decode(&text, writer)).await?;
        let stored = writer.finish().await?;
        let mimetype = hints.mimetype.or(told);
        self.describe(stored, MediaHints { mimetype, ..hints }).await
    }

    /// What a file that is kept will be sent as. What WhatsApp takes in one form only is converted.
    ///
    /// # Errors
    /// [`MediaError`] when it is not what it is said to be, too large for what it is, or cannot be converted.
    pub async fn describe(&self, stored: Stored, hints: MediaHints) -> Result<Attachment, MediaError> {
        let kind::Chosen { kind, mimetype, convert } = kind::choose(&stored.head, &hints)?;
        let (stored, kind, mimetype) = match convert {
            None => (stored, kind, mimetype),
            Some(conversion) => self.converted(stored, conversion).await?,
        };
        self.limits().check(kind, stored.size)?;
        let path = self.path(stored.hash);
        // What goes wrong in looking at a file is no reason not to send it.
        let facts = blocking(move || Ok(facts::of(&path, kind))).await.unwrap_or_default();
        let filename = (kind == MediaKind::Document).then(|| kind::filename(hints.filename.as_deref(), &mimetype));
        Ok(Attachment {
            hash: stored.hash,
            size: stored.size,
            kind,
            mimetype,
            filename,
            width: facts.width,
            height: facts.height,
            seconds: facts.seconds,
            pages: facts.pages,
        })
    }

    async fn converted(
        &self,
        stored: Stored,
        conversion: convert::Conversion,
    ) -> Result<(Stored, MediaKind, String), MediaError> {
        let limit = self.limits().media;
        match convert::run(&self.path(stored.hash), conversion, self.writer_up_to(limit)?).await {
            Ok(writer) => Ok((writer.finish().await?, conversion.kind(), conversion.mimetype().to_owned())),
            // A picture that moves can be looked at all the same.
            Err(MediaError::NoFfmpeg) if conversion == convert::Conversion::Gif => {
                tracing::info!("a GIF goes out as a document: ffmpeg, which makes a video of it, is not installed");
                Ok((stored, MediaKind::Document, "image/gif".to_owned()))
            }
            Err(error) => Err(error),
        }
    }

    /// Takes over a file that was kept before, by its hash.
    ///
    /// # Errors
    /// [`MediaError::Gone`].
    pub async fn stored(&self, hash: MediaHash) -> Result<Stored, MediaError> {
        let files = self.0.files.clone();
        blocking(move || files.stored(hash)).await
    }

    /// Where a file lies.
    #[must_use]
    pub fn path(&self, hash: MediaHash) -> PathBuf {
        self.0.files.path(hash)
    }

    /// A small picture of it, as JPEG; none for what cannot be pictured, and none of a video without ffmpeg.
    pub async fn thumbnail(&self, attachment: &Attachment) -> Option<Vec<u8>> {
        let (path, kind) = (self.path(attachment.hash), attachment.kind);
        if matches!(kind, MediaKind::Video | MediaKind::Gif) {
            let frame = convert::first_frame(&path).await?;
            return blocking(move || Ok(picture::thumbnail(&frame))).await.ok().flatten();
        }
        blocking(move || Ok(picture::thumbnail_of(&path, kind))).await.ok().flatten()
    }

    /// How messages speak of a file on WhatsApp's servers: as it was remembered, else as `upload` tells. Of several at
    /// once one uploads, and the others wait for it.
    ///
    /// # Errors
    /// What `upload` fails with.
    pub async fn uploaded<E>(
        &self,
        attachment: &Attachment,
        upload: impl Future<Output = Result<Vec<u8>, E>>,
    ) -> Result<Vec<u8>, E> {
        self.0.files.touch(attachment.hash);
        self.0.uploads.get_or(attachment, upload).await
    }

    /// Forgets the files that nobody needs: not named in `in_use`, and not used for `keep`. How many went.
    ///
    /// # Errors
    /// When the folder cannot be read.
    pub async fn sweep(
        &self,
        in_use: std::collections::HashSet<MediaHash>,
        keep: Duration,
    ) -> Result<usize, MediaError> {
        let files = self.0.files.clone();
        blocking(move || Ok(sweep::run(files.dir(), &in_use, keep)?)).await
    }
}

async fn blocking<R: Send + 'static>(
    work: impl FnOnce() -> Result<R, MediaError> + Send + 'static,
) -> Result<R, MediaError> {
    tokio::task::spawn_blocking(work).await.unwrap_or_else(|error| Err(io::Error::other(error.to_string()).into()))
}

#[cfg(test)]
mod tests;
