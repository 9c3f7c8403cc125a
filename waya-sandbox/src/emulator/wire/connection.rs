//! One WebSocket: handshake, then a reading task that handles stanzas in order and a writing task
//! that encrypts what it is told to. It ends when either half does, when the client is silent for too long, or takes
//! nothing: a socket whose other end is gone says nothing of it.

use std::io::Write as _;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::ws::{Message as WsMessage, WebSocket};
use bytes::{Buf, BytesMut};
use flate2::Compression;
use flate2::write::ZlibEncoder;
use futures_util::stream::{SplitSink, SplitStream};
use futures_util::{SinkExt, StreamExt};
use tokio::sync::mpsc;
use whatsapp_rust::wacore::framing::{FrameDecoder, append_frame_into, encode_frame};
use whatsapp_rust::wacore::handshake::NoiseCipher;
use whatsapp_rust::wacore_binary::marshal::unmarshal_ref;
use whatsapp_rust::wacore_binary::util::unpack_bytes;

use super::handle::{ConnectionHandle, Line, Outgoing};
use super::noise::{Hello, NoiseFailure, Opened};
use crate::emulator::{Emulator, session};

/// What was said to a client that is gone may still be on its way.
const FAREWELL: Duration = Duration::from_secs(1);
/// The greeting is `WA`, a magic byte and the dictionary version.
const GREETING: usize = 4;
/// Stanzas encrypted into one WebSocket message at most.
const BATCH: usize = 64;
/// Stanzas of more bytes are compressed.
const LARGE: usize = 4 << 10;
/// What stands before a compressed stanza.
const COMPRESSED: u8 = 2;

type Sink = SplitSink<WebSocket, WsMessage>;

/// Serves one WebSocket until it ends.
pub(crate) async fn accept(emulator: Emulator, socket: WebSocket) {
    let (mut sink, stream) = socket.split();
    let mut source = Source { stream, decoder: FrameDecoder::new() };
    let handshake = shake_hands(&emulator, &mut sink, &mut source);
    let opened = match tokio::time::timeout(emulator.config().handshake_limit, handshake).await {
        Ok(Ok(opened)) => opened,
        Ok(Err(error)) => return tracing::debug!(%error, "a handshake failed"),
        Err(_) => return tracing::debug!("a client did not finish its handshake"),
    };
    tracing::debug!(pattern = ?opened.pattern, "handshake done");
    emulator.count_handshake(opened.pattern);
    tokio::time::sleep(emulator.config().first_stanza_grace).await;

    let (idle, write_limit) = (emulator.config().idle_limit, emulator.config().write_limit);
    let (connection, receiver) = ConnectionHandle::new(emulator.config().outgoing_limit);
    let line = connection.line();
    let Opened { client_static, payload, incoming, outgoing, .. } = opened;
    let written = Writer { sink, cipher: outgoing, counter: 0, buffer: Vec::new(), pushed: 0, limit: write_limit };
    let mut writer = tokio::spawn(written.write_all(receiver, line.clone()));
    let stop = emulator.stopping();
    if let Some(session) = session::begin(&emulator, &connection, client_static, &payload) {
        let mut cipher = Incoming { cipher: incoming, counter: 0 };
        loop {
            tokio::select! {
                frame = tokio::time::timeout(idle, source.next()) => {
                    let Ok(frame) = frame else {
                        tracing::debug!("a client is silent for too long");
                        connection.cut();
                        break;
                    };
                    if !frame.is_some_and(|frame| cipher.handle(frame, &session)) {
                        break;
                    }
                }
                _ = &mut writer => break,
                () = line.ending() => break,
                () = stop.cancelled() => break,
            }
        }
        session.end();
    }
    connection.closed();
    drop(connection);
    // What ends the connection must get out before the socket goes, also to a slow client.
    if !writer.is_finished() && !stop.is_cancelled() && !line.is_cut() {
        let limit = if line.is_closing() { write_limit } else { FAREWELL };
        let last = tokio::time::timeout(limit, &mut writer);
        tokio::select! {
            _ = last => {}
            () = stop.cancelled() => {}
        }
    }
    if line.is_closing() && !stop.is_cancelled() {
        // A socket that goes with something unread in it takes what the client has not read yet along.
        let rest = tokio::time::timeout(FAREWELL, source.run_out());
        tokio::select! {
            _ = rest => {}
            () = stop.cancelled() => {}
        }
    }
    writer.abort();
}

