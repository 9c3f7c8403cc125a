//! What the fuzz targets drive; there in their builds only.

#![allow(clippy::unwrap_used)]

use std::cell::RefCell;

use bytes::BytesMut;
use tokio::runtime::{Builder, Runtime};
use whatsapp_rust::wacore::framing::FrameDecoder;
use whatsapp_rust::wacore_binary::marshal::unmarshal_ref;
use whatsapp_rust::wacore_binary::util::unpack_bytes;

use super::session::trial::{Trial, sessions};
use super::wire::{Hello, ServerIdentity};

/// Inputs that one server takes before there is a fresh one: what they leave behind would slow them down.
const INPUTS_A_SERVER: u32 = 2_000;

struct Fuzzed {
    runtime: Runtime,
    world: Option<Trial>,
    inputs: u32,
}

thread_local! {
    static FUZZED: RefCell<Fuzzed> = RefCell::new(Fuzzed {
        runtime: Builder::new_current_thread().enable_all().build().unwrap(),
        world: None,
        inputs: 0,
    });
}

/// Bytes as they come behind the handshake, deciphered.
pub fn frames(bytes: &[u8]) {
    let mut decoder = FrameDecoder::new();
    decoder.feed(bytes);
    while let Some(frame) = decoder.decode_frame() {
        if let Ok(plain) = unpack_bytes(frame) {
            let _ = unmarshal_ref(&plain);
        }
    }
    if let Ok(plain) = unpack_bytes(BytesMut::from(bytes)) {
        let _ = unmarshal_ref(&plain);
    }
}

/// What a client says before anything is encrypted: its hello, behind its length in two bytes, and its finish.
pub fn handshake(bytes: &[u8]) {
    thread_local! {
        static IDENTITY: ServerIdentity = ServerIdentity::open(None).unwrap();
    }
    let Some((length, rest)) = bytes.split_first_chunk() else { return };
    let (hello, finish) = rest.split_at(rest.len().min(usize::from(u16::from_be_bytes(*length))));
    IDENTITY.with(|identity| {
        if let Ok(Hello::Wait(_, waiting)) = identity.answer(b"WA\x06\x03", hello) {
            let _ = waiting.finish(finish);
        }
    });
}

/// Stanzas, each behind its length in two bytes.
pub fn stanzas(mut bytes: &[u8]) {
    FUZZED.with_borrow_mut(|fuzzed| {
        let Fuzzed { runtime, world, inputs } = fuzzed;
        let _in_runtime = runtime.enter();
        if *inputs % INPUTS_A_SERVER == 0 {
            *world = Some(runtime.block_on(sessions()));
        }
        *inputs += 1;
        let sessions = &world.as_ref().unwrap().sessions;
        while let Some((length, rest)) = bytes.split_first_chunk() {
            let (stanza, rest) = rest.split_at(rest.len().min(usize::from(u16::from_be_bytes(*length))));
            bytes = rest;
            if let Ok(node) = unmarshal_ref(stanza) {
                for session in sessions {
                    let _ = session.handle(&node);
                }
            }
        }
        runtime.block_on(tokio::task::yield_now());
    });
}
