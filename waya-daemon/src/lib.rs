//! The waya daemon as a library.
//!
//! Outgoing: `grpc | http → api → queue (row: pending) → worker (row: sending) → session → WhatsApp`;
//! the server's ack and the receipts come back `session → dispatch → queue (row: sent, ack …)`.
//!
//! Incoming: `session → dispatch (row in the inbox journal, only then acknowledged to WhatsApp) → readers of events`.
//!
//! Modules in reading order. Who may import whom is held by `tests/layering.rs`.

pub mod model;

pub mod bus;
pub mod clock;
pub mod store;

pub mod settings;

pub mod requests;

pub mod net;
pub mod preview;

pub mod media;

pub mod session;

pub mod deliver;
pub mod intake;
pub mod queue;

pub mod dispatch;

pub mod api;
pub mod grpc;
pub mod http;

pub mod args;
pub mod config;
pub mod data_dir;
pub mod logging;

mod account;
pub mod daemon;
pub mod process;
pub mod repair;
