//! Invite links, and those who ask to be let in.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use whatsapp_rust::wacore_binary::builder::NodeBuilder;
use whatsapp_rust::wacore_binary::{Jid, Node, NodeRef};

use super::{
    BAD_REQUEST, CONFLICT, GONE, NOT_ACCEPTABLE, NOT_FOUND, NOT_KEPT, Outcome, Refusal, administered, asked, members,
    pn_only,
};
use crate::emulator::iq::{Answer, Request};
use crate::emulator::relay::group::{self, Told};
use crate::emulator::relay::{jid_attr, text_attr};
use crate::emulator::state::group::MemberChange;
use crate::emulator::state::{Account, Group, State};

/// Bytes of a code, which make 22 letters.
const CODE_LENGTH: usize = 16;
/// How long somebody may think about an invitation, in seconds: three days.
const INVITED_FOR: i64 = 3 * 86_400;
/// Links that are remembered as taken back.
const REVOKED_KEPT: usize = 32;

/// A link's code is asked for or replaced by an admin, looked at or followed by anybody who has it.
pub(super) fn answer(request: &Request<'_>, invite: &NodeRef<'_>, set: bool) -> Outcome {
    let mut state = request.session.emulator.state();
    match (text_attr(invite, "code"), set) {
        (Some(code), false) => {
            let group = by_code(&state, &code)?;
            Ok(Answer::With(group::preview(&state, &group, pn_only(request))))
        }
        (Some(code), true) => join(request, &mut state, &code),
        (None, fresh) => link(request, &mut state, fresh),
    }
}

fn by_code(state: &State, code: &str) -> Result<Group, Refusal> {
    let known = |group: &&Group| !code.is_empty() && group.record.invite == code;
    let revoked = |group: &Group| group.record.revoked_invites.iter().any(|revoked| revoked == code);
    let missing = if state.groups.values().any(revoked) { GONE } else { NOT_ACCEPTABLE };
    state.groups.values().find(known).cloned().ok_or(missing)
}

fn link(request: &Request<'_>, state: &mut State, fresh: bool) -> Outcome {
    let mut group = administered(request, state)?;
    let old = group.record.invite.clone();
    if old.is_empty() || fresh {
        let code = URL_SAFE_NO_PAD.encode(rand::random::<[u8; CODE_LENGTH]>());
        group.record.invite.clone_from(&code);
        let mut what = Vec::new();
        if !old.is_empty() {
            group.record.revoked_invites.push(old);
            let overdue = group.record.revoked_invites.len().saturating_sub(REVOKED_KEPT);
            group.record.revoked_invites.drain(..overdue);
            what.push(NodeBuilder::new("invite").attr("code", code.as_str()).build());
        }
        if !group::change(state, &mut group, Told { actor: request.phone, what, also: &[] }, pn_only(request)) {
            return Err(NOT_KEPT);
        }
    }
    Ok(Answer::With(NodeBuilder::new("invite").attr("code", group.record.invite.as_str()).build()))
}

fn join(request: &Request<'_>, state: &mut State, code: &str) -> Outcome {
    let group = by_code(state, code)?;
    let asks = group.record.approval;
    enter(request, state, group, asks)
}

/// Takes up an invitation that an admin sent.
pub(super) fn accept(request: &Request<'_>, what: &NodeRef<'_>) -> Outcome {
    let code = text_attr(what, "code").ok_or(BAD_REQUEST)?;
    let mut state = request.session.emulator.state();
    let mut group = asked(request, &state)?;
    if !group.accept(request.phone, &code, request.now()) {
        return Err(GONE);
    }
    enter(request, &mut state, group, false)
}

/// Whether somebody has to be asked before he is in this group: so he wishes, and did not ask himself.
pub(super) fn must_be_asked(state: &State, group: &Group, phone: &str) -> bool {
    let asked = group.record.requests.iter().any(|request| request.phone == phone);
    let closed = state.accounts.get(phone).is_some_and(|account| !account.shows("groupadd"));
    closed && !asked && !group.has(phone)
}

/// Notes that somebody was asked in; the code goes to him in a message.
pub(super) fn invitation(group: &mut Group, phone: &str, now: i64) -> Node {
    let code = URL_SAFE_NO_PAD.encode(rand::random::<[u8; CODE_LENGTH]>());
    let expires = now + INVITED_FOR;
    group.invite(phone, code.clone(), expires);
    NodeBuilder::new("add_request").attr("code", code).attr("expiration", expires).build()
}

fn enter(request: &Request<'_>, state: &mut State, mut group: Group, asks: bool) -> Outcome {
    if group.has(request.phone) {
        return Err(CONFLICT);
    }
    let jid = Jid::group(group.record.id.as_str());
    if asks {
        if group.ask(request.phone, request.now()) {
            announce_request(request, state, &group)?;
        }
        return Ok(Answer::With(NodeBuilder::new("membership_approval_request").attr("jid", jid).build()));
    }
    group.change_member(MemberChange::Add, request.phone).map_err(|_| CONFLICT)?;
    let shown = group::participants(state, &group, &[request.phone.to_owned()], pn_only(request));
    let what = vec![NodeBuilder::new("add").attr("reason", "invite").children(shown).build()];
    if !group::change(state, &mut group, Told { actor: request.phone, what, also: &[] }, pn_only(request)) {
        return Err(NOT_KEPT);
    }
    Ok(Answer::With(NodeBuilder::new("group").attr("jid", jid).build()))
}

