//! Communities: a group that other groups belong to, the first of which is for announcements to all of it.

use whatsapp_rust::wacore_binary::builder::NodeBuilder;
use whatsapp_rust::wacore_binary::{Jid, Node, NodeRef};

use super::{
    BAD_REQUEST, CONFLICT, FORBIDDEN, NOT_ACCEPTABLE, NOT_FOUND, NOT_KEPT, Outcome, Refusal, administered, own, pn_only,
};
use crate::emulator::iq::{Answer, Request};
use crate::emulator::relay::group::{self, Told};
use crate::emulator::relay::{jid_attr, text_attr};
use crate::emulator::state::record::GroupRecord;
use crate::emulator::state::{Group, State};

/// What a group that is just made belongs to, or that it is a community.
pub(super) fn prepare(
    request: &Request<'_>,
    state: &State,
    create: &NodeRef<'_>,
    record: &mut GroupRecord,
) -> Result<(), Refusal> {
    if let Some(parent) = create.get_optional_child("linked_parent") {
        let jid = jid_attr(parent, "jid").ok_or(BAD_REQUEST)?;
        let community = state.groups.get(jid.user.as_str()).filter(|group| group.record.community).ok_or(NOT_FOUND)?;
        let open = community.record.open_to_new_groups && community.has(request.phone);
        if !open && !community.is_admin(request.phone) {
            return Err(FORBIDDEN);
        }
        record.parent.clone_from(&community.record.id);
    } else if let Some(parent) = create.get_optional_child("parent") {
        record.community = true;
        record.approval = text_attr(parent, "default_membership_approval_mode").as_deref() == Some("request_required");
        record.open_to_new_groups = create.get_optional_child("allow_non_admin_sub_group_creation").is_some();
    }
    Ok(())
}

/// Every community has a group for announcements.
pub(super) fn furnish(state: &mut State, community: &Group, pn_only: bool) {
    let record = GroupRecord {
        subject: community.record.subject.clone(),
        members: community.record.members.clone(),
        announcement: true,
        parent: community.record.id.clone(),
        default_of_parent: true,
        ..Default::default()
    };
    group::make(state, record, pn_only);
}

pub(super) fn look(request: &Request<'_>, what: &NodeRef<'_>) -> Outcome {
    let state = request.session.emulator.state();
    let community = own(request, &state)?;
    let of_it = || state.groups.values().filter(|group| group.record.parent == community.record.id);
    let (tag, children): (_, Vec<Node>) = match what.tag.as_ref() {
        "sub_groups" => ("sub_groups", of_it().map(brief).collect()),
        "linked_groups_participants" => {
            let mut phones: Vec<_> = of_it().flat_map(|group| group.record.members.iter().cloned()).collect();
            phones.sort_unstable();
            phones.dedup();
            ("linked_groups_participants", group::participants(&state, &community, &phones, pn_only(request)))
        }
        _ => {
            let asked = linked(&state, &community, what)?;
            let shown = group::describe(&state, &asked, pn_only(request));
            return Ok(Answer::With(NodeBuilder::new("linked_group").children([shown]).build()));
        }
    };
    Ok(Answer::With(NodeBuilder::new(tag).children(children).build()))
}

/// A group of this community, by the address that a request names.
fn linked(state: &State, community: &Group, what: &NodeRef<'_>) -> Result<Group, Refusal> {
    let jid = jid_attr(what, "jid").ok_or(BAD_REQUEST)?;
    let found = state.groups.get(jid.user.as_str()).filter(|group| group.record.parent == community.record.id);
    found.cloned().ok_or(NOT_FOUND)
}

fn brief(group: &Group) -> Node {
    let node = NodeBuilder::new("group")
        .attr("id", group.record.id.as_str())
        .attr("subject", group.record.subject.as_str())
        .attr("s_t", group.record.subject_set.as_ref().map_or(group.record.created, |set| set.at));
    if group.record.default_of_parent {
        node.children([NodeBuilder::new("default_sub_group").build()]).build()
    } else {
        node.build()
    }
}

/// A member of a community comes into one of its groups.
pub(super) fn join(request: &Request<'_>, what: &NodeRef<'_>) -> Outcome {
    let mut state = request.session.emulator.state();
    let community = own(request, &state)?;
    let mut joined = linked(&state, &community, what)?;
    if !joined.has(request.phone) {
        let phone = request.phone.to_owned();
        joined.record.members.push(phone.clone());
        let shown = group::participants(&state, &joined, &[phone], pn_only(request));
        let added = NodeBuilder::new("add").attr("reason", "linked_group_join").children(shown).build();
        let told = Told { actor: request.phone, what: vec![added], also: &[] };
        if !group::change(&mut state, &mut joined, told, pn_only(request)) {
            return Err(NOT_KEPT);
        }
    }
    let shown = group::describe(&state, &joined, pn_only(request));
    Ok(Answer::With(NodeBuilder::new("linked_group").children([shown]).build()))
}