async fn shake_hands(emulator: &Emulator, sink: &mut Sink, source: &mut Source) -> Result<Opened, NoiseFailure> {
    let prologue = source.greeting().await.ok_or(NoiseFailure::Greeting)?;
    let hello = source.next().await.ok_or(NoiseFailure::Incomplete)?;
    match emulator.identity().answer(&prologue, &hello)? {
        Hello::Done(reply, opened) => {
            send_plain(sink, &reply).await?;
            Ok(*opened)
        }
        Hello::Wait(reply, waiting) => {
            send_plain(sink, &reply).await?;
            let finish = source.next().await.ok_or(NoiseFailure::Incomplete)?;
            waiting.finish(&finish)
        }
    }
}

async fn send_plain(sink: &mut Sink, payload: &[u8]) -> Result<(), NoiseFailure> {
    let frame = encode_frame(payload, None).map_err(|_| NoiseFailure::Incomplete)?;
    sink.send(WsMessage::Binary(frame.into())).await.map_err(|_| NoiseFailure::Incomplete)
}

/// The reading half: WebSocket messages cut into frames, however they were packed.
struct Source {
    stream: SplitStream<WebSocket>,
    decoder: FrameDecoder,
}

impl Source {
    async fn bytes(&mut self) -> Option<bytes::Bytes> {
        loop {
            match self.stream.next().await?.ok()? {
                WsMessage::Binary(bytes) => return Some(bytes),
                WsMessage::Close(_) => return None,
                _ => {}
            }
        }
    }

    /// Reads until the client ends its half.
    async fn run_out(&mut self) {
        while self.bytes().await.is_some() {}
    }

    /// Takes the greeting off the front, with the routing block some clients put before it.
    async fn greeting(&mut self) -> Option<[u8; GREETING]> {
        let mut head = BytesMut::new();
        loop {
            if let Some(start) = greeting_start(&head)? {
                head.advance(start);
                if head.len() >= GREETING {
                    let prologue = head.split_to(GREETING);
                    self.decoder.feed(&head);
                    return prologue.as_ref().try_into().ok();
                }
            }
            head.extend_from_slice(&self.bytes().await?);
        }
    }

    async fn next(&mut self) -> Option<BytesMut> {
        loop {
            if let Some(frame) = self.decoder.decode_frame() {
                return Some(frame);
            }
            let bytes = self.bytes().await?;
            self.decoder.feed(&bytes);
        }
    }
}

/// Where `WA…` begins: `Some(None)` needs more bytes, `None` is no greeting at all.
#[expect(clippy::option_option, reason = "two ways of not knowing: not yet, and never")]
fn greeting_start(head: &[u8]) -> Option<Option<usize>> {
    const ROUTING: &[u8] = b"ED\x00\x01";
    if head.len() < GREETING {
        return Some(None);
    }
    if head.starts_with(b"WA") {
        return Some(Some(0));
    }
    if !head.starts_with(ROUTING) {
        return None;
    }
    let Some(length) = head.get(4..7) else { return Some(None) };
    let length = length.iter().fold(0, |sum, byte| sum << 8 | usize::from(*byte));
    let start = 7 + length;
    match head.get(start..start + 2) {
        None => Some(None),
        Some(b"WA") => Some(Some(start)),
        Some(_) => None,
    }
}

struct Incoming {
    cipher: NoiseCipher,
    counter: u32,
}

impl Incoming {
    /// Decrypts a frame and handles its stanza; false ends the connection.
    fn handle(&mut self, mut frame: BytesMut, session: &session::Session) -> bool {
        if let Err(error) = self.cipher.decrypt_in_place_with_counter(self.counter, &mut frame) {
            tracing::debug!(%error, "a frame does not open");
            return false;
        }
        self.counter += 1;
        let Ok(plain) = unpack_bytes(frame) else {
            tracing::debug!("a frame does not unpack");
            return false;
        };
        match unmarshal_ref(&plain) {
            Ok(node) => session.handle(&node),
            Err(error) => {
                tracing::debug!(%error, "a stanza does not parse");
                false
            }
        }
    }
}

