//! Link previews: what the page behind a text's first link says of itself.
//!
//! Owns nothing and keeps nothing; whoever sends a text asks. A page that does not answer, or not well, is no error: the
//! text goes without a preview. Pictures are handed on as they come, undecoded.

mod charset;
mod head;
mod link;
mod picture;
#[cfg(test)]
mod tests;

use std::fmt;
use std::time::Duration;

use reqwest::Url;
use reqwest::header::{ACCEPT, CONTENT_TYPE, HeaderValue, USER_AGENT};
use tokio::time::Instant;

pub use picture::Picture;

use crate::net::{Answer, FetchError, Fetcher, Limits, Request, Trust};
use head::Head;

/// For page and picture together: a message waits for it.
const WITHIN: Duration = Duration::from_secs(5);
/// Without a connection, or a word on it, for so long, there will be no preview in time.
const SILENCE: Duration = Duration::from_secs(3);
/// What is read of a page, in bytes; its head stands in front.
const LONGEST_PAGE: usize = 512 * 1024;
/// The largest picture, in bytes.
const LARGEST_PICTURE: u64 = 1024 * 1024;
/// Many pages describe themselves only to programs that they know to make previews.
const AGENT: &str = concat!("Mozilla/5.0 (compatible; waya/", env!("CARGO_PKG_VERSION"), "; like WhatsApp/2)");

/// What is shown with a text. `Debug` leaves out what the text and the page say.
#[derive(Clone, PartialEq, Eq)]
pub struct Preview {
    /// The link as it stands in the text.
    pub url: String,
    /// Never empty.
    pub title: String,
    /// What the page adds to its title.
    pub description: Option<String>,
    /// The picture it wants to be shown with.
    pub picture: Option<Picture>,
}

impl fmt::Debug for Preview {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Preview")
            .field("description", &self.description.is_some())
            .field("picture", &self.picture)
            .finish_non_exhaustive()
    }
}

/// Why there is none.
#[derive(Debug, thiserror::Error)]
enum NoPreview {
    #[error(transparent)]
    Fetch(#[from] FetchError),
    #[error("its status is {0}")]
    Status(u16),
    #[error("it is no page")]
    NoPage,
    #[error("it has no title")]
    NoTitle,
    #[error("it is no picture that a phone shows")]
    NoPicture,
}

/// The first link of a text, as it is written.
#[must_use]
pub fn first_link(text: &str) -> Option<&str> {
    link::first(text).map(|link| link.written)
}

/// Makes the preview for a text, in five seconds or not at all.
pub async fn preview(fetcher: &Fetcher, text: &str) -> Option<Preview> {
    preview_within(fetcher, text, WITHIN).await
}

async fn preview_within(fetcher: &Fetcher, text: &str, within: Duration) -> Option<Preview> {
    let link = link::first(text)?;
    let begun = Instant::now();
    let (head, title, base) = match page(fetcher, &link.url, within).await {
        Ok(page) => page,
        Err(reason) => {
            tracing::debug!(%reason, "a link has no preview");
            return None;
        }
    };
    let picture = match head.image.and_then(|image| base.join(&image).ok()) {
        Some(url) => picture(fetcher, &url, within.saturating_sub(begun.elapsed())).await,
        None => None,
    };
    Some(Preview { url: link.written.to_owned(), title, description: head.description, picture })
}

/// What the page says, its title, and where it is in the end.
async fn page(fetcher: &Fetcher, url: &Url, within: Duration) -> Result<(Head, String, Url), NoPreview> {
    let limits = Limits { connect: SILENCE, idle: SILENCE, total: within, size: u64::MAX };
    let mut answer = fetcher.fetch(request(url, limits, "text/html,application/xhtml+xml")).await?;
    check_status(&answer)?;
    if !matches!(answer.media_type().as_deref(), Some("text/html" | "application/xhtml+xml")) {
        return Err(NoPreview::NoPage);
    }
    let html = front(&mut answer).await?;
    let declared = answer.headers().get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let mut head = head::read(&charset::decode(&html, declared));
    let title = head.title.take().ok_or(NoPreview::NoTitle)?;
    Ok((head, title, answer.url().clone()))
}

/// The page up to the end of its head.
async fn front(answer: &mut Answer) -> Result<Vec<u8>, FetchError> {
    const END: &[u8] = b"</head";
    let mut html = Vec::new();
    while let Some(piece) = answer.chunk().await? {
        // The end may lie across two pieces.
        let looked_at = html.len().saturating_sub(END.len() - 1);
        html.extend_from_slice(&piece);
        let ends = html[looked_at..].windows(END.len()).any(|window| window.eq_ignore_ascii_case(END));
        if ends || html.len() >= LONGEST_PAGE {
            html.truncate(LONGEST_PAGE);
            break;
        }
    }
    Ok(html)
}

/// A page without its picture is still a preview.
async fn picture(fetcher: &Fetcher, url: &Url, within: Duration) -> Option<Picture> {
    let limits = Limits { connect: SILENCE, idle: SILENCE, total: within, size: LARGEST_PICTURE };
    let fetched = async {
        let answer = fetcher.fetch(request(url, limits, "image/jpeg,image/png,image/webp,image/gif")).await?;
        check_status(&answer)?;
        Picture::sniff(answer.bytes().await?).ok_or(NoPreview::NoPicture)
    };
    fetched.await.inspect_err(|reason| tracing::debug!(%reason, "a preview goes without its picture")).ok()
}

fn request(url: &Url, limits: Limits, accept: &'static str) -> Request {
    let mut request = Request { limits, ..Request::get(url.as_str(), Trust::Caller) };
    request.headers.insert(ACCEPT, HeaderValue::from_static(accept));
    request.headers.insert(USER_AGENT, HeaderValue::from_static(AGENT));
    request
}

fn check_status(answer: &Answer) -> Result<(), NoPreview> {
    if answer.status().is_success() { Ok(()) } else { Err(NoPreview::Status(answer.status().as_u16())) }
}