/// Keeps a group with a fresh request, and tells its admins.
fn announce_request(request: &Request<'_>, state: &mut State, group: &Group) -> Result<(), Refusal> {
    let account = state.accounts.get(request.phone).ok_or(NOT_FOUND)?;
    let asking = group::person("requested_user", account, pn_only(request));
    let what = NodeBuilder::new("created_membership_requests")
        .attr("request_method", "invite_link")
        .children([asking])
        .build();
    if !group::keep(state, group) {
        return Err(NOT_KEPT);
    }
    let admins: Vec<_> = group.admins().cloned().collect();
    group::notify(state, group, (request.phone, &admins), what, pn_only(request));
    Ok(())
}

/// Who asks to be let in, for the admins.
pub(super) fn requests(request: &Request<'_>) -> Outcome {
    let state = request.session.emulator.state();
    let group = administered(request, &state)?;
    let shown = group.record.requests.iter().filter_map(|asked| {
        let account = state.accounts.get(&asked.phone)?;
        let mut node = group::person("membership_approval_request", account, pn_only(request));
        node.attrs.insert("request_time", asked.at.to_string());
        node.attrs.insert("request_method", "invite_link");
        Some(node)
    });
    Ok(Answer::With(NodeBuilder::new("membership_approval_requests").children(shown).build()))
}

/// Lets in, or turns away.
pub(super) fn decide(request: &Request<'_>, what: &NodeRef<'_>) -> Outcome {
    let verdict = what.children().and_then(|children| children.first()).ok_or(BAD_REQUEST)?;
    let named: Vec<_> = verdict.get_children_by_tag("participant").filter_map(|who| jid_attr(who, "jid")).collect();
    let mut state = request.session.emulator.state();
    let group = administered(request, &state)?;
    let answer = match verdict.tag.as_ref() {
        "approve" => approve(request, &mut state, group, &named)?,
        "reject" => turn_away(request, &mut state, group, "reject", &named)?,
        _ => return Err(BAD_REQUEST),
    };
    Ok(Answer::With(NodeBuilder::new("membership_requests_action").children([answer]).build()))
}

fn approve(request: &Request<'_>, state: &mut State, group: Group, named: &[Jid]) -> Result<Node, Refusal> {
    let asked = |jid: &&Jid| {
        let phone = state.account_of(jid).map(Account::phone);
        group.record.requests.iter().any(|request| Some(request.phone.as_str()) == phone)
    };
    let (asked, unasked): (Vec<&Jid>, Vec<&Jid>) = named.iter().partition(asked);
    let asked: Vec<_> = asked.into_iter().cloned().collect();
    let added = match members::apply(request, state, group, (MemberChange::Add, "add"), &asked)? {
        Answer::With(added) => added,
        _ => NodeBuilder::new("add").build(),
    };
    let mut answers: Vec<Node> = added.children().map(<[Node]>::to_vec).unwrap_or_default();
    answers.extend(unasked.into_iter().map(unknown));
    Ok(NodeBuilder::new("approve").children(answers).build())
}

fn unknown(jid: &Jid) -> Node {
    NodeBuilder::new("participant").attr("jid", jid).attr("error", NOT_FOUND.0).build()
}

/// Takes back one's own request.
pub(super) fn cancel(request: &Request<'_>) -> Outcome {
    let mut state = request.session.emulator.state();
    let group = asked(request, &state)?;
    let own = [Jid::pn(request.phone)];
    Ok(Answer::With(turn_away(request, &mut state, group, "cancel_membership_requests", &own)?))
}

/// Drops requests and tells the admins and those who asked.
fn turn_away(
    request: &Request<'_>,
    state: &mut State,
    mut group: Group,
    tag: &'static str,
    named: &[Jid],
) -> Result<Node, Refusal> {
    let (mut answers, mut gone, mut shown) = (Vec::new(), Vec::new(), Vec::new());
    for jid in named {
        let Some(account) = state.account_of(jid) else {
            answers.push(unknown(jid));
            continue;
        };
        let before = group.record.requests.len();
        group.record.requests.retain(|asked| asked.phone != account.phone());
        if group.record.requests.len() == before {
            answers.push(unknown(jid));
            continue;
        }
        gone.push(account.phone().to_owned());
        shown.push(group::person("participant", account, pn_only(request)));
    }
    answers.extend(shown.iter().cloned());
    if !gone.is_empty() {
        if !group::keep(state, &group) {
            return Err(NOT_KEPT);
        }
        let hearers: Vec<_> = group.admins().cloned().chain(gone).collect();
        let what = NodeBuilder::new("revoked_membership_requests").children(shown).build();
        group::notify(state, &group, (request.phone, &hearers), what, pn_only(request));
    }
    Ok(NodeBuilder::new(tag).children(answers).build())
}