struct Writer {
    sink: Sink,
    cipher: NoiseCipher,
    counter: u32,
    buffer: Vec<u8>,
    /// Bytes of the stanzas in the buffer, as they were told.
    pushed: usize,
    /// How long the client may take nothing.
    limit: Duration,
}

impl Writer {
    async fn write_all(mut self, mut receiver: mpsc::UnboundedReceiver<Outgoing>, line: Arc<Line>) {
        let mut batch = Vec::with_capacity(BATCH);
        while receiver.recv_many(&mut batch, BATCH).await > 0 {
            let mut end = None;
            for outgoing in batch.drain(..) {
                match outgoing {
                    Outgoing::Stanza(stanza) => {
                        if !self.push(&stanza) {
                            return;
                        }
                    }
                    Outgoing::Pause(pause) => {
                        if !self.flush(&line).await {
                            return;
                        }
                        tokio::time::sleep(pause).await;
                    }
                    last => {
                        end = Some(last);
                        break;
                    }
                }
            }
            if matches!(end, Some(Outgoing::CutMidFrame)) {
                self.push_torn();
            }
            if !self.flush(&line).await {
                return;
            }
            match end {
                None => {}
                Some(Outgoing::Close) => {
                    let _ = tokio::time::timeout(self.limit, self.sink.close()).await;
                    return;
                }
                Some(_) => return,
            }
        }
    }

    fn push(&mut self, stanza: &[u8]) -> bool {
        self.pushed += stanza.len();
        let packed = packed(stanza);
        let stanza = packed.as_deref().unwrap_or(stanza);
        let Ok(sealed) = self.cipher.encrypt_with_counter(self.counter, stanza) else {
            return false;
        };
        self.counter += 1;
        append_frame_into(&sealed, None, &mut self.buffer).is_ok()
    }

    /// Writes what was pushed; false if the socket is gone, or takes nothing.
    async fn flush(&mut self, line: &Line) -> bool {
        let full = std::mem::take(&mut self.buffer);
        if full.is_empty() {
            return true;
        }
        let sent = tokio::time::timeout(self.limit, self.sink.send(WsMessage::Binary(full.into()))).await;
        line.written(std::mem::take(&mut self.pushed));
        if sent.is_err() {
            tracing::debug!("a client takes nothing");
        }
        sent.is_ok_and(|sent| sent.is_ok())
    }

    /// Announces a frame and delivers half of it.
    fn push_torn(&mut self) {
        self.buffer.extend_from_slice(&[0, 0, 200]);
        self.buffer.extend_from_slice(&[0x5a; 100]);
    }
}

/// A large stanza compressed, where that makes it smaller; WhatsApp does so too.
fn packed(stanza: &[u8]) -> Option<Vec<u8>> {
    let plain = stanza.get(1..).filter(|plain| plain.len() > LARGE)?;
    let mut zlib = ZlibEncoder::new(vec![COMPRESSED], Compression::fast());
    zlib.write_all(plain).ok()?;
    zlib.finish().ok().filter(|packed| packed.len() < stanza.len())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use whatsapp_rust::wacore_binary::util::unpack;

    use super::*;

    #[test]
    fn large_stanzas_are_packed_and_unpack_to_what_they_were() {
        let large = [&[0], &b"stanza".repeat(1_000)[..]].concat();
        let packed = packed(&large).unwrap();
        assert!(packed.len() < large.len() / 10);
        assert_eq!(unpack(&packed).unwrap()[..], large[1..]);
        let noise: Vec<u8> = (0..10_000).map(|_| rand::random()).collect();
        for other in [&large[..LARGE], &noise, &[]] {
            assert_eq!(super::packed(other), None);
        }
    }

    #[test]
    fn the_greeting_is_found_behind_a_routing_block_and_in_pieces() {
        assert_eq!(greeting_start(b"WA\x06\x03rest"), Some(Some(0)));
        assert_eq!(greeting_start(b"WA"), Some(None));
        assert_eq!(greeting_start(b"ED\x00\x01\x00\x00\x02xyWA\x06\x03"), Some(Some(9)));
        assert_eq!(greeting_start(b"ED\x00\x01\x00\x00\x02x"), Some(None));
        assert_eq!(greeting_start(b"ED\x00\x01\x00\x00\x02xyGE"), None);
        assert_eq!(greeting_start(b"GET / HTTP"), None);
    }
}
