//! Newsletters: making them, finding them, following them.

use serde_json::{Value, json};
use whatsapp_rust::wacore::iq::mex_operations as documents;

use super::Found;
use crate::emulator::iq::Request;
use crate::emulator::iq::refusal::{BAD_REQUEST, FORBIDDEN, NOT_ACCEPTABLE, NOT_FOUND, NOT_KEPT, Refusal};
use crate::emulator::relay::newsletter as relay;
use crate::emulator::state::{Newsletter, State};

/// The longest name, in characters.
const MAX_NAME: usize = 100;
/// The longest description, in characters.
const MAX_DESCRIPTION: usize = 2048;

/// What a document does. WhatsApp Web's own numbers, and those that whatsmeow and Baileys carry.
fn operation(document: &str) -> Option<fn(&Request<'_>, &Value) -> Found> {
    Some(match document {
        documents::fetch_all_newsletters_metadata::DOC_ID | "6388546374527196" | "8621797084555037" => subscribed,
        documents::fetch_newsletter::DOC_ID | "6563316087068696" | "9779843322044422" => metadata,
        documents::create_newsletter::DOC_ID | "8823471724422422" | "6234210096708695" | "27527996220149684" => create,
        documents::update_newsletter::DOC_ID | "7150902998257522" => update,
        documents::join_newsletter::DOC_ID | "9926858900719341" => follow,
        documents::leave_newsletter::DOC_ID | "6392786840836363" | "7238632346214362" => unfollow,
        documents::update_newsletter_user_setting::DOC_ID => setting,
        "29766401636284406" | "6274038279359549" => mute,
        "9864994326891137" | "6068417879924485" => unmute,
        _ => return None,
    })
}

pub(super) fn find(request: &Request<'_>, document: &str, variables: &Value) -> Option<Found> {
    Some(operation(document)?(request, variables))
}

#[expect(clippy::unnecessary_wraps, reason = "one shape for all operations")]
fn subscribed(request: &Request<'_>, _: &Value) -> Found {
    let state = request.session.emulator.state();
    let own = state.newsletters.values().filter(|newsletter| newsletter.is_followed_by(request.phone));
    Ok(("xwa2_newsletter_subscribed", own.map(|own| show(own, request.phone)).collect()))
}

fn metadata(request: &Request<'_>, variables: &Value) -> Found {
    let state = request.session.emulator.state();
    let key = variables["input"]["key"].as_str().ok_or(BAD_REQUEST)?;
    let found = if variables["input"]["type"] == "INVITE" {
        let code = key.rsplit('/').next().unwrap_or(key);
        state.newsletters.values().find(|newsletter| newsletter.record.invite == code)
    } else {
        state.newsletters.get(id(key))
    };
    Ok(("xwa2_newsletter", show(found.ok_or(NOT_FOUND)?, request.phone)))
}

fn create(request: &Request<'_>, variables: &Value) -> Found {
    // Older documents name it so.
    let input = [&variables["input"], &variables["newsletter_input"]].into_iter().find(|input| input.is_object());
    let input = input.ok_or(BAD_REQUEST)?;
    let name = check(input["name"].as_str().ok_or(BAD_REQUEST)?, 1, MAX_NAME)?;
    let description = check(input["description"].as_str().unwrap_or_default(), 0, MAX_DESCRIPTION)?;
    let mut state = request.session.emulator.state();
    let made = relay::create(&mut state, request.phone, name, description).ok_or(NOT_KEPT)?;
    Ok(("xwa2_newsletter_create", show(&made, request.phone)))
}

fn update(request: &Request<'_>, variables: &Value) -> Found {
    let mut state = request.session.emulator.state();
    let mut changed = meant(&state, variables)?;
    if changed.role(request.phone) != "owner" {
        return Err(FORBIDDEN);
    }
    let updates = &variables["updates"];
    if let Some(name) = updates["name"].as_str() {
        check(name, 1, MAX_NAME)?.clone_into(&mut changed.record.name);
    }
    if let Some(text) = updates["description"].as_str() {
        check(text, 0, MAX_DESCRIPTION)?.clone_into(&mut changed.record.description);
    }
    keep(&mut state, &changed)?;
    Ok(("xwa2_newsletter_update", show(&changed, request.phone)))
}

