//! Whom an account does not want to hear of: their messages are acked to them and go nowhere.

use whatsapp_rust::wacore_binary::Node;
use whatsapp_rust::wacore_binary::builder::NodeBuilder;

use super::{Answer, Request};
use crate::emulator::relay::group::namespace;
use crate::emulator::relay::{Namespace, account, jid_attr, text_attr};
use crate::emulator::state::record::Stamp;
use crate::emulator::state::{Account, State};

pub(super) fn answer(request: &Request<'_>) -> Answer {
    let mut state = request.session.emulator.state();
    if request.is_set() {
        return change(request, &mut state);
    }
    match state.accounts.get(request.phone) {
        Some(account) => Answer::With(list(&state, account, request.session.emulator.config().pn_only)),
        None => Answer::Refused(404, "item-not-found"),
    }
}

fn change(request: &Request<'_>, state: &mut State) -> Answer {
    let Some(item) = request.child("item") else { return Answer::Refused(400, "bad-request") };
    let whom = jid_attr(item, "jid").and_then(|jid| state.account_of(&jid));
    let own = state.accounts.get(request.phone);
    let (Some(whom), Some(own)) = (whom, own) else { return Answer::Refused(404, "item-not-found") };
    if whom.phone() == own.phone() {
        return Answer::Refused(406, "not-acceptable");
    }
    let mut record = own.record.clone();
    let (phone, known) = (whom.phone().to_owned(), own.blocks(whom.phone()));
    let action = match text_attr(item, "action").as_deref() {
        Some("block") => {
            if !known {
                record.blocked.push(Stamp { phone, at: request.now() });
            }
            "block"
        }
        Some("unblock") => {
            record.blocked.retain(|blocked| blocked.phone != phone);
            "unblock"
        }
        _ => return Answer::Refused(400, "bad-request"),
    };
    let pn_only = request.session.emulator.config().pn_only;
    let item = NodeBuilder::new("item").attr("jid", namespace(pn_only).user(whom)).attr("action", action).build();
    let told = NodeBuilder::new("blocklist").attr("action", "modify").attr("dhash", hash(&record.blocked));
    let told = told.children([item]).build();
    if account::change(state, record, request.device, told).is_err() {
        return Answer::Refused(500, "internal-server-error");
    }
    match state.accounts.get(request.phone) {
        Some(account) => Answer::With(list(state, account, pn_only)),
        None => Answer::Done,
    }
}

fn list(state: &State, account: &Account, pn_only: bool) -> Node {
    let items = account.record.blocked.iter().filter_map(|blocked| {
        let whom = state.accounts.get(&blocked.phone)?;
        let item = NodeBuilder::new("item").attr("jid", namespace(pn_only).user(whom)).attr("t", blocked.at);
        Some(if pn_only { item.build() } else { item.attr("pn_jid", Namespace::Pn.user(whom)).build() })
    });
    NodeBuilder::new("list").attr("dhash", hash(&account.record.blocked)).children(items).build()
}

/// Tells one state of the list from another.
fn hash(blocked: &[Stamp]) -> String {
    let mut hasher = crc32fast::Hasher::new();
    blocked.iter().for_each(|blocked| hasher.update(blocked.phone.as_bytes()));
    format!("{:08x}", hasher.finalize())
}
