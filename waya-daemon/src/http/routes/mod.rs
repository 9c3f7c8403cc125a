//! One file a noun; each handler translates, calls one use case and answers with its view.

pub(super) mod deeds;
pub(super) mod events;
mod given;
pub(super) mod health;
pub(super) mod media;
pub(super) mod message;
mod multipart;
pub(super) mod passkey;
pub(super) mod queue;
pub(super) mod requests;
pub(super) mod send;
mod send_body;
pub(super) mod session;
mod what_body;
