//! Requests whose answers never change.

use whatsapp_rust::wacore_binary::Node;
use whatsapp_rust::wacore_binary::builder::NodeBuilder;

use super::{Answer, Request};
use crate::emulator::media;

/// Settings whose presence lets clients attach and renew privacy tokens.
const TOKEN_SETTINGS: [&str; 2] = ["10518", "24941"];

pub(super) fn answer(namespace: &str, request: &Request<'_>) -> Answer {
    match namespace {
        "abt" => Answer::With(settings()),
        "w:m" => Answer::With(media::hosts(&request.session.emulator, (request.phone, request.device))),
        _ => Answer::Done,
    }
}

fn settings() -> Node {
    let settings =
        TOKEN_SETTINGS.map(|code| NodeBuilder::new("prop").attr("config_code", code).attr("config_value", "1").build());
    NodeBuilder::new("props")
        .attr("protocol", "1")
        .attr("hash", "sandbox")
        .attr("refresh", "86400")
        .attr("refresh_id", "1")
        .children(settings)
        .build()
}
