//! What was published in a newsletter, and hearing of what is done to it.

use whatsapp_rust::wacore_binary::builder::NodeBuilder;
use whatsapp_rust::wacore_binary::{Jid, NodeRef, Server};

use super::refusal::{BAD_REQUEST, NOT_FOUND, NOT_IMPLEMENTED, Outcome, Refusal};
use super::{Answer, Request};
use crate::emulator::relay::newsletter::shown;
use crate::emulator::relay::{jid_attr, text_attr};
use crate::emulator::state::{Newsletter, State};

/// The most posts in one answer.
const PAGE: usize = 100;
/// How long live updates last, in seconds.
const LIVE: u32 = 300;

pub(super) fn answer(request: &Request<'_>) -> Answer {
    take(request).unwrap_or_else(Answer::from)
}

fn take(request: &Request<'_>) -> Outcome {
    let state = request.session.emulator.state();
    if let Some(asked) = request.child("messages") {
        return posts(request, meant(request, asked, &state)?, asked);
    }
    if let Some(asked) = request.child("live_updates") {
        meant(request, asked, &state)?;
        return Ok(Answer::With(NodeBuilder::new("live_updates").attr("duration", LIVE).build()));
    }
    Err(NOT_IMPLEMENTED)
}

/// Some name it in `to`, some in the request itself, by address or by invite code.
fn meant<'a>(request: &Request<'_>, asked: &NodeRef<'_>, state: &'a State) -> Result<&'a Newsletter, Refusal> {
    let named = jid_attr(request.node, "to").filter(|to| to.server == Server::Newsletter);
    if let Some(jid) = named.or_else(|| jid_attr(asked, "jid")) {
        return state.newsletters.get(jid.user.as_str()).ok_or(NOT_FOUND);
    }
    let code = text_attr(asked, "key").ok_or(BAD_REQUEST)?;
    state.newsletters.values().find(|newsletter| newsletter.record.invite == code).ok_or(NOT_FOUND)
}

/// The newest ones, oldest first.
fn posts(request: &Request<'_>, newsletter: &Newsletter, asked: &NodeRef<'_>) -> Outcome {
    let number = |name| text_attr(asked, name).map(|text| text.parse::<u64>().map_err(|_| BAD_REQUEST)).transpose();
    let count = number("count")?.and_then(|count| usize::try_from(count).ok()).unwrap_or(PAGE).min(PAGE);
    let (before, after) = (number("before")?.unwrap_or(u64::MAX), number("after")?.unwrap_or(0));
    let own = newsletter.role(request.phone) == "owner";
    let found = newsletter.posts().rev().filter(|post| post.server_id < before && post.server_id > after);
    let mut page: Vec<_> = found.take(count).map(|post| shown(post, own)).collect();
    page.reverse();
    let jid = Jid::newsletter(newsletter.record.id.as_str());
    Ok(Answer::With(NodeBuilder::new("messages").attr("jid", jid).attr("t", request.now()).children(page).build()))
}
