//! App-state collections: there is nothing in them, and every one asked for must be named in the
//! answer, else a freshly paired client never becomes connected.

use whatsapp_rust::wacore_binary::NodeRef;
use whatsapp_rust::wacore_binary::builder::NodeBuilder;

use super::{Answer, Request};
use crate::emulator::relay::text_attr;

pub(super) fn answer(request: &Request<'_>) -> Answer {
    let asked = request.child("sync").and_then(NodeRef::children).unwrap_or_default();
    let collections = asked.iter().filter_map(|collection| {
        let version = text_attr(collection, "version").unwrap_or_else(|| "0".to_owned());
        let answer =
            NodeBuilder::new("collection").attr("name", text_attr(collection, "name")?).attr("version", version);
        Some(answer.build())
    });
    Answer::With(NodeBuilder::new("sync").children(collections).build())
}