fn follow(request: &Request<'_>, variables: &Value) -> Found {
    let mut state = request.session.emulator.state();
    let mut followed = meant(&state, variables)?;
    if !followed.is_followed_by(request.phone) {
        followed.record.followers.push(request.phone.to_owned());
        keep(&mut state, &followed)?;
    }
    Ok(("xwa2_newsletter_join_v2", show(&followed, request.phone)))
}

fn unfollow(request: &Request<'_>, variables: &Value) -> Found {
    let mut state = request.session.emulator.state();
    let mut left = meant(&state, variables)?;
    left.record.followers.retain(|follower| follower != request.phone);
    left.record.muted.retain(|follower| follower != request.phone);
    keep(&mut state, &left)?;
    Ok(("xwa2_newsletter_leave_v2", show(&left, request.phone)))
}

fn mute(request: &Request<'_>, variables: &Value) -> Found {
    Ok(("xwa2_newsletter_mute_v2", set_muted(request, variables, true)?))
}

fn unmute(request: &Request<'_>, variables: &Value) -> Found {
    Ok(("xwa2_newsletter_unmute_v2", set_muted(request, variables, false)?))
}

fn setting(request: &Request<'_>, variables: &Value) -> Found {
    let input = &variables["input"];
    let on = match input["value"].as_str() {
        Some("ON") => true,
        Some("OFF") => false,
        _ => return Err(NOT_ACCEPTABLE),
    };
    Ok(("xwa2_newsletter_update_user_setting", set_muted(request, input, on)?))
}

fn set_muted(request: &Request<'_>, variables: &Value, on: bool) -> Result<Value, Refusal> {
    let mut state = request.session.emulator.state();
    let mut changed = meant(&state, variables)?;
    changed.record.muted.retain(|follower| follower != request.phone);
    if on {
        changed.record.muted.push(request.phone.to_owned());
    }
    keep(&mut state, &changed)?;
    Ok(show(&changed, request.phone))
}

fn id(text: &str) -> &str {
    text.strip_suffix("@newsletter").unwrap_or(text)
}

fn meant(state: &State, variables: &Value) -> Result<Newsletter, Refusal> {
    let asked = variables["newsletter_id"].as_str().ok_or(BAD_REQUEST)?;
    state.newsletters.get(id(asked)).cloned().ok_or(NOT_FOUND)
}

fn keep(state: &mut State, changed: &Newsletter) -> Result<(), Refusal> {
    relay::keep(state, changed).ok_or(NOT_KEPT)
}

fn check(text: &str, least: usize, most: usize) -> Result<&str, Refusal> {
    let good = text.chars().count() <= most && text.trim().chars().count() >= least;
    good.then_some(text).ok_or(NOT_ACCEPTABLE)
}

/// A newsletter as `phone` sees it. All numbers are texts.
fn show(newsletter: &Newsletter, phone: &str) -> Value {
    let record = &newsletter.record;
    let created = record.created.to_string();
    let muted = if record.muted.iter().any(|muted| muted == phone) { "ON" } else { "OFF" };
    json!({
        "id": format!("{}@newsletter", record.id),
        "state": {"type": "active"},
        "thread_metadata": {
            "creation_time": created,
            "name": {"text": record.name, "id": created, "update_time": created},
            "description": {"text": record.description, "id": created, "update_time": created},
            "invite": record.invite,
            "handle": null,
            "settings": {"reaction_codes": {"value": "ALL"}},
            "subscribers_count": record.followers.len().to_string(),
            "verification": "UNVERIFIED",
        },
        "viewer_metadata": {"mute": muted, "role": newsletter.role(phone)},
    })
}
