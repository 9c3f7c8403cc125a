//! Groups: how they come about and change, and how their members hear of it.

mod show;

use std::collections::BTreeSet;

use whatsapp_rust::wacore_binary::builder::NodeBuilder;
use whatsapp_rust::wacore_binary::{Jid, Node};

use super::account::pictured;
use super::fanout::mode;
use super::{Namespace, queue_for};
use crate::emulator::GroupInfo;
use crate::emulator::state::record::{Change, DeviceKey, GroupRecord};
use crate::emulator::state::{Group, State};
pub(crate) use show::{describe, participants, person, preview};

/// How groups address their members.
pub(crate) fn namespace(pn_only: bool) -> Namespace {
    if pn_only { Namespace::Pn } else { Namespace::Lid }
}

/// The group of this name with at least these members, each of which has an account.
pub(crate) fn ensure(state: &mut State, subject: &str, members: &[String], pn_only: bool) -> GroupInfo {
    let known = state.groups.values().find(|group| group.record.subject == subject).cloned();
    let Some(mut group) = known else {
        return create(state, subject, members, pn_only).info();
    };
    let fresh: Vec<_> = members.iter().filter(|member| !group.has(member)).cloned().collect();
    group.record.members.extend(fresh.iter().cloned());
    if !fresh.is_empty() {
        let added = NodeBuilder::new("add").children(participants(state, &group, &fresh, pn_only)).build();
        let actor = group.creator().to_owned();
        change(state, &mut group, Told { actor: &actor, what: vec![added], also: &[] }, pn_only);
    }
    group.info()
}

/// Makes a group of this name; the first member is its creator.
fn create(state: &mut State, subject: &str, members: &[String], pn_only: bool) -> Group {
    let record = GroupRecord { subject: subject.to_owned(), members: members.to_vec(), ..GroupRecord::default() };
    make(state, record, pn_only)
}

/// Makes a group with these members and settings; the first member is its creator.
pub(crate) fn make(state: &mut State, mut record: GroupRecord, pn_only: bool) -> Group {
    let mut seen = BTreeSet::new();
    record.members.retain(|member| seen.insert(member.clone()));
    let creator = record.members.first().cloned().unwrap_or_default();
    record.id = format!("1203630{:011}", rand::random_range(0..100_000_000_000_u64));
    record.created = state.now();
    record.creator.clone_from(&creator);
    let mut group = Group { record };
    let shown = describe(state, &group, pn_only);
    let created = NodeBuilder::new("create").attr("type", "new").children([shown]).build();
    change(state, &mut group, Told { actor: &creator, what: vec![created], also: &[] }, pn_only);
    group
}

/// What the members hear of a change.
pub(crate) struct Told<'a> {
    /// Who made it.
    pub(crate) actor: &'a str,
    /// One notification for each.
    pub(crate) what: Vec<Node>,
    /// Who hears of it without being a member (any more).
    pub(crate) also: &'a [String],
}

/// Keeps a group as it is now and tells everybody in it. False when it could not be kept: then nobody is told.
pub(crate) fn change(state: &mut State, group: &mut Group, told: Told<'_>, pn_only: bool) -> bool {
    group.record.version += 1;
    if !keep(state, group) {
        return false;
    }
    let hearers: Vec<_> = group.record.members.iter().chain(told.also).cloned().collect();
    for what in told.what {
        notify(state, group, (told.actor, &hearers), what, pn_only);
    }
    true
}

/// Keeps a group as it is now. False when that was not possible.
pub(crate) fn keep(state: &mut State, group: &Group) -> bool {
    match state.commit(Change::Group(group.record.clone())) {
        Ok(()) => true,
        Err(error) => {
            tracing::error!(%error, "cannot keep the group");
            false
        }
    }
}

/// Tells every device of these accounts.
pub(crate) fn notify(state: &mut State, group: &Group, (actor, hearers): (&str, &[String]), what: Node, pn_only: bool) {
    let keys = devices(state, hearers);
    let mut stanza = NodeBuilder::new("notification")
        .attr("from", Jid::group(group.record.id.as_str()))
        .attr("type", "w:gp2")
        .attr("id", format!("group-{:016x}", rand::random::<u64>()))
        .attr("t", state.now())
        .attr("addressing_mode", mode(namespace(pn_only)));
    if let Some(actor) = state.accounts.get(actor) {
        stanza = stanza.attr("participant", namespace(pn_only).user(actor)).attr("notify", actor.record.name.as_str());
        if !pn_only {
            stanza = stanza.attr("participant_pn", Namespace::Pn.user(actor));
        }
    }
    queue_for(state, keys, "notification", &stanza.children([what]).build());
}

/// Every device of these accounts.
fn devices(state: &State, accounts: &[String]) -> Vec<DeviceKey> {
    accounts
        .iter()
        .filter_map(|phone| state.accounts.get(phone))
        .flat_map(|account| account.devices.keys().map(|number| account.key(*number)))
        .collect()
}

/// Keeps a group whose picture was changed, and tells its members. False when that could not be kept.
pub(crate) fn change_picture(state: &mut State, group: &Group, actor: &str, pn_only: bool) -> bool {
    let Some(author) = state.accounts.get(actor).map(|actor| namespace(pn_only).user(actor)) else { return false };
    let told = pictured(&Jid::group(group.record.id.as_str()), &author, group.record.picture.as_ref(), state.now());
    if !keep(state, group) {
        return false;
    }
    let keys = devices(state, &group.record.members);
    queue_for(state, keys, "notification", &told);
    true
}
