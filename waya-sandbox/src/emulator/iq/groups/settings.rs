//! What a group is called, what it is about, and what its members may do.

use whatsapp_rust::wacore_binary::builder::NodeBuilder;
use whatsapp_rust::wacore_binary::{Node, NodeRef};

use super::{
    BAD_REQUEST, CONFLICT, FORBIDDEN, NOT_ACCEPTABLE, NOT_IMPLEMENTED, NOT_KEPT, Outcome, Refusal, check_subject, own,
    pn_only,
};
use crate::emulator::iq::{Answer, Request};
use crate::emulator::relay::group::{self, Told};
use crate::emulator::relay::text_attr;
use crate::emulator::state::Group;
use crate::emulator::state::record::{Description, Stamp};

/// The longest description, in characters.
const MAX_DESCRIPTION: usize = 2048;
/// The lifetimes that WhatsApp offers: a day, a week, ninety days.
const LIFETIMES: [u32; 3] = [86_400, 604_800, 7_776_000];

/// Changes one thing.
pub(super) fn set(request: &Request<'_>, what: &NodeRef<'_>) -> Outcome {
    let mut state = request.session.emulator.state();
    let mut group = own(request, &state)?;
    let told = match what.tag.as_ref() {
        "subject" | "description" | "ephemeral" | "not_ephemeral" if !group.may_edit(request.phone) => {
            return Err(FORBIDDEN);
        }
        "subject" => subject(&mut group, request, what)?,
        "description" => description(&mut group, request, what)?,
        "ephemeral" | "not_ephemeral" => lifetime(&mut group, what)?,
        _ if !group.is_admin(request.phone) => return Err(FORBIDDEN),
        other => switch(&mut group, other, what)?,
    };
    let told = Told { actor: request.phone, what: vec![told], also: &[] };
    if !group::change(&mut state, &mut group, told, pn_only(request)) {
        return Err(NOT_KEPT);
    }
    Ok(Answer::Done)
}

fn text(node: &NodeRef<'_>) -> Option<String> {
    node.content_as_string().map(|text| text.to_string())
}

fn subject(group: &mut Group, request: &Request<'_>, what: &NodeRef<'_>) -> Result<Node, Refusal> {
    let subject = text(what).ok_or(BAD_REQUEST)?;
    check_subject(&subject)?;
    let at = request.now();
    let told = NodeBuilder::new("subject").attr("subject", subject.as_str()).attr("s_t", at).build();
    group.record.subject = subject;
    group.record.subject_set = Some(Stamp { phone: request.phone.to_owned(), at });
    Ok(told)
}

/// Who writes a description has to have seen the one before.
fn description(group: &mut Group, request: &Request<'_>, what: &NodeRef<'_>) -> Result<Node, Refusal> {
    let known = group.record.description.as_ref().map(|known| known.id.as_str());
    if text_attr(what, "prev").as_deref() != known {
        return Err(CONFLICT);
    }
    let id = text_attr(what, "id").unwrap_or_default();
    let body = what.get_optional_child("body").and_then(text);
    let told = NodeBuilder::new("description").attr("id", id.as_str());
    let Some(body) = body.filter(|_| text_attr(what, "delete").is_none()) else {
        group.record.description = None;
        return Ok(told.children([NodeBuilder::new("delete").build()]).build());
    };
    if id.is_empty() || body.chars().count() > MAX_DESCRIPTION {
        return Err(NOT_ACCEPTABLE);
    }
    let told = told.children([NodeBuilder::new("body").bytes(body.clone().into_bytes()).build()]).build();
    let set = Stamp { phone: request.phone.to_owned(), at: request.now() };
    group.record.description = Some(Description { id, body, set });
    Ok(told)
}

fn lifetime(group: &mut Group, what: &NodeRef<'_>) -> Result<Node, Refusal> {
    if what.tag == "not_ephemeral" {
        group.record.ephemeral = 0;
        return Ok(NodeBuilder::new("not_ephemeral").build());
    }
    let seconds = text_attr(what, "expiration").and_then(|text| text.parse().ok()).ok_or(BAD_REQUEST)?;
    if !LIFETIMES.contains(&seconds) {
        return Err(NOT_ACCEPTABLE);
    }
    group.record.ephemeral = seconds;
    Ok(NodeBuilder::new("ephemeral").attr("expiration", seconds).build())
}

/// What only admins may change.
fn switch(group: &mut Group, tag: &str, what: &NodeRef<'_>) -> Result<Node, Refusal> {
    let record = &mut group.record;
    match tag {
        "announcement" => record.announcement = true,
        "not_announcement" => record.announcement = false,
        "locked" => record.locked = true,
        "unlocked" => record.locked = false,
        "member_add_mode" => {
            record.only_admins_add = match text(what).as_deref() {
                Some("admin_add") => true,
                Some("all_member_add") => false,
                _ => return Err(NOT_ACCEPTABLE),
            };
        }
        "membership_approval_mode" => {
            let join = what.get_optional_child("group_join").ok_or(BAD_REQUEST)?;
            record.approval = match text_attr(join, "state").as_deref() {
                Some("on") => true,
                Some("off") => false,
                _ => return Err(NOT_ACCEPTABLE),
            };
        }
        _ => return Err(NOT_IMPLEMENTED),
    }
    Ok(what.to_owned())
}
