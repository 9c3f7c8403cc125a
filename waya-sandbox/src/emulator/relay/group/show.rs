//! A group as the server shows it: to its members, and to who holds its invite link.

use whatsapp_rust::wacore_binary::builder::NodeBuilder;
use whatsapp_rust::wacore_binary::{Jid, Node, NodeContent};

use super::namespace;
use crate::emulator::relay::Namespace;
use crate::emulator::relay::fanout::mode;
use crate::emulator::state::record::Description;
use crate::emulator::state::{Account, Group, State};

/// A group as its members see it.
pub(crate) fn describe(state: &State, group: &Group, pn_only: bool) -> Node {
    show(state, group, &group.record.members, pn_only)
}

/// A group as its invite link shows it: without its members, but for the creator.
pub(crate) fn preview(state: &State, group: &Group, pn_only: bool) -> Node {
    show(state, group, &[group.creator().to_owned()], pn_only)
}

fn show(state: &State, group: &Group, members: &[String], pn_only: bool) -> Node {
    let mut children = participants(state, group, members, pn_only);
    children.extend(settings(group));
    children.extend(group.record.description.as_ref().map(|text| description(state, text, pn_only)));
    let mut shown = head(state, group, pn_only);
    shown.content = Some(NodeContent::Nodes(children));
    shown
}

fn head(state: &State, group: &Group, pn_only: bool) -> Node {
    let record = &group.record;
    let version = record.created.unsigned_abs() + record.version;
    let named = record.subject_set.as_ref();
    let mut node = NodeBuilder::new("group")
        .attr("id", record.id.as_str())
        .attr("subject", record.subject.as_str())
        .attr("creation", record.created)
        .attr("s_t", named.map_or(record.created, |named| named.at))
        .attr("addressing_mode", mode(namespace(pn_only)))
        .attr("size", record.members.len())
        .attr("p_v_id", version)
        .attr("a_v_id", version);
    for (name, phone) in [("creator", group.creator()), ("s_o", named.map_or(group.creator(), |named| &named.phone))] {
        let Some(account) = state.accounts.get(phone) else { continue };
        node = node.attr(name, namespace(pn_only).user(account));
        if !pn_only {
            let name = if name == "creator" { "creator_pn" } else { "s_o_pn" };
            node = node.attr(name, Namespace::Pn.user(account));
        }
    }
    node.build()
}

fn settings(group: &Group) -> Vec<Node> {
    let record = &group.record;
    let mut settings = Vec::new();
    if record.locked {
        settings.push(NodeBuilder::new("locked").build());
    }
    if record.announcement {
        settings.push(NodeBuilder::new("announcement").build());
    }
    if record.ephemeral > 0 {
        settings.push(NodeBuilder::new("ephemeral").attr("expiration", record.ephemeral).build());
    }
    if record.approval {
        let join = NodeBuilder::new("group_join").attr("state", "on").build();
        settings.push(NodeBuilder::new("membership_approval_mode").children([join]).build());
    }
    settings.extend(community(group));
    let mode = if record.only_admins_add { "admin_add" } else { "all_member_add" };
    settings.push(NodeBuilder::new("member_add_mode").string_content(mode).build());
    settings
}

/// What it is to other groups.
fn community(group: &Group) -> Vec<Node> {
    let record = &group.record;
    let mut shown = Vec::new();
    if record.community {
        let mut parent = NodeBuilder::new("parent");
        if record.approval {
            parent = parent.attr("default_membership_approval_mode", "request_required");
        }
        shown.push(parent.build());
    }
    if record.open_to_new_groups {
        shown.push(NodeBuilder::new("allow_non_admin_sub_group_creation").build());
    }
    if !record.parent.is_empty() {
        shown.push(NodeBuilder::new("linked_parent").attr("jid", Jid::group(record.parent.as_str())).build());
    }
    if record.default_of_parent {
        shown.push(NodeBuilder::new("default_sub_group").build());
    }
    shown
}

fn description(state: &State, text: &Description, pn_only: bool) -> Node {
    let mut node = NodeBuilder::new("description").attr("id", text.id.as_str()).attr("t", text.set.at);
    if let Some(author) = state.accounts.get(&text.set.phone) {
        node = node.attr("participant", namespace(pn_only).user(author));
        if !pn_only {
            node = node.attr("participant_pn", Namespace::Pn.user(author));
        }
    }
    node.children([NodeBuilder::new("body").bytes(text.body.clone().into_bytes()).build()]).build()
}

/// These accounts as participants of the group.
pub(crate) fn participants(state: &State, group: &Group, phones: &[String], pn_only: bool) -> Vec<Node> {
    phones
        .iter()
        .filter_map(|phone| state.accounts.get(phone))
        .map(|account| {
            let mut participant = person("participant", account, pn_only);
            if let Some(rank) = group.rank(account.phone()) {
                participant.attrs.insert("type", rank);
            }
            participant
        })
        .collect()
}

/// Somebody as groups address their members, with his other address beside it.
pub(crate) fn person(tag: &'static str, account: &Account, pn_only: bool) -> Node {
    let (other, address) =
        if pn_only { ("lid", Namespace::Lid.user(account)) } else { ("phone_number", Namespace::Pn.user(account)) };
    NodeBuilder::new(tag).attr("jid", namespace(pn_only).user(account)).attr(other, address).build()
}
