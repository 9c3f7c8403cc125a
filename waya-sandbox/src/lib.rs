//! A WhatsApp server emulator with simulated people, for trying things out and for tests.
//!
//! In reading order: `emulator` is the server side.

pub mod emulator;
