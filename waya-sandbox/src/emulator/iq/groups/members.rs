//! Who is in a group, and as what.

use whatsapp_rust::wacore_binary::builder::NodeBuilder;
use whatsapp_rust::wacore_binary::{Jid, Node, NodeContent, NodeRef};

use super::{BAD_REQUEST, FORBIDDEN, NOT_FOUND, NOT_KEPT, Outcome, invites, own, pn_only};
use crate::emulator::iq::{Answer, Request};
use crate::emulator::relay::group::{self, Told};
use crate::emulator::relay::{jid_attr, text_attr};
use crate::emulator::state::group::{MemberChange, participant_error};
use crate::emulator::state::{Group, State};

/// Adds, removes, promotes or demotes; every participant is answered for by itself.
pub(super) fn change(request: &Request<'_>, what: &NodeRef<'_>) -> Outcome {
    let (change, tag) = match what.tag.as_ref() {
        "add" => (MemberChange::Add, "add"),
        "remove" => (MemberChange::Remove, "remove"),
        "promote" => (MemberChange::Promote, "promote"),
        _ => (MemberChange::Demote, "demote"),
    };
    let mut state = request.session.emulator.state();
    let group = own(request, &state)?;
    if !group.may_change(request.phone, change) {
        return Err(FORBIDDEN);
    }
    let named: Vec<_> = what.get_children_by_tag("participant").filter_map(|who| jid_attr(who, "jid")).collect();
    if named.is_empty() {
        return Err(BAD_REQUEST);
    }
    apply(request, &mut state, group, (change, tag), &named)
}

/// Changes these participants of a group, tells everybody, and answers with what became of each.
pub(super) fn apply(
    request: &Request<'_>,
    state: &mut State,
    mut group: Group,
    (change, tag): (MemberChange, &'static str),
    named: &[Jid],
) -> Outcome {
    let before = group.clone();
    let mut changed = Vec::new();
    let mut answers = Vec::new();
    let mut invited = false;
    for jid in named {
        let Some(phone) = state.account_of(jid).map(|account| account.phone().to_owned()) else {
            answers
                .push(refused(NodeBuilder::new("participant").attr("jid", jid).build(), participant_error::NOT_FOUND));
            continue;
        };
        let may_not = change == MemberChange::Add && invites::must_be_asked(state, &group, &phone);
        let verdict = if may_not { Err(FORBIDDEN.0) } else { group.change_member(change, &phone) };
        // Who was removed is shown as what he was.
        let shown_in = if change == MemberChange::Remove { &before } else { &group };
        let shown = group::participants(state, shown_in, std::slice::from_ref(&phone), pn_only(request));
        answers.extend(shown.into_iter().map(|shown| match verdict {
            Ok(()) => shown,
            Err(code) => refused(shown, code),
        }));
        if may_not && let Some(answer) = answers.last_mut() {
            answer.content = Some(NodeContent::Nodes(vec![invites::invitation(&mut group, &phone, request.now())]));
            invited = true;
        }
        if verdict.is_ok() {
            changed.push(phone);
        }
    }
    if !changed.is_empty() {
        let shown = group::participants(state, &group, &changed, pn_only(request));
        let what = vec![NodeBuilder::new(tag).children(shown).build()];
        let also: &[String] = if change == MemberChange::Remove { &changed } else { &[] };
        let told = Told { actor: request.phone, what, also };
        if !group::change(state, &mut group, told, pn_only(request)) {
            return Err(NOT_KEPT);
        }
    } else if invited && !group::keep(state, &group) {
        return Err(NOT_KEPT);
    }
    Ok(Answer::With(NodeBuilder::new(tag).children(answers).build()))
}

fn refused(mut participant: Node, code: u16) -> Node {
    participant.attrs.insert("error", code.to_string());
    participant
}

/// Leaves groups; the answer names them.
pub(super) fn leave(request: &Request<'_>, what: &NodeRef<'_>) -> Outcome {
    let named: Vec<_> = what.get_children_by_tag("group").filter_map(|group| text_attr(group, "id")).collect();
    if named.is_empty() {
        return Err(BAD_REQUEST);
    }
    let mut state = request.session.emulator.state();
    let mut left = Vec::new();
    for id in named {
        let number = id.strip_suffix("@g.us").unwrap_or(&id);
        let known = state.groups.get(number).filter(|group| group.has(request.phone)).cloned();
        let answer = NodeBuilder::new("group").attr("id", id.as_str());
        left.push(match known {
            None => answer.attr("error", NOT_FOUND.0).build(),
            Some(group) => {
                if !leave_one(request, &mut state, group) {
                    return Err(NOT_KEPT);
                }
                answer.build()
            }
        });
    }
    Ok(Answer::With(NodeBuilder::new("leave").children(left).build()))
}

fn leave_one(request: &Request<'_>, state: &mut State, mut group: Group) -> bool {
    let gone = [request.phone.to_owned()];
    let heir = group.leave(request.phone);
    let shown = group::participants(state, &group, &gone, pn_only(request));
    let mut what = vec![NodeBuilder::new("remove").children(shown).build()];
    if let Some(heir) = heir {
        let shown = group::participants(state, &group, &[heir], pn_only(request));
        what.push(NodeBuilder::new("promote").children(shown).build());
    }
    group::change(state, &mut group, Told { actor: request.phone, what, also: &gone }, pn_only(request))
}
