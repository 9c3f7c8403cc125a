//! Receipts and acks of clients: they empty the queue, and receipts go on to the author.

use whatsapp_rust::wacore_binary::builder::NodeBuilder;
use whatsapp_rust::wacore_binary::marshal::unmarshal_ref;
use whatsapp_rust::wacore_binary::{Jid, Node, NodeRef, Server};

use super::fanout::alternative;
use super::{Namespace, backlog, canonical, is_person, jid_attr, queue_for, text_attr};
use crate::emulator::faults::Whom;
use crate::emulator::session::Session;
use crate::emulator::state::record::{Change, ConfirmedRecord, QueueEntry};
use crate::emulator::state::{Account, DeviceQueue, State};
use crate::emulator::{Emulator, handset};

/// Takes a receipt: acks it, empties the queue, passes it on.
pub(crate) fn take(session: &Session, phone: &str, device: u16, node: &NodeRef<'_>) {
    let (Some(id), Some(to)) = (text_attr(node, "id"), jid_attr(node, "to")) else {
        return tracing::debug!("a receipt without id or addressee");
    };
    let kind = text_attr(node, "type").unwrap_or_default();
    let ids = ids(node, &id);
    let author = jid_attr(node, "participant").filter(|_| !is_person(&to)).unwrap_or_else(|| to.clone());
    let mut state = session.emulator.state();
    // Who could not read a message acks it all the same, maybe when the next copy is on its way already.
    if !is_retry(&kind) {
        for id in &ids {
            confirm(&mut state, (phone, device), id, &to, &Confirmed::Message);
        }
    }
    let receipt = Receipt { node, id: &id, kind: &kind, to: &to, author: &author };
    if is_person(&to) && author.device == 0 && state.account_of(&author).is_some_and(|own| own.phone() == phone) {
        to_own_handset(&session.emulator, &mut state, (phone, device), &receipt, &ids);
    } else {
        forward(&session.emulator, &mut state, phone, device, &receipt);
    }
    let at = state.now();
    session.connection.send_node(&ack(node, &id, &to, at));
}

/// Takes a client's ack of something that was delivered to it.
pub(crate) fn take_ack(session: &Session, phone: &str, device: u16, node: &NodeRef<'_>) {
    let (Some(id), Some(to), Some(class)) = (text_attr(node, "id"), jid_attr(node, "to"), text_attr(node, "class"))
    else {
        return;
    };
    let confirmed = if class == "message" { Confirmed::Copy } else { Confirmed::Stanza { class: &class, ack: node } };
    confirm(&mut session.emulator.state(), (phone, device), &id, &to, &confirmed);
}

/// What a device confirms.
enum Confirmed<'a> {
    /// Every copy of a message, by a receipt.
    Message,
    /// One copy of a message, by its ack: the oldest.
    Copy,
    /// One stanza of another class, by its ack.
    Stanza { class: &'a str, ack: &'a NodeRef<'a> },
}

struct Receipt<'a> {
    node: &'a NodeRef<'a>,
    id: &'a str,
    kind: &'a str,
    to: &'a Jid,
    author: &'a Jid,
}

/// The id of the receipt and those of its list.
fn ids(node: &NodeRef<'_>, first: &str) -> Vec<String> {
    let items = node.get_optional_child("list").and_then(NodeRef::children).unwrap_or_default();
    std::iter::once(first.to_owned()).chain(items.iter().filter_map(|item| text_attr(item, "id"))).collect()
}

fn ack(node: &NodeRef<'_>, id: &str, to: &Jid, at: i64) -> Node {
    let mut ack = NodeBuilder::new("ack").attr("class", "receipt").attr("id", id).attr("from", to).attr("t", at);
    for name in ["type", "participant"] {
        if let Some(value) = node.get_attr(name) {
            ack = ack.attr(name, value.to_node_value());
        }
    }
    ack.build()
}

fn is_retry(kind: &str) -> bool {
    matches!(kind, "retry" | "enc_rekey_retry")
}

/// Drops what a device confirmed from its queue.
fn confirm(state: &mut State, (phone, device): (&str, u16), id: &str, to: &Jid, confirmed: &Confirmed<'_>) {
    let from = canonical(state, to);
    let Some(account) = state.accounts.get(phone) else { return };
    let Some(known) = account.devices.get(&device) else { return };
    let sequences = match confirmed {
        Confirmed::Message => known.queue.find("message", id, &from),
        Confirmed::Copy => known.queue.find("message", id, &from).into_iter().take(1).collect(),
        Confirmed::Stanza { class, ack } => {
            answered(&known.queue, &known.queue.find(class, id, &from), ack).into_iter().collect()
        }
    };
    if sequences.is_empty() {
        return;
    }
    let record = ConfirmedRecord { key: account.key(device), sequences };
    // Not written means kept: the device gets it again.
    let _ = state.commit(Change::Confirmed(record));
    backlog::confirmed(state, phone, device);
}

