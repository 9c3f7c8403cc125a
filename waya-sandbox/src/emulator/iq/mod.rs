//! Requests of clients, one file for each namespace that needs more than an empty answer.

mod about;
mod app_state;
mod blocklist;
mod encrypt;
pub(crate) mod groups;
mod md;
mod mex;
mod misc;
mod newsletter;
mod picture;
mod privacy;
mod refusal;
mod usync;

use whatsapp_rust::wacore_binary::builder::NodeBuilder;
use whatsapp_rust::wacore_binary::{Node, NodeRef, NodeValue};

use super::relay::text_attr;
use super::session::{Client, Session, activate};

/// What a request is answered with.
pub(crate) enum Answer {
    /// An empty result.
    Done,
    /// A result with this child.
    With(Node),
    /// A refusal.
    Refused(u16, &'static str),
    /// Nothing now: the handler answers by itself.
    Later,
}

/// A request on its way through its handler.
pub(crate) struct Request<'a> {
    pub(crate) session: &'a Session,
    pub(crate) node: &'a NodeRef<'a>,
    pub(crate) phone: &'a str,
    pub(crate) device: u16,
}

impl Request<'_> {
    /// Unix seconds.
    pub(crate) fn now(&self) -> i64 {
        self.session.emulator.now()
    }

    pub(crate) fn is_set(&self) -> bool {
        self.node.get_attr("type").is_some_and(|kind| kind == "set")
    }

    pub(crate) fn child(&self, tag: &str) -> Option<&NodeRef<'_>> {
        self.node.get_optional_child(tag)
    }

    /// Answers now.
    pub(crate) fn answer(&self, answer: Answer) {
        let kind = if matches!(answer, Answer::Refused(..)) { "error" } else { "result" };
        let from = self.node.get_attr("to").map_or_else(
            || NodeValue::from("s.whatsapp.net"),
            whatsapp_rust::wacore_binary::node::ValueRef::to_node_value,
        );
        let mut result = NodeBuilder::new("iq").attr("type", kind).attr("from", from);
        if let Some(id) = text_attr(self.node, "id") {
            result = result.attr("id", id);
        }
        let result = match answer {
            Answer::Later => return,
            Answer::Done => result,
            Answer::With(child) => result.children([child]),
            Answer::Refused(code, text) => {
                let error = NodeBuilder::new("error").attr("code", code).attr("text", text);
                result.children([error.build()])
            }
        };
        self.session.connection.send_node(&result.build());
    }
}

/// Handles an `iq`: a request is answered, an answer goes to whoever asked.
pub(crate) fn handle(session: &Session, node: &NodeRef<'_>) {
    let kind = text_attr(node, "type").unwrap_or_default();
    if kind == "result" || kind == "error" {
        if let Some(id) = text_attr(node, "id") {
            session.connection.answered(&id, node.to_owned());
        }
        return;
    }
    let namespace = text_attr(node, "xmlns").unwrap_or_default();
    let (phone, device) = match &session.client {
        Client::Device { phone, device } => (phone.as_str(), *device),
        Client::Unpaired => ("", 0),
    };
    let request = Request { session, node, phone, device };
    let paired = matches!(session.client, Client::Device { .. });
    let answer = match namespace.as_str() {
        "md" => md::answer(&request),
        "w:p" | "urn:xmpp:ping" => Answer::Done,
        _ if !paired => Answer::Refused(401, "not-authorized"),
        "encrypt" => encrypt::answer(&request),
        "usync" => usync::answer(&request),
        "w:g2" => groups::answer(&request),
        "w:sync:app:state" => app_state::answer(&request),
        "privacy" => privacy::answer(&request),
        "blocklist" => blocklist::answer(&request),
        "status" => about::answer(&request),
        "w:profile:picture" => picture::answer(&request),
        "w:mex" => mex::answer(&request),
        "newsletter" => newsletter::answer(&request),
        "passive" => {
            request.answer(Answer::Done);
            if request.child("active").is_some() {
                activate(&session.emulator, &session.connection, phone, device);
            }
            Answer::Later
        }
        other => misc::answer(other, &request),
    };
    request.answer(answer);
}
