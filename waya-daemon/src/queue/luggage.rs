//! What a message takes along: its file on WhatsApp's servers, or the message it passes on.

use super::courier::attempt;
use super::policy::Attempt;
use crate::media::Media;
use crate::model::{Attachment, Body, MediaHash};
use crate::session::{Upload, Uploaded, WhatsApp};

/// What a user reads when a file was kept for too short a time.
const GONE: &str = "its file is not kept any more (media.keep_days); send it anew";

/// Has a message's file uploaded, unless it was; nothing for a message without one.
pub(super) async fn ready(media: &Media, session: &dyn WhatsApp, body: &Body) -> Result<Option<Uploaded>, Attempt> {
    match body {
        Body::Media(attachment) => upload(media, session, attachment).await.map(Some),
        Body::Remote(_) => Err(Attempt::Permanent("its file was not fetched".to_owned())),
        Body::Forward(forward) => read(media, forward.hash).await.map(Some),
        _ => Ok(None),
    }
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
