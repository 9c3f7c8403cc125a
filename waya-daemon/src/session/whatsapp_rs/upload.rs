//! Files on their way to WhatsApp's media servers and back: encrypted through a temporary file, so that memory does not
//! grow with them.

use std::fs::File;
use std::io::{BufReader, BufWriter, Read, Seek, SeekFrom, Write as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use whatsapp_rust::Client;
use whatsapp_rust::buffa::MessageField;
use whatsapp_rust::download::MediaType;
use whatsapp_rust::media::{
    AudioOptions, DocumentOptions, ImageOptions, VideoOptions, audio_message, document_message, image_message,
    video_message,
};
use whatsapp_rust::upload::UploadResponse;
use whatsapp_rust::wacore::upload::{EncryptedMediaInfo, UploadSource, encrypt_media_streaming};
use whatsapp_rust::waproto::codec::message_to_vec;
use whatsapp_rust::waproto::whatsapp::Message;
use whatsapp_rust::waproto::whatsapp::message::{FutureProofMessage, StickerMessage};

use crate::model::{Attachment, MediaKind};
use crate::session::{SendError, Upload, Uploaded};

/// An upload may take this long …
const AT_LEAST: Duration = Duration::from_secs(60);
/// … and a second more for each of so many bytes.
const BYTES_A_SECOND: u64 = 64 * 1024;

/// Encrypts a file, puts it on the media servers, and tells how a message speaks of it.
///
/// # Errors
/// [`SendError::Permanent`] when the file cannot be read, [`SendError::Transient`] for everything that the network or
/// the servers do.
pub(super) async fn upload(client: &Client, upload: Upload, scratch: &Path) -> Result<Uploaded, SendError> {
    let Upload { path, attachment, thumbnail } = upload;
    let (media, scratch) = (media_type(attachment.kind), scratch.to_owned());
    let encrypting = tokio::task::spawn_blocking(move || encrypt(&path, media, &scratch));
    let (sealed, info) = match encrypting.await {
        Ok(Ok(sealed)) => sealed,
        Ok(Err(error)) => return Err(SendError::Permanent(format!("its file cannot be read: {error}"))),
        Err(_) => return Err(SendError::Transient("its file could not be encrypted".to_owned())),
    };
    let patience = AT_LEAST + Duration::from_secs(attachment.size / BYTES_A_SECOND);
    match tokio::time::timeout(patience, client.upload_stream(sealed, info, media)).await {
        Ok(Ok(response)) => Ok(Uploaded(message_to_vec(&message(response, &attachment, thumbnail)))),
        Ok(Err(_)) if !client.is_connected() => Err(SendError::Offline),
        Ok(Err(error)) => Err(SendError::Transient(format!("its file could not be uploaded: {error}"))),
        Err(_) => Err(SendError::Transient("uploading its file took too long".to_owned())),
    }
}

/// The encrypted file; it is gone when this is.
struct Sealed {
    file: tempfile::NamedTempFile,
    length: u64,
}

impl UploadSource for Sealed {
    fn len(&self) -> u64 {
        self.length
    }

    fn reader_from(&self, offset: u64) -> std::io::Result<Box<dyn Read + Send>> {
        let mut file = self.file.reopen()?;
        file.seek(SeekFrom::Start(offset))?;
        Ok(Box::new(BufReader::new(file)))
    }
}

fn encrypt(path: &PathBuf, media: MediaType, scratch: &Path) -> anyhow::Result<(Sealed, EncryptedMediaInfo)> {
    let plain = BufReader::new(File::open(path)?);
    let file = tempfile::NamedTempFile::new_in(scratch)?;
    let mut writer = BufWriter::new(file.reopen()?);
    let info = encrypt_media_streaming(plain, &mut writer, media)?;
    writer.flush()?;
    let length = file.as_file().metadata()?.len();
    Ok((Sealed { file, length }, info))
}

/// Which of the media servers' kinds a file is.
pub(super) const fn media_type(kind: MediaKind) -> MediaType {
    match kind {
        MediaKind::Image => MediaType::Image,
        MediaKind::Video | MediaKind::Gif => MediaType::Video,
        MediaKind::Audio | MediaKind::Voice => MediaType::Audio,
        MediaKind::Document => MediaType::Document,
        MediaKind::Sticker => MediaType::Sticker,
    }
}

fn message(uploaded: UploadResponse, attachment: &Attachment, jpeg_thumbnail: Option<Vec<u8>>) -> Message {
    let mimetype = Some(attachment.mimetype.clone());
    let duration_seconds = attachment.seconds;
    match attachment.kind {
        MediaKind::Image => {
            let mut message = image_message(uploaded, ImageOptions { mimetype, jpeg_thumbnail, ..Default::default() });
            if let Some(image) = message.image_message.as_option_mut() {
                (image.width, image.height) = (attachment.width, attachment.height);
            }
            message
        }
        MediaKind::Video | MediaKind::Gif => {
            let gif_playback = (attachment.kind == MediaKind::Gif).then_some(true);
            let options =
                VideoOptions { mimetype, jpeg_thumbnail, duration_seconds, gif_playback, ..Default::default() };
            let mut message = video_message(uploaded, options);
            if let Some(video) = message.video_message.as_option_mut() {
                (video.width, video.height) = (attachment.width, attachment.height);
            }
            message
        }
        MediaKind::Audio | MediaKind::Voice => {
            let ptt = (attachment.kind == MediaKind::Voice).then_some(true);
            audio_message(uploaded, AudioOptions { mimetype, duration_seconds, ptt, ..Default::default() })
        }
        MediaKind::Document => {
            let file_name = attachment.filename.clone();
            document_message(
                uploaded,
                DocumentOptions {
                    mimetype,
                    title: file_name.clone(),
                    file_name,
                    page_count: attachment.pages,
                    jpeg_thumbnail,
                    ..Default::default()
                },
            )
        }
        MediaKind::Sticker => sticker(uploaded, attachment),
    }
}

/// The library has no builder for these.
fn sticker(uploaded: UploadResponse, attachment: &Attachment) -> Message {
    let sticker = StickerMessage {
        url: Some(uploaded.url),
        direct_path: Some(uploaded.direct_path),
        media_key: Some(uploaded.media_key.to_vec()),
        file_sha256: Some(uploaded.file_sha256.to_vec()),
        file_enc_sha256: Some(uploaded.file_enc_sha256.to_vec()),
        file_length: Some(uploaded.file_length),
        media_key_timestamp: Some(uploaded.media_key_timestamp),
        mimetype: Some(attachment.mimetype.clone()),
        width: attachment.width,
        height: attachment.height,
        ..Default::default()
    };
    Message { sticker_message: MessageField::some(sticker), ..Default::default() }
}

/// A document with words goes in a wrapper, as WhatsApp Web sends it: without, some phones do not show the words.
pub(super) fn wrap_captioned_document(message: Message) -> Message {
    let has_caption = message.document_message.as_option().is_some_and(|document| document.caption.is_some());
    if !has_caption {
        return message;
    }
    let wrapper = FutureProofMessage { message: MessageField::some(message) };
    Message { document_with_caption_message: MessageField::some(wrapper), ..Default::default() }
}
