//! The session adapter against the emulator: the real client library, real handshakes, real encryption.

#![expect(clippy::unwrap_used, reason = "tests")]

mod encryption;
mod faults;
mod history;
mod inbound;
mod linking;
mod on_the_way;
mod outgoing;
mod passkey;
mod presence;
mod proxy;
mod world;
