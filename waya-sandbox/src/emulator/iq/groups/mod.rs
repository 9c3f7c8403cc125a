//! Groups: making one, looking at them, and what their members may change.
//!
//! Every change is kept and told to the members before it is answered.

mod community;
mod invites;
mod members;
mod settings;

use whatsapp_rust::wacore_binary::builder::NodeBuilder;
use whatsapp_rust::wacore_binary::{Node, NodeContent, NodeRef, Server};

use super::refusal::{
    BAD_REQUEST, CONFLICT, FORBIDDEN, GONE, NOT_ACCEPTABLE, NOT_FOUND, NOT_IMPLEMENTED, NOT_KEPT, Outcome, Refusal,
};
use super::{Answer, Request};
use crate::emulator::relay::{group, jid_attr, text_attr};
use crate::emulator::state::record::GroupRecord;
use crate::emulator::state::{Group, State};

/// The longest name of a group, in characters.
const MAX_SUBJECT: usize = 100;

pub(super) fn answer(request: &Request<'_>) -> Answer {
    take(request).unwrap_or_else(Answer::from)
}

fn take(request: &Request<'_>) -> Outcome {
    let what = request.node.children().and_then(|children| children.first()).ok_or(BAD_REQUEST)?;
    match (what.tag.as_ref(), request.is_set()) {
        ("create", true) => make(request, what),
        ("sub_groups" | "query_linked" | "linked_groups_participants", false) => community::look(request, what),
        ("join_linked_group", true) => community::join(request, what),
        ("links" | "unlink", true) => community::link(request, what),
        ("delete_parent", true) => community::delete(request),
        ("participating", false) => Ok(participating(request)),
        ("query", false) => {
            let state = request.session.emulator.state();
            Ok(Answer::With(group::describe(&state, &own(request, &state)?, pn_only(request))))
        }
        ("leave", true) => members::leave(request, what),
        ("add" | "remove" | "promote" | "demote", true) => members::change(request, what),
        ("accept", true) => invites::accept(request, what),
        ("invite", set) => invites::answer(request, what, set),
        ("membership_approval_requests", false) => invites::requests(request),
        ("membership_requests_action", true) => invites::decide(request, what),
        ("cancel_membership_requests", true) => invites::cancel(request),
        (_, true) => settings::set(request, what),
        _ => Err(NOT_IMPLEMENTED),
    }
}

fn pn_only(request: &Request<'_>) -> bool {
    request.session.emulator.config().pn_only
}

/// The group a request is addressed to.
fn asked(request: &Request<'_>, state: &State) -> Result<Group, Refusal> {
    let to = jid_attr(request.node, "to").filter(|to| to.server == Server::Group).ok_or(BAD_REQUEST)?;
    state.groups.get(to.user.as_str()).cloned().ok_or(NOT_FOUND)
}

/// The same, for members only.
fn own(request: &Request<'_>, state: &State) -> Result<Group, Refusal> {
    Some(asked(request, state)?).filter(|group| group.has(request.phone)).ok_or(FORBIDDEN)
}

/// The same, for its admins only.
fn administered(request: &Request<'_>, state: &State) -> Result<Group, Refusal> {
    Some(asked(request, state)?).filter(|group| group.is_admin(request.phone)).ok_or(FORBIDDEN)
}

fn participating(request: &Request<'_>) -> Answer {
    let state = request.session.emulator.state();
    let own = state.groups.values().filter(|group| group.has(request.phone));
    let groups: Vec<_> = own.map(|own| group::describe(&state, own, pn_only(request))).collect();
    Answer::With(NodeBuilder::new("groups").children(groups).build())
}

fn make(request: &Request<'_>, create: &NodeRef<'_>) -> Outcome {
    let subject = text_attr(create, "subject").ok_or(BAD_REQUEST)?;
    check_subject(&subject)?;
    let mut state = request.session.emulator.state();
    let invited = create
        .get_children_by_tag("participant")
        .filter_map(|participant| jid_attr(participant, "jid"))
        .filter_map(|jid| state.account_of(&jid).map(|account| account.phone().to_owned()));
    let (closed, open): (Vec<_>, Vec<_>) =
        invited.partition(|phone| invites::must_be_asked(&state, &Group::default(), phone));
    let members: Vec<_> = std::iter::once(request.phone.to_owned()).chain(open).collect();
    let mut record = GroupRecord { subject, members, ..GroupRecord::default() };
    community::prepare(request, &state, create, &mut record)?;
    let mut group = group::make(&mut state, record, pn_only(request));
    if group.record.community {
        community::furnish(&mut state, &group, pn_only(request));
    }
    let mut shown = group::describe(&state, &group, pn_only(request));
    if !closed.is_empty() {
        let asked = ask(request, &mut state, &mut group, &closed)?;
        if let Some(NodeContent::Nodes(children)) = &mut shown.content {
            children.extend(asked);
        }
    }
    Ok(Answer::With(shown))
}

/// Those that a new group may not just be filled with, each with the invitation to send.
fn ask(request: &Request<'_>, state: &mut State, group: &mut Group, closed: &[String]) -> Result<Vec<Node>, Refusal> {
    let mut shown = group::participants(state, group, closed, pn_only(request));
    for (participant, phone) in shown.iter_mut().zip(closed) {
        participant.attrs.insert("error", FORBIDDEN.0.to_string());
        participant.content = Some(NodeContent::Nodes(vec![invites::invitation(group, phone, request.now())]));
    }
    if group::keep(state, group) { Ok(shown) } else { Err(NOT_KEPT) }
}

fn check_subject(subject: &str) -> Result<(), Refusal> {
    let good = (1..=MAX_SUBJECT).contains(&subject.trim().chars().count());
    good.then_some(()).ok_or(NOT_ACCEPTABLE)
}
