//! A sandbox for WhatsApp clients: a server emulator, simulated people who are real clients of it,
//! and an admin HTTP to play with both. Nothing leaves the machine.
//!
//! ```text
//! admin (HTTP under /admin)      gRPC service of the binary
//!        └───────────┬───────────────────┘
//!                 control  ──(remote)──▶ admin of another process
//!                    │
//!                 people   real clients, each with its own keys
//!                    │     ws://127.0.0.1:PORT/ws/chat
//!                 emulator ◀──────────── the client under test
//! ```

pub mod emulator;
pub mod people;

pub mod control;

pub mod admin;

mod sandbox;

pub use sandbox::{DEFAULT_PEOPLE, Sandbox, SandboxConfig, SandboxError};
