//! What a message takes along: its file on WhatsApp's servers, the message it passes on, or what its link shows.

use super::courier::attempt;
use super::policy::Attempt;
use crate::media::{Media, MediaError};
use crate::model::{Attachment, Body, MediaHash, Message};
use crate::session::{LinkPreview, Outgoing, Upload, Uploaded, WhatsApp};

/// What a user reads when a file was kept for too short a time.
const GONE: &str = "its file is not kept any more (media.keep_days); send it anew";

/// Has all that a message needs ready.
pub(super) async fn pack(media: &Media, session: &dyn WhatsApp, message: &Message) -> Result<Outgoing, Attempt> {
    let Message { whatsapp_id, chat, text, mut content, .. } = message.clone();
    if let Body::Remote(remote) = &content.body {
        let hints = remote.hints.clone();
        let fetched = if text.is_empty() {
            media.take_url(&remote.url, hints).await
        } else {
            // It showed only now that there would be no place for the words.
            media.take_url_with_words(&remote.url, hints).await
        };
        content.body = Body::Media(fetched.map_err(|problem| unfetched(&problem))?);
    }
    let uploaded = match &content.body {
        Body::Media(attachment) => Some(upload(media, session, attachment).await?),
        Body::Forward(forward) => Some(read(media, forward.hash).await?),
        _ => None,
    };
    let preview = match &content.body {
        Body::Text if content.preview => media.preview(&text).await,
        _ => None,
    };
    let preview = preview.map(|shown| LinkPreview {
        url: shown.url.clone(),
        title: shown.title.clone(),
        description: shown.description.clone(),
        thumbnail: shown.thumbnail.clone(),
    });
    Ok(Outgoing { whatsapp_id, chat, text, content, uploaded, preview })
}

/// What the network did may be otherwise the next time.
fn unfetched(problem: &MediaError) -> Attempt {
    let is_passing = match problem {
        MediaError::Fetch(error) => error.is_passing(),
        MediaError::Status(status) => *status >= 500 || *status == 429,
        MediaError::Io(_) => true,
        _ => false,
    };
    let reason = format!("its file {problem}");
    if is_passing { Attempt::Transient(reason) } else { Attempt::Permanent(reason) }
}

async fn upload(media: &Media, session: &dyn WhatsApp, attachment: &Attachment) -> Result<Uploaded, Attempt> {
    let uploading = async {
        let path = media.path(attachment.hash);
        if !tokio::fs::try_exists(&path).await.unwrap_or(true) {
            return Err(Attempt::Permanent(GONE.to_owned()));
        }
        let thumbnail = media.thumbnail(attachment).await;
        let uploaded = session.upload(Upload { path, attachment: attachment.clone(), thumbnail }).await;
        uploaded.map(|uploaded| uploaded.0).map_err(attempt)
    };
    media.uploaded(attachment, uploading).await.map(Uploaded)
}

async fn read(media: &Media, hash: MediaHash) -> Result<Uploaded, Attempt> {
    match tokio::fs::read(media.path(hash)).await {
        Ok(raw) => Ok(Uploaded(raw)),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Err(Attempt::Permanent(GONE.to_owned())),
        Err(error) => Err(Attempt::Transient(format!("the message it passes on cannot be read: {error}"))),
    }
}
