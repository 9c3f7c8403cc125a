//! The handsets' copies of messages: whose handset gets one, what lies there afterwards, and its receipts. What is for a
//! handset that is off waits until it is switched on.

use bytes::Bytes;
use whatsapp_rust::wacore_binary::builder::NodeBuilder;
use whatsapp_rust::wacore_binary::marshal::unmarshal_ref;
use whatsapp_rust::wacore_binary::{Jid, Node, NodeRef, Server, marshal};

use super::fanout::alternative;
use super::message::{Handed, entries};
use super::{Namespace, canonical, is_person, text_attr};
use crate::emulator::faults::Whom;
use crate::emulator::state::letters::{Letter, Sealed};
use crate::emulator::state::record::{
    Change, DeviceKey, HandsetCaughtUpRecord, HandsetMessage, HandsetWaitsRecord, QueueEntry, QueuedRecord,
};
use crate::emulator::state::{Account, HandsetQueue, State};
use crate::emulator::{Emulator, handset};

/// Every account whose handset has a copy of this message, the sender's own among them.
fn owners<'a>(state: &'a State, handed: &Handed<'_>) -> Vec<&'a Account> {
    if handed.to.server == Server::Group {
        let group = state.groups.get(handed.to.user.as_str());
        let members = group.map(|group| group.record.members.as_slice()).unwrap_or_default();
        return members.iter().filter_map(|phone| state.accounts.get(phone)).collect();
    }
    handed
        .encrypted()
        .filter(|(jid, _)| jid.device == 0)
        .filter_map(|(jid, _)| state.account_of(&jid))
        .filter(|account| !account.blocks(handed.phone))
        .collect()
}

/// The accounts that have a copy of this message on a handset that is off.
pub(super) fn away(state: &State, handed: &Handed<'_>) -> Vec<String> {
    let away = owners(state, handed).into_iter().filter(|account| !account.record.handset_online);
    away.map(|account| account.phone().to_owned()).collect()
}

/// A message as handsets confirm it.
pub(super) fn to_be_confirmed(handed: &Handed<'_>) -> HandsetMessage {
    let namespace = if is_person(&handed.to) { Namespace::of(&handed.to) } else { handed.group_namespace() };
    HandsetMessage {
        sender: handed.phone.to_owned(),
        id: handed.id.clone(),
        chat: handed.to.to_string(),
        by_lid: namespace == Namespace::Lid,
        ..HandsetMessage::default()
    }
}

/// Handsets that are switched on confirm a message that reached them; the sender's own tells the other devices so.
pub(super) fn confirm(emulator: &Emulator, state: &mut State, handed: &Handed<'_>) {
    let message = to_be_confirmed(handed);
    let there = owners(state, handed).into_iter().filter(|account| account.record.handset_online);
    for phone in there.map(|account| account.phone().to_owned()).collect::<Vec<_>>() {
        let Some(receipts) = receipts(emulator, state, &phone, &message) else { continue };
        if state.commit(Change::Queued(QueuedRecord { entries: receipts.clone() })).is_ok() {
            state.deliver(&receipts);
        }
    }
}

/// Switches a handset on or off. One that comes back confirms what waited for it, in order, and answers what it was
/// asked. `false` when there is no such account, or it cannot be written down.
pub(crate) fn switch(emulator: &Emulator, state: &mut State, phone: &str, online: bool) -> bool {
    let requests = if online { catch_up(emulator, state, phone) } else { Some(Vec::new()) };
    let Some(requests) = requests else { return false };
    let Some(mut record) = state.accounts.get(phone).map(|account| account.record.clone()) else { return false };
    record.handset_online = online;
    if state.commit(Change::Account(record)).is_err() {
        return false;
    }
    for request in &requests {
        answer(emulator, state, phone, request);
    }
    true
}

/// Confirms what waited; its receipts and the end of its waiting are written down as one. Hands out what was asked.
fn catch_up(emulator: &Emulator, state: &mut State, phone: &str) -> Option<Vec<HandsetMessage>> {
    let waited = state.accounts.get(phone)?.handset_queue.iter().cloned().collect::<Vec<_>>();
    if waited.is_empty() {
        return Some(Vec::new());
    }
    let (messages, requests): (Vec<_>, Vec<_>) = waited.into_iter().partition(|message| message.request.is_empty());
    let entries = messages.iter().filter_map(|message| receipts(emulator, state, phone, message));
    let entries: Vec<_> = entries.flatten().collect();
    let record = HandsetCaughtUpRecord { phone: phone.to_owned(), entries: entries.clone() };
    state.commit(Change::HandsetCaughtUp(record)).ok()?;
    state.deliver(&entries);
    Some(requests.iter().map(|request| (**request).clone()).collect())
}

