//! Pictures of people and groups: set by their owners and admins, shown to whom the privacy settings let.

use bytes::Bytes;
use sha2::{Digest as _, Sha256};
use whatsapp_rust::wacore_binary::builder::NodeBuilder;
use whatsapp_rust::wacore_binary::{Jid, Server};

use super::{Answer, Request};
use crate::emulator::relay::{account, group, jid_attr, text_attr};
use crate::emulator::state::State;
use crate::emulator::state::record::Picture;
use crate::emulator::{media, now};

/// More bytes than any profile picture that clients make.
const MAX_BYTES: usize = 2 << 20;
/// How a JPEG begins.
const JPEG: [u8; 3] = [0xff, 0xd8, 0xff];

const BAD_REQUEST: Answer = Answer::Refused(400, "bad-request");
const NOT_AUTHORIZED: Answer = Answer::Refused(401, "not-authorized");
const FORBIDDEN: Answer = Answer::Refused(403, "forbidden");
const NOT_FOUND: Answer = Answer::Refused(404, "item-not-found");
const NOT_ACCEPTABLE: Answer = Answer::Refused(406, "not-acceptable");
const NOT_KEPT: Answer = Answer::Refused(500, "internal-server-error");

pub(super) fn answer(request: &Request<'_>) -> Answer {
    // Some name it in `to`, most in `target`; without either it is one's own.
    let named = jid_attr(request.node, "target").or_else(|| jid_attr(request.node, "to"));
    let whose = named.filter(|jid| !jid.user.is_empty());
    if request.is_set() { set(request, whose.as_ref()) } else { show(request, whose.as_ref()) }
}

fn show(request: &Request<'_>, whose: Option<&Jid>) -> Answer {
    let Some(asked) = request.child("picture") else { return BAD_REQUEST };
    let emulator = &request.session.emulator;
    let picture = match find(request, &emulator.state(), whose) {
        Ok(picture) => picture,
        Err(refusal) => return refusal,
    };
    let Ok(hash) = <[u8; 32]>::try_from(&picture.hash[..]) else { return NOT_FOUND };
    if text_attr(asked, "id").as_deref() == Some(picture.id.as_str()) {
        return Answer::With(NodeBuilder::new("picture").build());
    }
    let (url, direct_path) = media::picture_address(emulator, &hash);
    let kind = text_attr(asked, "type").unwrap_or_else(|| "image".to_owned());
    let shown = NodeBuilder::new("picture").attr("id", picture.id).attr("type", kind);
    Answer::With(shown.attr("url", url).attr("direct_path", direct_path).build())
}

fn find(request: &Request<'_>, state: &State, whose: Option<&Jid>) -> Result<Picture, Answer> {
    if let Some(group) = whose.filter(|jid| jid.server == Server::Group) {
        let group = state.groups.get(group.user.as_str()).ok_or(NOT_FOUND)?;
        return if group.has(request.phone) {
            group.record.picture.clone().ok_or(NOT_FOUND)
        } else {
            Err(NOT_AUTHORIZED)
        };
    }
    let account = match whose {
        Some(jid) => state.account_of(jid),
        None => state.accounts.get(request.phone),
    };
    let account = account.ok_or(NOT_FOUND)?;
    let may_see = account.phone() == request.phone || account.shows("profile") && !account.blocks(request.phone);
    if may_see { account.record.picture.clone().ok_or(NOT_FOUND) } else { Err(NOT_AUTHORIZED) }
}

fn set(request: &Request<'_>, whose: Option<&Jid>) -> Answer {
    let bytes = request.child("picture").and_then(|picture| picture.content_bytes()).unwrap_or_default();
    let picture = match keep(request, bytes) {
        Ok(picture) => picture,
        Err(refusal) => return refusal,
    };
    let mut state = request.session.emulator.state();
    let shown = NodeBuilder::new("picture");
    let answer = Answer::With(match &picture {
        Some(picture) => shown.attr("id", picture.id.as_str()).build(),
        None => shown.build(),
    });
    if let Some(jid) = whose.filter(|jid| jid.server == Server::Group) {
        let Some(mut changed) = state.groups.get(jid.user.as_str()).cloned() else { return NOT_FOUND };
        if !changed.may_edit(request.phone) {
            return FORBIDDEN;
        }
        changed.record.picture = picture;
        let pn_only = request.session.emulator.config().pn_only;
        return if group::change_picture(&mut state, &changed, request.phone, pn_only) { answer } else { NOT_KEPT };
    }
    let is_own = whose.is_none_or(|jid| state.account_of(jid).is_some_and(|account| account.phone() == request.phone));
    let Some(own) = state.accounts.get(request.phone).filter(|_| is_own) else { return FORBIDDEN };
    let mut record = own.record.clone();
    record.picture = picture;
    if account::change_picture(&mut state, record).is_ok() { answer } else { NOT_KEPT }
}

/// Keeps the file; `None` takes the picture away.
fn keep(request: &Request<'_>, bytes: &[u8]) -> Result<Option<Picture>, Answer> {
    if bytes.is_empty() {
        return Ok(None);
    }
    if bytes.len() > MAX_BYTES || !bytes.starts_with(&JPEG) {
        return Err(NOT_ACCEPTABLE);
    }
    let hash: [u8; 32] = Sha256::digest(bytes).into();
    if let Err(error) = media::keep(&request.session.emulator, hash, bytes) {
        tracing::warn!(%error, "cannot keep a picture");
        return Err(NOT_KEPT);
    }
    let id = format!("{}{:03}", now(), rand::random_range(0..1_000_u16));
    Ok(Some(Picture { id, hash: Bytes::copy_from_slice(&hash) }))
}
