//! Privacy settings, and the tokens by which people vouch for each other: issued by one side,
//! passed on to the other, who attaches them to what it sends back.

use whatsapp_rust::wacore_binary::builder::NodeBuilder;
use whatsapp_rust::wacore_binary::{Node, NodeRef};

use super::{Answer, Request};
use crate::emulator::now;
use crate::emulator::relay::{Namespace, jid_attr, queue_for, text_attr};
use crate::emulator::state::Account;
use crate::emulator::state::record::DeviceKey;

const SETTINGS: [&str; 7] = ["last", "online", "profile", "status", "groupadd", "readreceipts", "calladd"];

pub(super) fn answer(request: &Request<'_>) -> Answer {
    if let Some(tokens) = request.child("tokens").filter(|_| request.is_set()) {
        for token in tokens.get_children_by_tag("token") {
            pass_on(request, token);
        }
        return Answer::Done;
    }
    if request.is_set() {
        return Answer::Done;
    }
    let categories = SETTINGS.map(|name| NodeBuilder::new("category").attr("name", name).attr("value", "all").build());
    Answer::With(NodeBuilder::new("privacy").children(categories).build())
}

/// Hands a fresh token to every device of the person it is for.
fn pass_on(request: &Request<'_>, token: &NodeRef<'_>) -> Option<()> {
    let jid = jid_attr(token, "jid")?;
    let stamp = text_attr(token, "t").unwrap_or_else(|| now().to_string());
    let mut state = request.session.emulator.state();
    let issuer = state.accounts.get(request.phone)?;
    let account = state.account_of(&jid)?;
    let keys: Vec<DeviceKey> = account.devices.keys().map(|number| account.key(*number)).collect();
    let stanza = notification(issuer, Namespace::of(&jid), stamp);
    queue_for(&mut state, keys, "notification", &stanza)
}

fn notification(issuer: &Account, namespace: Namespace, stamp: String) -> Node {
    let token = NodeBuilder::new("token")
        .attr("type", "trusted_contact")
        .attr("t", stamp)
        .bytes(rand::random::<[u8; 16]>().to_vec())
        .build();
    NodeBuilder::new("notification")
        .attr("from", namespace.user(issuer))
        .attr("sender_lid", Namespace::Lid.user(issuer))
        .attr("type", "privacy_token")
        .attr("id", format!("token-{:016x}", rand::random::<u64>()))
        .attr("t", now())
        .children([NodeBuilder::new("tokens").children([token]).build()])
        .build()
}
