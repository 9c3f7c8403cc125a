//! Privacy settings, and the tokens by which people vouch for each other: issued by one side,
//! passed on to the other, who attaches them to what it sends back.

use whatsapp_rust::wacore_binary::builder::NodeBuilder;
use whatsapp_rust::wacore_binary::{Node, NodeRef};

use super::{Answer, Request};
use crate::emulator::relay::{Namespace, account, jid_attr, queue_for, text_attr, tokens};
use crate::emulator::state::record::{AccountRecord, DeviceKey};
use crate::emulator::state::{Account, State};

/// The settings there are, with the values each may have.
const SETTINGS: [(&str, &[&str]); 9] = [
    ("last", VISIBLE),
    ("online", &["all", "match_last_seen"]),
    ("profile", VISIBLE),
    ("status", VISIBLE),
    ("groupadd", VISIBLE),
    ("readreceipts", &["all", "none"]),
    ("calladd", &["all", "known", "contacts"]),
    ("messages", &["all", "contacts"]),
    ("defense", &["off", "on_standard"]),
];
const VISIBLE: &[&str] = &["all", "contacts", "contact_blacklist", "none"];

pub(super) fn answer(request: &Request<'_>) -> Answer {
    if let Some(tokens) = request.child("tokens").filter(|_| request.is_set()) {
        for token in tokens.get_children_by_tag("token") {
            pass_on(request, token);
        }
        return Answer::Done;
    }
    let mut state = request.session.emulator.state();
    if request.is_set() {
        return change(request, &mut state);
    }
    match state.accounts.get(request.phone) {
        Some(account) => Answer::With(shown(&account.record, SETTINGS.map(|(name, _)| name).as_slice())),
        None => Answer::Refused(404, "item-not-found"),
    }
}

/// Takes new settings, all or none of them.
fn change(request: &Request<'_>, state: &mut State) -> Answer {
    let Some(account) = state.accounts.get(request.phone) else { return Answer::Refused(404, "item-not-found") };
    let mut record = account.record.clone();
    let mut changed = Vec::new();
    let wanted = request.child("privacy").map(|privacy| privacy.get_children_by_tag("category")).into_iter().flatten();
    for category in wanted {
        let (Some(name), Some(value)) = (text_attr(category, "name"), text_attr(category, "value")) else {
            return Answer::Refused(400, "bad-request");
        };
        let Some((name, values)) = SETTINGS.iter().find(|(known, _)| *known == name) else {
            return Answer::Refused(400, "bad-request");
        };
        if !values.contains(&value.as_str()) {
            return Answer::Refused(406, "not-acceptable");
        }
        record.privacy.insert((*name).to_owned(), value);
        changed.push(*name);
    }
    if changed.is_empty() {
        return Answer::Refused(400, "bad-request");
    }
    let told = shown(&record, &changed);
    match account::change(state, record, request.device, told.clone()) {
        Ok(()) => Answer::With(told),
        Err(_) => Answer::Refused(500, "internal-server-error"),
    }
}

/// Settings by category, each with its first value unless it was changed.
fn shown(record: &AccountRecord, categories: &[&'static str]) -> Node {
    let settings = SETTINGS.iter().filter(|(name, _)| categories.contains(name));
    let settings = settings.map(|(name, values)| {
        let value = record.privacy.get(*name).map_or(values[0], String::as_str);
        NodeBuilder::new("category").attr("name", *name).attr("value", value).build()
    });
    NodeBuilder::new("privacy").children(settings).build()
}

/// Hands a token to every device of the person it is for.
fn pass_on(request: &Request<'_>, token: &NodeRef<'_>) -> Option<()> {
    let jid = jid_attr(token, "jid")?;
    let stamp = text_attr(token, "t").unwrap_or_else(|| request.now().to_string());
    let mut state = request.session.emulator.state();
    let issuer = state.accounts.get(request.phone)?;
    let account = state.account_of(&jid)?;
    let keys: Vec<DeviceKey> = account.devices.keys().map(|number| account.key(*number)).collect();
    let stanza = notification(issuer, account, Namespace::of(&jid), (stamp, request.now()));
    queue_for(&mut state, keys, "notification", &stanza)
}

/// Clients take only what names themselves.
fn notification(issuer: &Account, holder: &Account, namespace: Namespace, (stamp, at): (String, i64)) -> Node {
    let token = NodeBuilder::new("token")
        .attr("jid", namespace.user(holder))
        .attr("type", "trusted_contact")
        .attr("t", stamp)
        .bytes(tokens::token(issuer, holder.phone()))
        .build();
    NodeBuilder::new("notification")
        .attr("from", namespace.user(issuer))
        .attr("sender_lid", Namespace::Lid.user(issuer))
        .attr("type", "privacy_token")
        .attr("id", format!("token-{:016x}", rand::random::<u64>()))
        .attr("t", at)
        .children([NodeBuilder::new("tokens").children([token]).build()])
        .build()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use whatsapp_rust::wacore_binary::Jid;

    use super::*;
    use crate::emulator::session::trial::{ANI, BUDI, sessions, told_by};

    #[tokio::test]
    async fn a_token_names_who_holds_it_as_he_was_named() {
        let trial = sessions().await;
        let (_budi, mut hears) = trial.another(BUDI, 1);
        let lid = trial.emulator.ensure_account(BUDI, "").lid;
        for holder in [Jid::pn(BUDI), Jid::lid(lid.as_str())] {
            let token = NodeBuilder::new("token").attr("jid", &holder).attr("type", "trusted_contact").attr("t", 1);
            let tokens = NodeBuilder::new("tokens").children([token.build()]).build();
            let iq = NodeBuilder::new("iq").attr("id", "1").attr("xmlns", "privacy").attr("type", "set");
            trial.sessions[0].hand(&iq.attr("to", "s.whatsapp.net").children([tokens]).build());
            let told = told_by(&mut hears);
            let told = told.iter().find_map(|node| node.get_optional_child("tokens")).unwrap();
            let token = told.get_optional_child("token").unwrap();
            assert_eq!(token.attrs.get("jid").unwrap().as_str(), holder.to_string());
            let issuer = Namespace::of(&holder).user(&trial.emulator.state().accounts[ANI]);
            assert_ne!(issuer, holder);
        }
    }
}
