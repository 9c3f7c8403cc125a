//! Requests whose answers never change.

use whatsapp_rust::wacore_binary::Node;
use whatsapp_rust::wacore_binary::builder::NodeBuilder;

use super::{Answer, Request};

/// Settings whose presence lets clients attach and renew privacy tokens.
const TOKEN_SETTINGS: [&str; 2] = ["10518", "24941"];

pub(super) fn answer(namespace: &str, request: &Request<'_>) -> Answer {
    match namespace {
        "abt" => Answer::With(settings()),
        "w:m" => Answer::With(media_hosts(request)),
        "w:profile:picture" if !request.is_set() => Answer::Refused(404, "item-not-found"),
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

fn media_hosts(request: &Request<'_>) -> Node {
    let host = NodeBuilder::new("host")
        .attr("hostname", request.session.emulator.address().to_string())
        .attr("type", "primary")
        .children([NodeBuilder::new("upload").build(), NodeBuilder::new("download").build()])
        .build();
    NodeBuilder::new("media_conn")
        .attr("auth", "sandbox")
        .attr("ttl", "3600")
        .attr("auth_ttl", "21600")
        .attr("max_buckets", "12")
        .children([host])
        .build()
}
