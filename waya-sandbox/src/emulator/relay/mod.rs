//! What passes from one device to others: messages, receipts, presence, group changes.

pub(crate) mod account;
pub(crate) mod backlog;
pub(crate) mod devices;
mod fanout;
pub(crate) mod group;
mod handsets;
pub(crate) mod message;
pub(crate) mod newsletter;
pub(crate) mod presence;
pub(crate) mod receipt;
pub(crate) mod tokens;

use whatsapp_rust::wacore_binary::{Jid, NodeRef, Server};

use super::state::{Account, State};
pub(crate) use handsets::{switch as switch_handset, wait as wait_for_handset};
pub(crate) use message::queue_for;

/// Whether a user address is a phone number or a LID.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Namespace {
    Pn,
    Lid,
}

impl Namespace {
    /// The namespace of a user address.
    pub(crate) fn of(jid: &Jid) -> Self {
        if jid.server == Server::Lid { Self::Lid } else { Self::Pn }
    }

    pub(crate) fn other(self) -> Self {
        match self {
            Self::Pn => Self::Lid,
            Self::Lid => Self::Pn,
        }
    }

    /// An account's device, named in this namespace.
    pub(crate) fn device(self, account: &Account, device: u16) -> Jid {
        match self {
            Self::Pn => Jid::pn_device(account.phone(), device),
            Self::Lid => Jid::lid_device(account.record.lid.as_str(), device),
        }
    }

    /// An account, named in this namespace.
    pub(crate) fn user(self, account: &Account) -> Jid {
        self.device(account, 0)
    }
}

/// Whether an address is that of a user, not of a group or another broadcast.
fn is_person(jid: &Jid) -> bool {
    matches!(jid.server, Server::Pn | Server::Lid | Server::Legacy)
}

/// One name for the other side of a queued stanza, whichever namespace and device it was given
/// with: a phone number for people, the address itself for everything else.
pub(crate) fn canonical(state: &State, jid: &Jid) -> String {
    match state.account_of(jid) {
        Some(account) => account.phone().to_owned(),
        None => jid.to_non_ad_string(),
    }
}

/// An attribute as an address.
pub(crate) fn jid_attr(node: &NodeRef<'_>, name: &str) -> Option<Jid> {
    node.get_attr(name)?.to_jid()
}

/// An attribute as text.
pub(crate) fn text_attr(node: &NodeRef<'_>, name: &str) -> Option<String> {
    Some(node.get_attr(name)?.as_str().into_owned())
}
