//! The handsets' copies of messages: whose handset gets one, and what lies there afterwards.

use whatsapp_rust::wacore_binary::{NodeRef, Server};

use super::canonical;
use super::message::Handed;
use crate::emulator::state::letters::{Letter, Sealed};
use crate::emulator::state::{Account, State};

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

/// The accounts that have a copy of this message on a handset that is switched on, the sender's own among them.
pub(super) fn reached<'a>(state: &'a State, handed: &Handed<'_>) -> Vec<&'a Account> {
    owners(state, handed).into_iter().filter(|account| account.record.handset_online).collect()
}

/// Lays a message on the handsets that it is for, and whatever may bring sender keys. Messages without a file are kept
/// by those that are switched on.
pub(super) fn lay_down(state: &mut State, handed: &Handed<'_>) {
    let media = handed.node.get_attr("type").is_some_and(|kind| kind == "media");
    let shares = matches!(handed.to.server, Server::Group | Server::Broadcast);
    let keeps = |account: &Account| media || account.record.handset_online;
    let letter = |chat: &str, sealed| Letter {
        chat: chat.to_owned(),
        id: handed.id.clone(),
        sender: (handed.phone.to_owned(), handed.device),
        at: handed.at(),
        sealed,
    };
    let sender = (handed.phone.to_owned(), handed.device);
    let chat = canonical(state, &handed.to);
    let own = handed.encrypted().filter(|(jid, _)| jid.device == 0);
    let own = own.filter_map(|(jid, enc)| {
        let account = state.account_of(&jid).filter(|account| shares || keeps(account))?;
        Some((account.phone().to_owned(), sealed(enc?)?))
    });
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
    let owners = owners(state, handed).into_iter().filter(|owner| keeps(owner));
    for phone in owners.map(|owner| owner.phone().to_owned()).collect::<Vec<_>>() {
        state.letters.entry(phone).or_default().keep(letter.clone(), media);
    }
}

fn sealed(enc: &NodeRef<'_>) -> Option<Sealed> {
    Sealed::of(&enc.get_attr("type")?.as_str(), enc.content_bytes()?)
}
