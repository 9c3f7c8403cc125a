//! The groups of a community, with how many are in each.

use serde_json::{Value, json};

use super::Found;
use crate::emulator::iq::Request;
use crate::emulator::iq::refusal::{BAD_REQUEST, FORBIDDEN, NOT_FOUND};
use crate::emulator::state::Group;

pub(super) fn groups(request: &Request<'_>, variables: &Value) -> Found {
    let named = [&variables["group_id"], &variables["input"]["group_jid"]].into_iter().find_map(Value::as_str);
    let id = named.ok_or(BAD_REQUEST)?;
    let state = request.session.emulator.state();
    let community = state.groups.get(id.strip_suffix("@g.us").unwrap_or(id)).ok_or(NOT_FOUND)?;
    if !community.has(request.phone) {
        return Err(FORBIDDEN);
    }
    let of_it = || state.groups.values().filter(|group| group.record.parent == community.record.id);
    let default = of_it().find(|group| group.record.default_of_parent).map(show);
    let others: Vec<_> =
        of_it().filter(|group| !group.record.default_of_parent).map(|group| json!({"node": show(group)})).collect();
    let value = json!({
        "id": format!("{}@g.us", community.record.id),
        "default_sub_group": default,
        "sub_groups": {"edges": others},
    });
    Ok(("xwa2_group_query_by_id", value))
}

fn show(group: &Group) -> Value {
    json!({
        "id": format!("{}@g.us", group.record.id),
        "subject": {"value": group.record.subject, "creation_time": group.record.created},
        "creator": {"id": format!("{}@s.whatsapp.net", group.creator())},
        "total_participants_count": group.record.members.len(),
        "properties": {"general_chat": "false", "hidden_group": "false", "membership_approval_mode_enabled": group.record.approval},
    })
}
