//! Groups: how they come about, and how their members hear of it.

use crate::emulator::GroupInfo;
use crate::emulator::state::record::{Change, GroupRecord};
use crate::emulator::state::{Group, State};

/// The group of this name with at least these members.
pub(crate) fn ensure(state: &mut State, subject: &str, members: &[String], _pn_only: bool) -> GroupInfo {
    let known = state.groups.values().find(|group| group.record.subject == subject);
    let mut record = known.map_or_else(
        || GroupRecord {
            id: format!("1203630{:011}", rand::random_range(0..100_000_000_000_u64)),
            subject: subject.to_owned(),
            members: Vec::new(),
            created: crate::emulator::now(),
        },
        |group| group.record.clone(),
    );
    for member in members {
        if !record.members.contains(member) {
            record.members.push(member.clone());
        }
    }
    let group = Group { record: record.clone() };
    if let Err(error) = state.commit(Change::Group(record)) {
        tracing::error!(%error, "cannot keep the group");
    }
    group.info()
}
