//! Groups: how they come about, and how their members hear of it.

use whatsapp_rust::wacore_binary::builder::NodeBuilder;
use whatsapp_rust::wacore_binary::{Jid, Node};

use super::fanout::mode;
use super::{Namespace, queue_for};
use crate::emulator::state::record::{Change, DeviceKey, GroupRecord};
use crate::emulator::state::{Group, State};
use crate::emulator::{GroupInfo, now};

/// How groups address their members.
pub(crate) fn namespace(pn_only: bool) -> Namespace {
    if pn_only { Namespace::Pn } else { Namespace::Lid }
}

/// The group of this name with at least these members, each of which has an account.
pub(crate) fn ensure(state: &mut State, subject: &str, members: &[String], pn_only: bool) -> GroupInfo {
    let known = state.groups.values().find(|group| group.record.subject == subject).cloned();
    let Some(group) = known else {
        return create(state, subject, members, pn_only).info();
    };
    let mut record = group.record;
    let fresh: Vec<_> = members.iter().filter(|member| !record.members.contains(member)).cloned().collect();
    record.members.extend(fresh.iter().cloned());
    let group = Group { record: record.clone() };
    if !fresh.is_empty() && kept(state, record) {
        let participants = participants(state, &fresh, pn_only);
        let added = NodeBuilder::new("add").children(participants).build();
        notify(state, &group, added, pn_only);
    }
    group.info()
}

/// Makes a group; the first member is its creator.
pub(crate) fn create(state: &mut State, subject: &str, members: &[String], pn_only: bool) -> Group {
    let mut unique = Vec::new();
    for member in members {
        if !unique.contains(member) {
            unique.push(member.clone());
        }
    }
    let record = GroupRecord {
        id: format!("1203630{:011}", rand::random_range(0..100_000_000_000_u64)),
        subject: subject.to_owned(),
        members: unique,
        created: now(),
    };
    let group = Group { record: record.clone() };
    if kept(state, record) {
        let shown = describe(state, &group, pn_only);
        let created = NodeBuilder::new("create").attr("type", "new").children([shown]).build();
        notify(state, &group, created, pn_only);
    }
    group
}

fn kept(state: &mut State, record: GroupRecord) -> bool {
    match state.commit(Change::Group(record)) {
        Ok(()) => true,
        Err(error) => {
            tracing::error!(%error, "cannot keep the group");
            false
        }
    }
}

/// Tells every device of every member.
fn notify(state: &mut State, group: &Group, what: Node, pn_only: bool) {
    let keys: Vec<DeviceKey> = group
        .record
        .members
        .iter()
        .filter_map(|member| state.accounts.get(member))
        .flat_map(|account| account.devices.keys().map(|number| account.key(*number)))
        .collect();
    let mut stanza = NodeBuilder::new("notification")
        .attr("from", Jid::group(group.record.id.as_str()))
        .attr("type", "w:gp2")
        .attr("id", format!("group-{:016x}", rand::random::<u64>()))
        .attr("t", now())
        .attr("addressing_mode", mode(namespace(pn_only)));
    if let Some(creator) = state.accounts.get(group.creator()) {
        stanza = stanza.attr("participant", namespace(pn_only).user(creator));
    }
    queue_for(state, keys, "notification", &stanza.children([what]).build());
}

/// A group as its members see it.
pub(crate) fn describe(state: &State, group: &Group, pn_only: bool) -> Node {
    let record = &group.record;
    let mut node = NodeBuilder::new("group")
        .attr("id", record.id.as_str())
        .attr("subject", record.subject.as_str())
        .attr("creation", record.created)
        .attr("s_t", record.created)
        .attr("addressing_mode", mode(namespace(pn_only)))
        .attr("size", record.members.len())
        .attr("p_v_id", record.created)
        .attr("a_v_id", record.created);
    if let Some(creator) = state.accounts.get(group.creator()) {
        let creator = namespace(pn_only).user(creator);
        node = node.attr("creator", &creator).attr("s_o", creator);
    }
    let mut members = participants(state, &record.members, pn_only);
    if let Some(creator) = members.first_mut() {
        creator.attrs.insert("type", "superadmin");
    }
    node.children(members).build()
}

fn participants(state: &State, members: &[String], pn_only: bool) -> Vec<Node> {
    members
        .iter()
        .filter_map(|member| state.accounts.get(member))
        .map(|account| {
            let participant = NodeBuilder::new("participant").attr("jid", namespace(pn_only).user(account));
            if pn_only {
                participant.build()
            } else {
                participant.attr("phone_number", Namespace::Pn.user(account)).build()
            }
        })
        .collect()
}
