//! Pictures of people and groups: set by their owners and admins, shown to whom the privacy settings let.

use bytes::Bytes;
use sha2::{Digest as _, Sha256};
use whatsapp_rust::wacore_binary::builder::NodeBuilder;
use whatsapp_rust::wacore_binary::{Jid, Server};

use super::refusal::{BAD_REQUEST, FORBIDDEN, NOT_ACCEPTABLE, NOT_AUTHORIZED, NOT_FOUND, NOT_KEPT, Outcome, Refusal};
use super::{Answer, Request};
use crate::emulator::media;
use crate::emulator::relay::{account, group, jid_attr, text_attr};
use crate::emulator::state::State;
use crate::emulator::state::record::Picture;

/// More bytes than any profile picture that clients make.
const MAX_BYTES: usize = 2 << 20;
/// How a JPEG begins.
const JPEG: [u8; 3] = [0xff, 0xd8, 0xff];

pub(super) fn answer(request: &Request<'_>) -> Answer {
    // Some name it in `to`, most in `target`; without either it is one's own.
    let named = jid_attr(request.node, "target").or_else(|| jid_attr(request.node, "to"));
    let whose = named.filter(|jid| !jid.user.is_empty());
    let outcome = if request.is_set() { set(request, whose.as_ref()) } else { show(request, whose.as_ref()) };
    outcome.unwrap_or_else(Answer::from)
}

fn show(request: &Request<'_>, whose: Option<&Jid>) -> Outcome {
    let asked = request.child("picture").ok_or(BAD_REQUEST)?;
    let emulator = &request.session.emulator;
    let picture = find(request, &emulator.state(), whose)?;
    let hash = <[u8; 32]>::try_from(&picture.hash[..]).map_err(|_| NOT_FOUND)?;
    if text_attr(asked, "id").as_deref() == Some(picture.id.as_str()) {
        return Ok(Answer::With(NodeBuilder::new("picture").build()));
    }
    let (url, direct_path) = media::picture_address(emulator, &hash);
    let kind = text_attr(asked, "type").unwrap_or_else(|| "image".to_owned());
    let shown = NodeBuilder::new("picture").attr("id", picture.id).attr("type", kind);
    Ok(Answer::With(shown.attr("url", url).attr("direct_path", direct_path).build()))
}

fn find(request: &Request<'_>, state: &State, whose: Option<&Jid>) -> Result<Picture, Refusal> {
    if let Some(group) = whose.filter(|jid| jid.server == Server::Group) {
        let group = state.groups.get(group.user.as_str()).ok_or(NOT_FOUND)?;
        let seen = group.record.picture.clone().filter(|_| group.has(request.phone));
        return seen.ok_or(if group.has(request.phone) { NOT_FOUND } else { NOT_AUTHORIZED });
    }
    let account = match whose {
        Some(jid) => state.account_of(jid),
        None => state.accounts.get(request.phone),
    };
    let account = account.ok_or(NOT_FOUND)?;
    let may_see = account.phone() == request.phone || account.shows("profile") && !account.blocks(request.phone);
    if may_see { account.record.picture.clone().ok_or(NOT_FOUND) } else { Err(NOT_AUTHORIZED) }
}

fn set(request: &Request<'_>, whose: Option<&Jid>) -> Outcome {
    let bytes = request.child("picture").and_then(|picture| picture.content_bytes()).unwrap_or_default();
    let picture = keep(request, bytes)?;
    let shown = NodeBuilder::new("picture");
    let answer = Answer::With(match &picture {
        Some(picture) => shown.attr("id", picture.id.as_str()).build(),
        None => shown.build(),
    });
    let mut state = request.session.emulator.state();
    let kept = if let Some(jid) = whose.filter(|jid| jid.server == Server::Group) {
        let mut changed = state.groups.get(jid.user.as_str()).cloned().ok_or(NOT_FOUND)?;
        if !changed.may_edit(request.phone) {
            return Err(FORBIDDEN);
        }
        changed.record.picture = picture;
        group::change_picture(&mut state, &changed, request.phone, request.session.emulator.config().pn_only)
    } else {
        let phone = |jid| state.account_of(jid).map(|account| account.phone().to_owned());
        if whose.is_some_and(|jid| phone(jid).as_deref() != Some(request.phone)) {
            return Err(FORBIDDEN);
        }
        let mut record = state.accounts.get(request.phone).ok_or(NOT_FOUND)?.record.clone();
        record.picture = picture;
        account::change_picture(&mut state, record).is_ok()
    };
    if kept { Ok(answer) } else { Err(NOT_KEPT) }
}

/// Keeps the file; `None` takes the picture away.
fn keep(request: &Request<'_>, bytes: &[u8]) -> Result<Option<Picture>, Refusal> {
    if bytes.is_empty() {
        return Ok(None);
    }
    if bytes.len() > MAX_BYTES || !bytes.starts_with(&JPEG) {
        return Err(NOT_ACCEPTABLE);
    }
    let hash: [u8; 32] = Sha256::digest(bytes).into();
    media::keep(&request.session.emulator, hash, bytes).map_err(|error| {
        tracing::warn!(%error, "cannot keep a picture");
        NOT_KEPT
    })?;
    let id = format!("{}{:03}", request.now(), rand::random_range(0..1_000_u16));
    Ok(Some(Picture { id, hash: Bytes::copy_from_slice(&hash) }))
}
