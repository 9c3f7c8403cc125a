//! A client with nothing behind it: a WebSocket, the handshake, and stanzas as the test wants them.

#![allow(dead_code, clippy::unwrap_used)]

use std::net::SocketAddr;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use futures_util::{SinkExt as _, StreamExt as _};
use tokio::io::AsyncWriteExt as _;
use tokio::net::{TcpSocket, TcpStream};
use tokio_websockets::{ClientBuilder, Limits, Message, WebSocketStream};
use whatsapp_rust::buffa::{Message as _, MessageField};
use whatsapp_rust::store::persistence_manager::PersistenceManager;
use whatsapp_rust::wacore::framing::{FrameDecoder, encode_frame};
use whatsapp_rust::wacore::handshake::{NoiseCipher, NoiseHandshake};
use whatsapp_rust::wacore::libsignal::protocol::KeyPair;
use whatsapp_rust::wacore::store::InMemoryBackend;
use whatsapp_rust::wacore_binary::consts::NOISE_PATTERN_XX;
use whatsapp_rust::wacore_binary::marshal::unmarshal_ref;
use whatsapp_rust::wacore_binary::util::unpack_bytes;
use whatsapp_rust::wacore_binary::{Node, marshal};
use whatsapp_rust::waproto::whatsapp as wa;
use whatsapp_rust::waproto::whatsapp::handshake_message::{ClientFinish, ClientHello, ServerHello};

pub const GREETING: &[u8] = b"WA\x06\x03";

/// Keys as clients make them.
pub fn key_pair() -> KeyPair {
    KeyPair::generate(&mut signal_rand::rng())
}

/// The key that a linked client shakes hands with.
pub async fn noise_key(backend: Arc<InMemoryBackend>) -> KeyPair {
    PersistenceManager::new(backend).await.unwrap().get_device_snapshot().noise_key.clone()
}

/// What a linked device says of itself at login.
pub fn login(phone: &str, device: u32) -> wa::ClientPayload {
    wa::ClientPayload {
        username: Some(phone.parse().unwrap()),
        device: Some(device),
        passive: Some(false),
        ..Default::default()
    }
}

/// The stanza of what stands for it on the wire.
pub fn unpacked(packed: BytesMut) -> Node {
    unmarshal_ref(&unpack_bytes(packed).unwrap()).unwrap().to_owned()
}

/// A connection whose handshake may be finished.
pub struct Raw {
    socket: WebSocketStream<TcpStream>,
    decoder: FrameDecoder,
    ciphers: Option<Ciphers>,
}

struct Ciphers {
    writes: (NoiseCipher, u32),
    reads: (NoiseCipher, u32),
}

impl Raw {
    pub async fn open(address: SocketAddr) -> Self {
        let socket = TcpSocket::new_v4().unwrap();
        // What is not read is soon felt at the other end.
        socket.set_recv_buffer_size(4 << 10).unwrap();
        let stream = socket.connect(address).await.unwrap();
        let uri = format!("ws://{address}/ws/chat");
        let builder = ClientBuilder::new().uri(&uri).unwrap().limits(Limits::unlimited());
        let (socket, _) = builder.connect_on(stream).await.unwrap();
        Self { socket, decoder: FrameDecoder::new(), ciphers: None }
    }

    /// Shakes hands with this key and logs in.
    pub async fn log_in(address: SocketAddr, noise: &KeyPair, payload: &wa::ClientPayload) -> Self {
        let mut raw = Self::open(address).await;
        raw.shake_hands(noise, payload).await;
        raw
    }

    /// Bytes as they are, in one WebSocket message; false if the other end is gone.
    pub async fn send(&mut self, bytes: &[u8]) -> bool {
        self.socket.send(Message::binary(Bytes::copy_from_slice(bytes))).await.is_ok()
    }

    /// A frame that is not encrypted, behind the greeting if it is the first.
    pub async fn send_plain(&mut self, greeting: &[u8], payload: &[u8]) -> bool {
        let frame = encode_frame(payload, None).unwrap();
        self.send(&[greeting, &frame].concat()).await
    }

    /// The next frame as it comes; `None` when the connection has ended.
    pub async fn frame(&mut self) -> Option<BytesMut> {
        loop {
            if let Some(frame) = self.decoder.decode_frame() {
                return Some(frame);
            }
            let message = self.socket.next().await?.ok()?;
            if message.is_binary() {
                self.decoder.feed(&message.into_payload());
            }
        }
    }

