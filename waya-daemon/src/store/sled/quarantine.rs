//! Where records go that cannot be read: kept for whoever wants to look, counted, out of everybody's way.

use sled::IVec;

use super::group::Group;
use super::rows::Stored;
use super::trees::{Tree, message_id};
use crate::store::StoreError;

/// Moves `record` to the quarantine, unless the row has been written anew since it was read.
pub fn set_aside(group: &mut Group<'_>, tree: Tree, key: &IVec, record: &IVec) -> Result<(), StoreError> {
    if group.get(tree, key)?.as_ref() != Some(record) {
        return Ok(());
    }
    let mut place = vec![tree as u8];
    place.extend_from_slice(key);
    let place = IVec::from(place);
    if group.get(Tree::Quarantine, &place)?.is_none() {
        group.insert(Tree::Quarantine, place, record.clone())?;
    }
    group.remove(tree, key.clone());
    if tree == Tree::Messages {
        if group.get(Tree::Open, key)?.is_some() {
            group.remove(Tree::Open, key.clone());
        }
        // Where it stood cannot be known from it.
        recount(group)?;
    }
    Ok(())
}

/// Counts the messages of each status anew.
fn recount(group: &mut Group<'_>) -> Result<(), StoreError> {
    group.counters.statuses = crate::store::Counts::default();
    for (key, record) in group.all(Tree::Messages)? {
        if let Some(stored) = message_id(&key).and_then(|id| Stored::read(id, &record).ok()) {
            *group.counters.status_of(stored.message.status) += 1;
        }
    }
    Ok(())
}
