//! Newsletters: what their owners write, handed to everybody who follows them.

use bytes::Bytes;
use whatsapp_rust::wacore_binary::builder::NodeBuilder;
use whatsapp_rust::wacore_binary::{Node, NodeRef, marshal};

use super::message::Handed;
use super::text_attr;
use crate::emulator::state::record::{Change, NewsletterPostRecord, NewsletterRecord, QueueEntry, RelayedRecord};
use crate::emulator::state::{Newsletter, State};

/// Letters of invite codes.
const LETTERS: &[u8] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";

/// Makes a newsletter; `None` when it could not be kept.
pub(crate) fn create(state: &mut State, owner: &str, name: &str, description: &str) -> Option<Newsletter> {
    let letter = || char::from(LETTERS[rand::random_range(0..LETTERS.len())]);
    let record = NewsletterRecord {
        id: format!("1203634{:011}", rand::random_range(0..100_000_000_000_u64)),
        name: name.to_owned(),
        description: description.to_owned(),
        owner: owner.to_owned(),
        created: state.now(),
        invite: format!("0029{}", std::iter::repeat_with(letter).take(18).collect::<String>()),
        ..Default::default()
    };
    let made = Newsletter::from(record);
    keep(state, &made)?;
    Some(made)
}

/// Keeps a newsletter as it is now; `None` when that was not possible.
pub(crate) fn keep(state: &mut State, newsletter: &Newsletter) -> Option<()> {
    state.commit(Change::Newsletter(newsletter.record.clone())).ok()
}

/// What an owner hands in is kept and handed on.
///
/// # Errors
/// The code of the refusal.
pub(super) fn publish(state: &mut State, handed: &Handed<'_>) -> Result<u64, u16> {
    let newsletter = state.newsletters.get(handed.to.user.as_str()).ok_or(404_u16)?;
    if newsletter.role(handed.phone) != "owner" {
        return Err(403);
    }
    let plaintext = handed.node.get_optional_child("plaintext").ok_or(400_u16)?;
    let edit = text_attr(handed.node, "edit");
    // An edit names what it changes by its id.
    let known = newsletter.posts().rev().find(|post| post.id == handed.id);
    let server_id = match (known, &edit) {
        (Some(known), _) => known.server_id,
        (None, Some(_)) => return Err(404),
        (None, None) => newsletter.next(),
    };
    let post = NewsletterPostRecord {
        newsletter: newsletter.record.id.clone(),
        server_id,
        id: handed.id.clone(),
        at: handed.at(),
        kind: text_attr(handed.node, "type").unwrap_or_else(|| "text".to_owned()),
        plaintext: Bytes::copy_from_slice(plaintext.content_bytes().unwrap_or_default()),
    };
    let entries = copies(state, handed, &post, edit.as_deref()).ok_or(500_u16)?;
    state.commit(Change::NewsletterPost(post)).map_err(|_| 500_u16)?;
    let relayed = RelayedRecord {
        sender: handed.phone.to_owned(),
        id: handed.id.clone(),
        entries: entries.clone(),
        ..RelayedRecord::default()
    };
    state.commit(Change::Relayed(relayed)).map_err(|_| 500_u16)?;
    state.deliver(&entries);
    Ok(server_id)
}

/// One for every device of every reader but the one that wrote it.
fn copies(
    state: &mut State,
    handed: &Handed<'_>,
    post: &NewsletterPostRecord,
    edit: Option<&str>,
) -> Option<Vec<QueueEntry>> {
    let rest = handed.node.children().unwrap_or_default().iter().map(NodeRef::to_owned);
    let mut stanza = stanza(post).attr("from", &handed.to);
    if let Some(edit) = edit {
        stanza = stanza.attr("edit", edit);
    }
    let bytes = Bytes::from(marshal(&stanza.children(rest).build()).ok()?);
    let from = handed.to.to_non_ad_string();
    let readers = state.newsletters.get(&post.newsletter)?.readers();
    let keys: Vec<_> = readers
        .filter_map(|phone| state.accounts.get(phone))
        .flat_map(|account| account.devices.keys().map(|device| account.key(*device)))
        .filter(|key| key.phone != handed.phone || key.device != u32::from(handed.device))
        .collect();
    Some(keys.into_iter().map(|key| state.entry(key, "message", &post.id, from.clone(), bytes.clone())).collect())
}

fn stanza(post: &NewsletterPostRecord) -> NodeBuilder {
    NodeBuilder::new("message")
        .attr("id", post.id.as_str())
        .attr("server_id", post.server_id)
        .attr("t", post.at)
        .attr("type", post.kind.as_str())
}

/// A post as the history of its newsletter shows it.
pub(crate) fn shown(post: &NewsletterPostRecord, own: bool) -> Node {
    let mut stanza = stanza(post);
    if own {
        stanza = stanza.attr("is_sender", "true");
    }
    stanza.children([NodeBuilder::new("plaintext").bytes(post.plaintext.to_vec()).build()]).build()
}