/// Has a stanza that a device sent to its handset alone wait for it. `None` if that is too large, or cannot be written
/// down: the device asks again.
pub(crate) fn wait(state: &mut State, (phone, device): (&str, u16), stanza: &NodeRef<'_>) -> Option<()> {
    let request = Bytes::from(marshal(&stanza.to_owned()).ok()?);
    HandsetQueue::takes(request.len()).then_some(())?;
    let message = HandsetMessage {
        sender: phone.to_owned(),
        id: text_attr(stanza, "id")?,
        request,
        device: u32::from(device),
        ..HandsetMessage::default()
    };
    let record = HandsetWaitsRecord { phone: phone.to_owned(), messages: vec![message] };
    state.commit(Change::HandsetWaits(record)).ok()
}

fn answer(emulator: &Emulator, state: &mut State, phone: &str, request: &HandsetMessage) -> Option<()> {
    let stanza = unmarshal_ref(request.request.get(1..)?).ok()?;
    let asker = (phone, u16::try_from(request.device).ok()?);
    match stanza.tag.as_ref() {
        "receipt" => handset::upload_again(emulator, state, asker, &stanza, &request.id),
        _ => handset::hear(emulator, state, asker, &stanza),
    }
}

/// The receipt of one handset for each of the author's devices; `None` where nobody gets one.
fn receipts(emulator: &Emulator, state: &mut State, phone: &str, message: &HandsetMessage) -> Option<Vec<QueueEntry>> {
    let rules = emulator.fault_rules();
    let (reader, author) = (state.accounts.get(phone)?, state.accounts.get(&message.sender)?);
    let chat: Jid = message.chat.parse().ok()?;
    if rules.drops_receipts(Whom(phone, Some(0))) {
        return None;
    }
    let hear = rules.hear_receipts(author.phone(), author.devices.keys().copied());
    let keys: Vec<DeviceKey> = hear.into_iter().map(|number| author.key(number)).collect();
    let at = state.now();
    let receipt = if phone == message.sender {
        own_receipt(reader, message, &chat, at)
    } else {
        let bare = emulator.config().bare_status_receipts && chat.server == Server::Broadcast;
        handset_receipt(reader, message, &chat, (bare, at)).build()
    };
    entries(state, keys, "receipt", &receipt)
}

/// Named as the message names people; with `bare` in that namespace only.
fn handset_receipt(reader: &Account, message: &HandsetMessage, chat: &Jid, (bare, at): (bool, i64)) -> NodeBuilder {
    let stanza = NodeBuilder::new("receipt").attr("id", message.id.as_str()).attr("t", at);
    let namespace = if message.by_lid { Namespace::Lid } else { Namespace::Pn };
    if is_person(chat) {
        return stanza.attr("from", namespace.user(reader));
    }
    let stanza = stanza.attr("from", chat).attr("participant", namespace.user(reader));
    if bare {
        return stanza;
    }
    let (name, other) = alternative("participant", namespace, reader, 0);
    stanza.attr(name, other)
}

/// The sender's handset has its copy. In a chat with one person that chat is named beside it.
fn own_receipt(own: &Account, message: &HandsetMessage, chat: &Jid, at: i64) -> Node {
    let stanza = handset_receipt(own, message, chat, (false, at)).attr("type", "sender");
    if is_person(chat) { stanza.attr("recipient", chat.to_non_ad()).build() } else { stanza.build() }
}

/// Lays a message on the handsets that it is for, and whatever may bring sender keys. What a handset is handed when it
/// comes back lies there as well.
pub(super) fn lay_down(state: &mut State, handed: &Handed<'_>) {
    let media = handed.node.get_attr("type").is_some_and(|kind| kind == "media");
    let shares = matches!(handed.to.server, Server::Group | Server::Broadcast);
    let letter = |chat: &str, sealed| Letter {
        chat: chat.to_owned(),
        id: handed.id.clone(),
        sender: (handed.phone.to_owned(), handed.device),
        at: handed.at(),
        sealed,
        place: 0,
    };
    let sender = (handed.phone.to_owned(), handed.device);
    let chat = canonical(state, &handed.to);
    let own = handed.encrypted().filter(|(jid, _)| jid.device == 0);
    let own = own.filter_map(|(jid, enc)| Some((state.account_of(&jid)?.phone().to_owned(), sealed(enc?)?)));
    for (phone, sealed) in own.collect::<Vec<_>>() {
        if shares {
            state.letters.entry(phone).or_default().keep_sender_key(&chat, sender.clone(), sealed);
            continue;
        }
        let chat = if phone == handed.phone { &chat } else { handed.phone };
        let letter = letter(chat, sealed);
        state.letters.entry(phone).or_default().keep(letter, media);
    }
    let shared = handed.node.get_optional_child("enc").filter(|_| shares).and_then(sealed);
    let Some(sealed) = shared else { return };
    let letter = letter(&chat, sealed);
    let owners = owners(state, handed).into_iter().map(|owner| owner.phone().to_owned());
    for phone in owners.collect::<Vec<_>>() {
        state.letters.entry(phone).or_default().keep(letter.clone(), media);
    }
}