    /// Greets, and takes the server's half.
    pub async fn say_hello(&mut self) -> (NoiseHandshake, KeyPair, ServerHello) {
        let mut noise = NoiseHandshake::new(NOISE_PATTERN_XX, GREETING).unwrap();
        let ephemeral = key_pair();
        noise.authenticate(ephemeral.public_key.public_key_bytes());
        let hello = wa::HandshakeMessage {
            client_hello: MessageField::some(ClientHello {
                ephemeral: Some(ephemeral.public_key.public_key_bytes().to_vec()),
                ..Default::default()
            }),
            ..Default::default()
        };
        assert!(self.send_plain(GREETING, &hello.encode_to_vec()).await);
        let answer = self.frame().await.expect("the server says hello");
        let answer = wa::HandshakeMessage::decode_from_slice(&answer).unwrap();
        (noise, ephemeral, answer.server_hello.into_option().unwrap())
    }

    pub async fn shake_hands(&mut self, key: &KeyPair, payload: &wa::ClientPayload) {
        let (mut noise, ephemeral, hello) = self.say_hello().await;
        let server_ephemeral: [u8; 32] = hello.ephemeral.unwrap().try_into().unwrap();
        noise.authenticate(&server_ephemeral);
        noise.mix_shared_secret(ephemeral.private_key.serialize(), &server_ephemeral).unwrap();
        let server: [u8; 32] = noise.decrypt(&hello.r#static.unwrap()).unwrap().try_into().unwrap();
        noise.mix_shared_secret(ephemeral.private_key.serialize(), &server).unwrap();
        noise.decrypt(&hello.payload.unwrap()).unwrap();
        let public = noise.encrypt(key.public_key.public_key_bytes()).unwrap();
        noise.mix_shared_secret(key.private_key.serialize(), &server_ephemeral).unwrap();
        let sealed = noise.encrypt(&payload.encode_to_vec()).unwrap();
        let finish = ClientFinish { r#static: Some(public), payload: Some(sealed), ..Default::default() };
        let finish = wa::HandshakeMessage { client_finish: MessageField::some(finish), ..Default::default() };
        assert!(self.send_plain(b"", &finish.encode_to_vec()).await);
        let (writes, reads) = noise.finish().unwrap();
        self.ciphers = Some(Ciphers { writes: (writes, 0), reads: (reads, 0) });
    }

    /// What stands for a stanza on the wire: its bytes with the flag in front; false if the other end is gone.
    pub async fn send_packed(&mut self, packed: &[u8]) -> bool {
        let (cipher, counter) = &mut self.ciphers.as_mut().unwrap().writes;
        let sealed = cipher.encrypt_with_counter(*counter, packed).unwrap();
        *counter += 1;
        self.send_plain(b"", &sealed).await
    }

    pub async fn send_node(&mut self, node: &Node) -> bool {
        self.send_packed(&marshal(node).unwrap()).await
    }

    /// What stands for the next stanza on the wire: its bytes with the flag in front; `None` when the connection has ended.
    pub async fn packed(&mut self) -> Option<BytesMut> {
        let mut frame = self.frame().await?;
        let (cipher, counter) = &mut self.ciphers.as_mut().unwrap().reads;
        cipher.decrypt_in_place_with_counter(*counter, &mut frame).unwrap();
        *counter += 1;
        Some(frame)
    }

    /// The next stanza; `None` when the connection has ended.
    pub async fn node(&mut self) -> Option<Node> {
        Some(unpacked(self.packed().await?))
    }

    /// The next stanza of this name.
    pub async fn until(&mut self, tag: &str) -> Option<Node> {
        loop {
            let node = self.node().await?;
            if node.tag == tag {
                return Some(node);
            }
        }
    }

    /// Bytes past the WebSocket.
    pub async fn send_under(&mut self, bytes: &[u8]) {
        let stream = self.socket.get_mut();
        stream.write_all(bytes).await.unwrap();
        stream.flush().await.unwrap();
    }

    /// Something that is no binary message.
    pub async fn send_text(&mut self, text: &str) -> bool {
        self.socket.send(Message::text(text.to_owned())).await.is_ok()
    }

    /// Waits until the server ends the connection, whatever it says before.
    pub async fn ended(&mut self) -> bool {
        let end = async { while matches!(self.socket.next().await, Some(Ok(_))) {} };
        tokio::time::timeout(super::LIMIT, end).await.is_ok()
    }
}
