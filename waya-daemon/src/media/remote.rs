//! Files that are named by an address: fetched through the guard, straight into a file.

use std::borrow::Cow;
use std::time::Duration;

use percent_encoding::percent_decode_str;

use super::files::Stored;
use super::{Media, MediaError, kind};
use crate::model::{Attachment, MediaHints, Remote};
use crate::net::{Answer, FetchError, Limits, Request, Trust};

/// All of a fetch may take this long.
const TAKES_AT_MOST: Duration = Duration::from_mins(2);

impl Media {
    /// Whether an address can be one of a file at all; nothing is asked of the network.
    ///
    /// # Errors
    /// [`MediaError::BadUrl`].
    pub fn check_url(&self, url: &str) -> Result<(), MediaError> {
        let scheme = url.trim().split_once("://").map(|(scheme, _)| scheme.to_ascii_lowercase());
        match scheme.as_deref() {
            Some("http" | "https") => Ok(()),
            _ => Err(MediaError::BadUrl),
        }
    }

    /// Fetches a file.
    ///
    /// # Errors
    /// [`MediaError`] when it cannot be had, or cannot be sent.
    pub async fn take_url(&self, url: &str, hints: MediaHints) -> Result<Attachment, MediaError> {
        let (stored, hints) = self.fetch(url, hints).await?;
        self.describe(stored, hints).await
    }

    /// The same of a file that words go with: what can carry none becomes a document, which can.
    ///
    /// # Errors
    /// As [`Media::take_url`].
    pub async fn take_url_with_words(&self, url: &str, hints: MediaHints) -> Result<Attachment, MediaError> {
        let (stored, hints) = self.fetch(url, hints).await?;
        let attachment = self.describe(stored.clone(), hints.clone()).await?;
        if attachment.kind.has_caption() {
            return Ok(attachment);
        }
        self.describe(stored, MediaHints { voice: false, document: true, ..hints }).await
    }

    /// The file, and what is known of it beside its content.
    async fn fetch(&self, url: &str, hints: MediaHints) -> Result<(Stored, MediaHints), MediaError> {
        self.check_url(url)?;
        let limits = self.limits();
        let most = limits.document.max(limits.media);
        let mut request = Request::get(url.trim(), Trust::Caller);
        request.limits = Limits { total: TAKES_AT_MOST, size: most, ..request.limits };
        let mut answer = self.0.fetcher.fetch(request).await.map_err(unfetched)?;
        let status = answer.status();
        if !status.is_success() {
            return Err(MediaError::Status(status.as_u16()));
        }
        let hints = told(&answer, hints)?;
        let mut writer = self.writer()?;
        while let Some(piece) = answer.chunk().await.map_err(unfetched)? {
            writer.write(&piece)?;
        }
        Ok((writer.finish().await?, hints))
    }
}

/// Whether a file that is fetched later will carry no words, as far as its address and its caller tell.
#[must_use]
pub fn seems_wordless(remote: &Remote) -> bool {
    let path = remote.url.trim().split(['?', '#']).next().unwrap_or_default();
    kind::expected(&remote.hints, path_name(path).as_deref()).is_some_and(|kind| !kind.has_caption())
}

/// Too large is too large, however a file comes.
fn unfetched(error: FetchError) -> MediaError {
    match error {
        FetchError::TooLarge { limit } => {
            MediaError::TooLarge { what: "files", limit, setting: "media.max_document_size" }
        }
        error => MediaError::Fetch(error),
    }
}

/// What the server says of the file stands behind what the caller says.
fn told(answer: &Answer, hints: MediaHints) -> Result<MediaHints, MediaError> {
    // A page instead of a file is what most dead links answer with.
    let media_type = answer.media_type();
    if media_type.as_deref() == Some("text/html") && hints.mimetype.is_none() && !hints.document {
        return Err(MediaError::Page);
    }
    let disposition = answer.headers().get("content-disposition").and_then(|value| value.to_str().ok());
    let filename =
        hints.filename.or_else(|| disposition.and_then(disposition_name)).or_else(|| path_name(answer.url().path()));
    // Only the content is believed of pictures and the like; the server's word counts where nothing shows.
    let from_server = media_type.filter(|kind| matches!(kind.split('/').next(), Some("application" | "text")));
    Ok(MediaHints {
        mimetype: hints.mimetype.or(from_server.filter(|kind| kind != "application/pdf")),
        filename,
        ..hints
    })
}

/// The name that a server gives a file (RFC 6266; the simple forms that servers send).
fn disposition_name(header: &str) -> Option<String> {
    let field = |name: &str| {
        header.split(';').map(str::trim).find_map(|part| {
            let (key, value) = part.split_once('=')?;
            key.trim().eq_ignore_ascii_case(name).then(|| value.trim().trim_matches('"').to_owned())
        })
    };
    let extended = field("filename*").and_then(|value| {
        let (_, encoded) = value.split_once("''")?;
        percent_decode_str(encoded).decode_utf8().ok().map(Cow::into_owned)
    });
    extended.or_else(|| field("filename")).filter(|name| !name.is_empty())
}

/// The last part of a path, when it looks like a file's name.
fn path_name(path: &str) -> Option<String> {
    let last = path.rsplit('/').next().filter(|last| last.contains('.'))?;
    percent_decode_str(last).decode_utf8().ok().map(Cow::into_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_off_what_servers_send() {
        for (header, name) in [
            ("attachment; filename=\"nota juli.pdf\"", Some("nota juli.pdf")),
            ("attachment; filename=nota.pdf", Some("nota.pdf")),
            ("inline; filename=\"x\"; filename*=UTF-8''n%C3%A4me.pdf", Some("näme.pdf")),
            ("attachment", None),
        ] {
            assert_eq!(disposition_name(header).as_deref(), name, "{header}");
        }
        assert_eq!(path_name("/a/foto%20saya.jpg").as_deref(), Some("foto saya.jpg"));
        assert_eq!(path_name("/a/"), None);
    }

    #[test]
    fn what_is_no_caption_s_place_shows_in_its_address_or_by_its_caller_s_word() {
        let remote = |url: &str, hints: MediaHints| Remote { url: url.to_owned(), hints };
        let none = MediaHints::default;
        for (wordless, url, hints) in [
            (true, "https://a.test/lagu.mp3", none()),
            (true, "https://a.test/stiker.webp?v=2#x", none()),
            (true, "https://a.test/x", MediaHints { mimetype: Some("audio/mp3".to_owned()), ..none() }),
            (true, "https://a.test/x", MediaHints { filename: Some("rekaman.m4a".to_owned()), ..none() }),
            (true, "https://a.test/foto.png", MediaHints { voice: true, ..none() }),
            (false, "https://a.test/lagu.mp3", MediaHints { document: true, ..none() }),
            (false, "https://a.test/lagu.mp3", MediaHints { mimetype: Some("image/png".to_owned()), ..none() }),
            (false, "https://a.test/suara.wav", none()),
            (false, "https://a.test/foto.png?name=lagu.mp3", none()),
            (false, "https://a.test/", none()),
            (false, "", none()),
        ] {
            assert_eq!(seems_wordless(&remote(url, hints)), wordless, "{url}");
        }
    }
}
