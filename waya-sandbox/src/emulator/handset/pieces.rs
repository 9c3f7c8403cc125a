//! How a piece of history gets to a device: inside its message, or as a file on the media servers that the message names.

use std::io::Write as _;

use flate2::Compression;
use flate2::write::ZlibEncoder;
use whatsapp_rust::buffa::MessageField;
use whatsapp_rust::wacore::download::MediaType;
use whatsapp_rust::wacore::upload::encrypt_media;
use whatsapp_rust::waproto::whatsapp as wa;
use whatsapp_rust::waproto::whatsapp::message::protocol_message::Type;
use whatsapp_rust::waproto::whatsapp::message::{HistorySyncNotification, HistorySyncType, ProtocolMessage};

use super::peer;
use crate::emulator::state::State;
use crate::emulator::{Emulator, media};

/// Bytes of a piece that fits into its message; a larger one is a file, whatever the device asked for.
const INSIDE: usize = 64 << 10;

/// A piece of history.
pub(super) struct Piece<'a> {
    pub(super) kind: HistorySyncType,
    /// Its place among all, from 1 on.
    pub(super) order: u32,
    /// In per cent, with this piece.
    pub(super) progress: u32,
    /// `HistorySync`.
    pub(super) bytes: &'a [u8],
    /// The request that it answers.
    pub(super) asked: Option<Asked>,
}

/// A device's request for more history.
#[derive(Clone)]
pub(super) struct Asked {
    pub(super) id: String,
    /// It takes the answer inside a message.
    pub(super) inside: bool,
}

/// Queues a piece for a device; `None` if there is no such device, or it cannot be kept.
pub(super) fn hand_over(
    emulator: &Emulator,
    state: &mut State,
    (phone, device): (&str, u16),
    piece: &Piece<'_>,
) -> Option<()> {
    // Not made smaller, so that a text that somebody keeps can be found.
    let mut zlib = ZlibEncoder::new(Vec::new(), Compression::none());
    zlib.write_all(piece.bytes).ok()?;
    let payload = zlib.finish().ok()?;
    let asked = piece.asked.clone();
    let takes_inside = !state.device(phone, device)?.record.history_in_files;
    let inside = takes_inside || asked.as_ref().is_some_and(|asked| asked.inside);
    let place = HistorySyncNotification {
        sync_type: Some(piece.kind),
        chunk_order: Some(piece.order),
        progress: Some(piece.progress),
        file_length: Some(payload.len() as u64),
        peer_data_request_session_id: asked.map(|asked| asked.id),
        ..Default::default()
    };
    let notification = if inside && payload.len() <= INSIDE {
        HistorySyncNotification { initial_hist_bootstrap_inline_payload: Some(payload), ..place }
    } else {
        in_a_file(emulator, &payload, place)?
    };
    let message = wa::Message {
        protocol_message: MessageField::some(ProtocolMessage {
            r#type: Some(Type::HISTORY_SYNC_NOTIFICATION),
            history_sync_notification: MessageField::some(notification),
            ..Default::default()
        }),
        ..Default::default()
    };
    peer::hand_over(state, phone, device, &message)
}

/// Names the sealed payload on the media servers.
fn in_a_file(emulator: &Emulator, payload: &[u8], place: HistorySyncNotification) -> Option<HistorySyncNotification> {
    let sealed = encrypt_media(payload, MediaType::History).ok()?;
    let direct_path = match media::keep(emulator, sealed.file_enc_sha256, &sealed.data_to_upload) {
        Ok(direct_path) => direct_path,
        Err(error) => {
            tracing::warn!(%error, "cannot keep a piece of history");
            return None;
        }
    };
    Some(HistorySyncNotification {
        direct_path: Some(direct_path),
        media_key: Some(sealed.media_key.to_vec()),
        file_sha256: Some(sealed.file_sha256.to_vec()),
        file_enc_sha256: Some(sealed.file_enc_sha256.to_vec()),
        ..place
    })
}