/// The one of these stanzas that an ack means. In a group everybody's receipts for a message come from the same address
/// under the same id; an ack repeats their kind and participant, and it is not sent in the order in which they came: a
/// client that is asked for a message again acks that when the message is on its way.
fn answered(queue: &DeviceQueue, sequences: &[u64], ack: &NodeRef<'_>) -> Option<u64> {
    if sequences.len() > 1 {
        let meant = sequences.iter().find(|sequence| queue.get(**sequence).is_some_and(|entry| repeats(ack, entry)));
        if meant.is_some() {
            return meant.copied();
        }
    }
    // Clients that name neither mean the oldest.
    sequences.first().copied()
}

fn repeats(ack: &NodeRef<'_>, entry: &QueueEntry) -> bool {
    let Some(Ok(stanza)) = entry.stanza.get(1..).map(unmarshal_ref) else { return false };
    text_attr(ack, "type") == text_attr(&stanza, "type")
        && jid_attr(ack, "participant") == jid_attr(&stanza, "participant")
}

/// A device tells its own handset what became of what it had from it.
fn to_own_handset(
    emulator: &Emulator,
    state: &mut State,
    (phone, device): (&str, u16),
    receipt: &Receipt<'_>,
    ids: &[String],
) {
    match receipt.kind {
        "retry" => handset::hand_over_again(emulator, state, (phone, device), receipt.node, receipt.id),
        "peer_msg" | "hist_sync" => handset::taken(state, phone, device, ids),
        _ => {
            forward(emulator, state, phone, device, receipt);
        }
    }
}

fn forward(emulator: &Emulator, state: &mut State, phone: &str, device: u16, receipt: &Receipt<'_>) -> Option<()> {
    let author = state.account_of(receipt.author)?.phone().to_owned();
    let retry = is_retry(receipt.kind);
    if retry && receipt.author.device == 0 {
        // Handsets say nothing to others.
        return Some(());
    }
    let rules = emulator.fault_rules();
    if !retry && rules.drops_receipts(Whom(phone, Some(device))) {
        return Some(());
    }
    if receipt.kind == "server-error" {
        return handset::upload_again(emulator, state, (phone, device), receipt.node, receipt.id);
    }
    if matches!(receipt.kind, "peer_msg" | "hist_sync") {
        return Some(());
    }
    let sender = state.accounts.get(phone)?;
    if author != phone && matches!(receipt.kind, "read" | "read-self" | "played" | "played-self") {
        let stanza = receipt.as_seen_by_own(sender, device, state.now());
        let others = sender.devices.keys().copied().filter(|number| *number != device);
        let others = rules.hear_receipts(phone, others).into_iter().map(|number| sender.key(number)).collect();
        queue_for(state, others, "receipt", &stanza)?;
        if receipt.kind.ends_with("-self") {
            return Some(());
        }
    }
    let sender = state.accounts.get(phone)?;
    let bare = emulator.config().bare_status_receipts && receipt.to.server == Server::Broadcast;
    let stanza = receipt.as_seen_by_author(sender, device, (bare, state.now()));
    let author = state.accounts.get(&author)?;
    let devices = author.devices.keys().copied();
    let devices = devices.filter(|number| !retry || *number == receipt.author.device);
    let devices = devices.filter(|number| author.phone() != phone || *number != device);
    let devices = if retry { devices.collect() } else { rules.hear_receipts(author.phone(), devices) };
    let keys = devices.into_iter().map(|number| author.key(number)).collect();
    queue_for(state, keys, "receipt", &stanza)
}

