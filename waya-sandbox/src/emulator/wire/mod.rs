//! The wire: Noise handshake, frames, and one task pair for each WebSocket.

mod connection;
mod handle;
mod noise;

pub(crate) use connection::accept;
pub(crate) use handle::{ConnectionHandle, Outgoing};
#[cfg(fuzzing)]
pub(crate) use noise::Hello;
pub(crate) use noise::{Pattern, ServerIdentity};
