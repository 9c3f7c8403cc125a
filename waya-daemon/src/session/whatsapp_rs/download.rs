//! Files of messages that came in: loaded from the media servers, decrypted and checked on the way into a file.

use std::fs::File;
use std::io::{self, Seek, SeekFrom, Write};
use std::time::Duration;

use whatsapp_rust::Client;
use whatsapp_rust::download::{DownloadWriter, Downloadable};
use whatsapp_rust::proto_helpers::MessageExt;
use whatsapp_rust::waproto::codec::message_decode;
use whatsapp_rust::waproto::whatsapp::Message;

use crate::model::MediaHash;
use crate::session::{FileTold, SendError};

/// A download may take this long …
const AT_LEAST: Duration = Duration::from_secs(60);
/// … and a second more for each of so many bytes.
const BYTES_A_SECOND: u64 = 64 * 1024;

/// Loads the file that a message speaks of.
///
/// # Errors
/// [`SendError::Permanent`] when there is no file, or it is too large or gone; [`SendError::Transient`] for the network.
pub(super) async fn download(client: &Client, raw: &[u8], into: File, limit: u64) -> Result<(), SendError> {
    let message = message_decode(raw).map_err(|_| SendError::Permanent("the message cannot be read".to_owned()))?;
    let media =
        media(message.get_base_message()).ok_or_else(|| SendError::Permanent("the message has no file".to_owned()))?;
    let length = media.file_length().unwrap_or_default();
    if length > limit {
        let reason = format!("the file has {length} bytes, more than the {limit} that media.max_download allows");
        return Err(SendError::Permanent(reason));
    }
    let patience = AT_LEAST + Duration::from_secs(length / BYTES_A_SECOND);
    let writer = Capped { file: into, left: limit, limit };
    match tokio::time::timeout(patience, client.download_to_writer(media, writer)).await {
        Ok(Ok(_)) => Ok(()),
        Ok(Err(_)) if !client.is_connected() => Err(SendError::Offline),
        Ok(Err(error)) => Err(SendError::Transient(format!("the file could not be loaded: {error}"))),
        Err(_) => Err(SendError::Transient("loading the file took too long".to_owned())),
    }
}

/// What a message says of its file.
pub(super) fn file_of(raw: &[u8]) -> Option<FileTold> {
    let message = message_decode(raw).ok()?;
    let base = message.get_base_message();
    let media = media(base)?;
    let mimetype = base.image_message.as_option().and_then(|media| media.mimetype.clone());
    let mimetype = mimetype
        .or_else(|| base.video_message.as_option().and_then(|media| media.mimetype.clone()))
        .or_else(|| base.audio_message.as_option().and_then(|media| media.mimetype.clone()))
        .or_else(|| base.document_message.as_option().and_then(|media| media.mimetype.clone()))
        .or_else(|| base.sticker_message.as_option().and_then(|media| media.mimetype.clone()));
    Some(FileTold {
        hash: media.file_sha256().and_then(|hash| hash.try_into().ok()).map(MediaHash),
        size: media.file_length(),
        mimetype,
        filename: base.document_message.as_option().and_then(|document| document.file_name.clone()),
    })
}

fn media(message: &Message) -> Option<&dyn Downloadable> {
    let image = message.image_message.as_option().map(|media| media as &dyn Downloadable);
    image
        .or_else(|| message.video_message.as_option().map(|media| media as _))
        .or_else(|| message.ptv_message.as_option().map(|media| media as _))
        .or_else(|| message.audio_message.as_option().map(|media| media as _))
        .or_else(|| message.document_message.as_option().map(|media| media as _))
        .or_else(|| message.sticker_message.as_option().map(|media| media as _))
}

/// A file that takes no more than it may, whatever the message said of its length.
struct Capped {
    file: File,
    left: u64,
    limit: u64,
}

impl Write for Capped {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if bytes.len() as u64 > self.left {
            return Err(io::Error::other("the file is larger than the message said"));
        }
        let written = self.file.write(bytes)?;
        self.left -= written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

impl Seek for Capped {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        self.file.seek(to)
    }
}

impl DownloadWriter for Capped {
    fn truncate(&mut self, length: u64) -> io::Result<()> {
        self.left = self.limit.saturating_sub(length);
        self.file.set_len(length)
    }
}