impl Receipt<'_> {
    /// The other devices of who read something hear which chat that was in.
    fn as_seen_by_own(&self, sender: &Account, device: u16, at: i64) -> Node {
        let mut seen = self.as_seen_by_author(sender, device, (false, at));
        if is_person(self.to) {
            seen.attrs.insert("recipient", self.to.to_non_ad());
        }
        seen
    }

    /// With `bare` the reader is named in one namespace only.
    fn as_seen_by_author(&self, sender: &Account, device: u16, (bare, at): (bool, i64)) -> Node {
        let mut stanza = NodeBuilder::new("receipt").attr("id", self.id).attr("t", at);
        if is_person(self.to) {
            stanza = stanza.attr("from", Namespace::of(self.to).device(sender, device));
        } else {
            let namespace = Namespace::of(self.author);
            stanza = stanza.attr("from", self.to).attr("participant", namespace.device(sender, device));
            if !bare {
                let (name, other) = alternative("participant", namespace, sender, device);
                stanza = stanza.attr(name, other);
            }
        }
        for name in ["type", "recipient"] {
            if let Some(value) = self.node.get_attr(name) {
                stanza = stanza.attr(name, value.to_node_value());
            }
        }
        match self.node.children() {
            Some(children) => stanza.children(children.iter().map(NodeRef::to_owned)).build(),
            None => stanza.build(),
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::emulator::session::trial::{ANI, Trial, sessions};
    use crate::emulator::state::record::DeviceKey;

    const GROUP: &str = "120363000000000001";

    fn receipt(participant: &str, kind: Option<&str>) -> Node {
        named(NodeBuilder::new("receipt").attr("from", Jid::group(GROUP)), Some(participant), kind)
    }

    fn ack(participant: Option<&str>, kind: Option<&str>) -> Node {
        named(NodeBuilder::new("ack").attr("class", "receipt").attr("to", Jid::group(GROUP)), participant, kind)
    }

    fn named(stanza: NodeBuilder, participant: Option<&str>, kind: Option<&str>) -> Node {
        let mut node = stanza.attr("id", "A").build();
        if let Some(participant) = participant {
            node.attrs.insert("participant", Jid::pn(participant));
        }
        if let Some(kind) = kind {
            node.attrs.insert("type", kind);
        }
        node
    }

    /// Participants and kinds of the receipts that Ani's device has not confirmed.
    fn kept(trial: &Trial) -> Vec<(String, Option<String>)> {
        let state = trial.emulator.state();
        let queue = state.device(ANI, 1).unwrap().queue.iter();
        let stanzas = queue.map(|entry| unmarshal_ref(&entry.stanza[1..]).unwrap().to_owned());
        let text = |node: &Node, name: &str| node.attrs.get(name).map(|value| value.as_str().into_owned());
        let phone = |node: &Node| text(node, "participant").unwrap().trim_end_matches("@s.whatsapp.net").to_owned();
        stanzas.map(|node| (phone(&node), text(&node, "type"))).collect()
    }

    #[tokio::test]
    async fn an_ack_means_the_receipt_of_its_participant_and_kind() {
        let trial = sessions().await;
        let key = DeviceKey { phone: ANI.to_owned(), device: 1 };
        for (who, kind) in [("621", Some("retry")), ("622", None), ("622", Some("read")), ("623", None)] {
            queue_for(&mut trial.emulator.state(), vec![key.clone()], "receipt", &receipt(who, kind)).unwrap();
        }
        trial.sessions[0].hand(&ack(Some("622"), Some("read")));
        trial.sessions[0].hand(&ack(Some("623"), None));
        let first = ("621".to_owned(), Some("retry".to_owned()));
        assert_eq!(kept(&trial), [first.clone(), ("622".to_owned(), None)]);
        trial.sessions[0].hand(&ack(Some("622"), None));
        assert_eq!(kept(&trial), [first]);
        trial.sessions[0].hand(&ack(None, None));
        assert!(kept(&trial).is_empty(), "who names nobody means the oldest");
    }

    #[tokio::test]
    async fn the_ack_of_an_unreadable_copy_does_not_confirm_the_next_one() {
        let trial = sessions().await;
        let key = DeviceKey { phone: ANI.to_owned(), device: 1 };
        let copy = |count: Option<u32>| {
            let mut enc = NodeBuilder::new("enc").attr("v", "2").attr("type", "pkmsg").bytes(vec![1]);
            if let Some(count) = count {
                enc = enc.attr("count", count);
            }
            let message = NodeBuilder::new("message").attr("from", Jid::group(GROUP)).attr("id", "A");
            message.attr("participant", Jid::pn("622")).children([enc.build()]).build()
        };
        let kept = || {
            let state = trial.emulator.state();
            let queue = state.device(ANI, 1).unwrap().queue.iter();
            let stanzas = queue.map(|entry| unmarshal_ref(&entry.stanza[1..]).unwrap().to_owned());
            stanzas.map(|node| node == copy(Some(1))).collect::<Vec<_>>()
        };
        let queue = |copy: &Node| queue_for(&mut trial.emulator.state(), vec![key.clone()], "message", copy).unwrap();
        let told = |tag: &'static str| named(NodeBuilder::new(tag).attr("to", Jid::group(GROUP)), Some("622"), None);
        queue(&copy(None));
        let mut retry = told("receipt");
        retry.attrs.insert("type", "retry");
        trial.sessions[0].hand(&retry);
        queue(&copy(Some(1)));
        let mut ack = told("ack");
        ack.attrs.insert("class", "message");
        trial.sessions[0].hand(&ack);
        assert_eq!(kept(), [true], "the first copy alone is done with");
        queue(&copy(Some(2)));
        trial.sessions[0].hand(&told("receipt"));
        assert_eq!(kept(), [] as [bool; 0], "it was read");
    }
}