/// Groups come to a community or leave it, each with a verdict of its own.
pub(super) fn link(request: &Request<'_>, what: &NodeRef<'_>) -> Outcome {
    let joins = what.tag == "links";
    let list = if joins { what.get_optional_child("link").ok_or(BAD_REQUEST)? } else { what };
    let mut state = request.session.emulator.state();
    let community = administered(request, &state)?;
    if !community.record.community {
        return Err(NOT_ACCEPTABLE);
    }
    let asked: Vec<_> = list.get_children_by_tag("group").filter_map(|group| jid_attr(group, "jid")).collect();
    let mut verdicts = Vec::with_capacity(asked.len());
    for jid in asked {
        let mut verdict = NodeBuilder::new("group").attr("jid", &jid);
        if let Err(Refusal(code, _)) = relink(request, &mut state, &community, &jid, joins) {
            verdict = verdict.attr("error", code);
        }
        verdicts.push(verdict.build());
    }
    let (tag, kind) = if joins { ("link", "link_type") } else { ("unlink", "unlink_type") };
    let list = NodeBuilder::new(tag).attr(kind, "sub_group").children(verdicts).build();
    Ok(Answer::With(if joins { NodeBuilder::new("links").children([list]).build() } else { list }))
}

fn relink(request: &Request<'_>, state: &mut State, community: &Group, jid: &Jid, joins: bool) -> Result<(), Refusal> {
    let mut changed = state.groups.get(jid.user.as_str()).cloned().ok_or(NOT_FOUND)?;
    let present = changed.record.parent == community.record.id;
    if joins && (present || !changed.record.parent.is_empty() || changed.record.community) {
        return Err(CONFLICT);
    }
    if joins && !changed.is_admin(request.phone) {
        return Err(FORBIDDEN);
    }
    if !joins && !present {
        return Err(NOT_FOUND);
    }
    if !joins && changed.record.default_of_parent {
        return Err(NOT_ACCEPTABLE);
    }
    changed.record.parent = if joins { community.record.id.clone() } else { String::new() };
    let parent = NodeBuilder::new("group")
        .attr("jid", Jid::group(community.record.id.as_str()))
        .attr("subject", community.record.subject.as_str())
        .build();
    let told = if joins {
        NodeBuilder::new("link").attr("link_type", "parent_group")
    } else {
        NodeBuilder::new("unlink").attr("unlink_type", "parent_group").attr("unlink_reason", "unlink_group")
    };
    let told = Told { actor: request.phone, what: vec![told.children([parent]).build()], also: &[] };
    if group::change(state, &mut changed, told, pn_only(request)) { Ok(()) } else { Err(NOT_KEPT) }
}

/// A community ends: its groups go on by themselves, the one for announcements ends with it.
pub(super) fn delete(request: &Request<'_>) -> Outcome {
    let mut state = request.session.emulator.state();
    let mut community = administered(request, &state)?;
    if !community.record.community {
        return Err(NOT_ACCEPTABLE);
    }
    let of_it: Vec<_> =
        state.groups.values().filter(|group| group.record.parent == community.record.id).cloned().collect();
    for mut group in of_it {
        let ends = std::mem::take(&mut group.record.default_of_parent);
        group.record.parent.clear();
        dissolve(request, &mut state, &mut group, ends)?;
    }
    dissolve(request, &mut state, &mut community, true)?;
    Ok(Answer::Done)
}

fn dissolve(request: &Request<'_>, state: &mut State, group: &mut Group, ends: bool) -> Result<(), Refusal> {
    let also = if ends { std::mem::take(&mut group.record.members) } else { Vec::new() };
    let what = if ends {
        NodeBuilder::new("delete").attr("reason", "delete_parent").build()
    } else {
        NodeBuilder::new("unlink").attr("unlink_type", "parent_group").attr("unlink_reason", "delete_parent").build()
    };
    let told = Told { actor: request.phone, what: vec![what], also: &also };
    if group::change(state, group, told, pn_only(request)) { Ok(()) } else { Err(NOT_KEPT) }
}