fn sealed(enc: &NodeRef<'_>) -> Option<Sealed> {
    Sealed::of(&enc.get_attr("type")?.as_str(), enc.content_bytes()?)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::emulator::faults::{Fault, FaultTarget};
    use crate::emulator::session::trial::{ANI, BUDI, Trial, sessions};

    /// What Ani's device sends, encrypted for these handsets.
    fn message(id: &str, to: &Jid, handsets: &[&str]) -> Node {
        let enc = || NodeBuilder::new("enc").attr("v", "2").attr("type", "pkmsg").bytes(vec![1]).build();
        let copies =
            handsets.iter().map(|phone| NodeBuilder::new("to").attr("jid", Jid::pn(*phone)).children([enc()]).build());
        let copies = NodeBuilder::new("participants").children(copies).build();
        let message = NodeBuilder::new("message").attr("to", to).attr("id", id).attr("type", "text");
        message.attr("addressing_mode", "lid").children([copies, enc()]).build()
    }

    /// Ids, readers and chats of the receipts that Ani's device was told since it was last asked.
    fn receipts(trial: &mut Trial) -> Vec<(String, String)> {
        let told = trial.told(0).into_iter().filter(|node| node.tag == "receipt");
        let attr = |node: &Node, name: &str| node.attrs.get(name).map(|value| value.as_str().into_owned());
        told.map(|node| {
            let by = attr(&node, "participant").or_else(|| attr(&node, "from")).unwrap();
            (attr(&node, "id").unwrap(), by.split('@').next().unwrap().to_owned())
        })
        .collect()
    }

    fn by(reader: &str, ids: &[&str]) -> Vec<(String, String)> {
        ids.iter().map(|id| ((*id).to_owned(), reader.to_owned())).collect()
    }

    fn waiting(trial: &Trial, phone: &str) -> usize {
        trial.emulator.state().accounts[phone].handset_queue.len()
    }

    #[tokio::test]
    async fn what_waited_is_confirmed_in_order_and_once() {
        let mut trial = sessions().await;
        trial.go_live();
        let group = trial.emulator.groups()[0].jid.parse().unwrap();
        let lid = trial.emulator.state().accounts[BUDI].record.lid.clone();
        for id in ["A", "B", "A"] {
            trial.sessions[0].hand(&message(id, &Jid::pn(BUDI), &[BUDI]));
        }
        trial.sessions[0].hand(&message("C", &group, &[]));
        trial.sessions[0].hand(&message("D", &Jid::lid(lid.as_str()), &[BUDI, ANI]));
        assert_eq!((receipts(&mut trial), waiting(&trial, BUDI)), (vec![], 4), "nobody is there");

        assert!(trial.emulator.set_handset_online(BUDI, true));
        let told = [by(BUDI, &["A", "B"]), by(&lid, &["C", "D"])].concat();
        assert_eq!((receipts(&mut trial), waiting(&trial, BUDI)), (told, 0));
        trial.sessions[0].hand(&message("E", &Jid::pn(BUDI), &[BUDI]));
        assert_eq!(receipts(&mut trial), by(BUDI, &["E"]), "it is there");
        for online in [true, false, true] {
            trial.emulator.set_handset_online(BUDI, online);
        }
        assert!(receipts(&mut trial).is_empty(), "all was confirmed before");

        assert_eq!(waiting(&trial, ANI), 2, "the group's and the one for her own handset");
        assert!(trial.emulator.set_handset_online(ANI, true));
        assert_eq!(receipts(&mut trial).into_iter().map(|(id, _)| id).collect::<Vec<_>>(), ["C", "D"]);
    }

    #[tokio::test]
    async fn receipts_that_go_nowhere_are_not_sent_later() {
        let mut trial = sessions().await;
        trial.go_live();
        trial.sessions[0].hand(&message("A", &Jid::pn(BUDI), &[BUDI]));
        trial.emulator.set_fault(Fault::DropReceipts, FaultTarget::Phone(BUDI.to_owned()));
        trial.emulator.set_handset_online(BUDI, true);
        trial.emulator.clear_faults(&FaultTarget::All);
        trial.emulator.set_handset_online(BUDI, false);
        trial.emulator.set_handset_online(BUDI, true);
        assert_eq!((receipts(&mut trial), waiting(&trial, BUDI)), (vec![], 0));
    }

    #[tokio::test]
    async fn a_request_that_is_too_large_does_not_wait() {
        let trial = sessions().await;
        for (bytes, waits) in [(1_000, true), (100_000, false)] {
            let enc = NodeBuilder::new("enc").attr("v", "2").attr("type", "msg").bytes(vec![1; bytes]).build();
            let request = NodeBuilder::new("message").attr("to", Jid::pn(ANI)).attr("id", bytes.to_string());
            let before = waiting(&trial, ANI);
            trial.sessions[0].hand(&request.attr("category", "peer").attr("type", "text").children([enc]).build());
            assert_eq!(waiting(&trial, ANI) > before, waits, "{bytes} bytes");
        }
        // Nothing that it could read: it is heard once and forgotten.
        trial.emulator.set_handset_online(ANI, true);
        assert_eq!(waiting(&trial, ANI), 0);
    }
}
