//! Who gets a copy of a message, and what it looks like to them.

use whatsapp_rust::wacore::messages::MessageUtils;
use whatsapp_rust::wacore_binary::builder::NodeBuilder;
use whatsapp_rust::wacore_binary::{Jid, Node, NodeRef, Server};

use super::message::Handed;
use super::{Namespace, jid_attr, text_attr};
use crate::emulator::state::record::DeviceKey;
use crate::emulator::state::{Account, State};

/// One device's copy.
pub(super) struct Copy {
    pub(super) key: DeviceKey,
    pub(super) from: Jid,
    pub(super) stanza: Node,
}

impl Handed<'_> {
    /// Every copy of this message; `None` if its sender or its group is gone.
    pub(super) fn copies(&self, state: &State) -> Option<Vec<Copy>> {
        let sender = state.accounts.get(self.phone)?;
        if let Some(participant) = jid_attr(self.node, "participant") {
            return Some(self.group_copies(state, sender, &[participant]));
        }
        Some(match self.to.server {
            Server::Group => {
                let group = state.groups.get(self.to.user.as_str())?;
                let users = group.record.members.iter();
                self.broadcast_copies(state, sender, users.map(String::as_str).collect())
            }
            Server::Broadcast => {
                let mut users: Vec<_> =
                    self.encrypted().filter_map(|(jid, _)| state.account_of(&jid).map(Account::phone)).collect();
                users.sort_unstable();
                users.dedup();
                self.broadcast_copies(state, sender, users)
            }
            _ => self.direct_copies(state, sender),
        })
    }

    /// Addresses and ciphertexts of `<participants>`.
    pub(super) fn encrypted(&self) -> impl Iterator<Item = (Jid, Option<&NodeRef<'_>>)> {
        let list = self.node.get_optional_child("participants").and_then(NodeRef::children);
        list.unwrap_or_default().iter().filter_map(|to| Some((jid_attr(to, "jid")?, to.get_optional_child("enc"))))
    }

    fn direct_copies(&self, state: &State, sender: &Account) -> Vec<Copy> {
        let bare = self.node.get_optional_child("enc").map(|enc| (self.to.clone(), Some(enc)));
        let namespace = Namespace::of(&self.to);
        self.encrypted()
            .chain(bare)
            .filter_map(|(jid, enc)| {
                let account = state.account_of(&jid)?;
                account.devices.contains_key(&jid.device).then_some(())?;
                (!account.blocks(sender.phone())).then_some(())?;
                let from = namespace.device(sender, self.device);
                let mut stanza = self.envelope(sender, &from, enc?.to_owned());
                if account.phone() == self.phone {
                    let chat = jid_attr(self.node, "recipient").unwrap_or_else(|| self.to.to_non_ad());
                    if !self.is_peer() {
                        stanza.attrs.insert("recipient", chat);
                    }
                } else {
                    let (name, other) = alternative("sender", namespace, sender, self.device);
                    stanza.attrs.insert(name, other);
                }
                Some(Copy { key: account.key(jid.device), from, stanza })
            })
            .collect()
    }

    /// Copies for every device of these accounts but the sending one.
    fn broadcast_copies(&self, state: &State, sender: &Account, users: Vec<&str>) -> Vec<Copy> {
        let devices: Vec<_> = users
            .into_iter()
            .filter_map(|phone| state.accounts.get(phone))
            .flat_map(|account| account.devices.keys().map(|device| Namespace::Pn.device(account, *device)))
            .filter(|jid| jid.user != self.phone || jid.device != self.device)
            .collect();
        self.group_copies(state, sender, &devices)
    }

    fn group_copies(&self, state: &State, sender: &Account, devices: &[Jid]) -> Vec<Copy> {
        let namespace = self.group_namespace();
        let from = namespace.device(sender, self.device);
        let shared = self.node.get_optional_child("enc").map(NodeRef::to_owned);
        let own: Vec<_> = self
            .encrypted()
            .filter_map(|(jid, enc)| Some((state.account_of(&jid)?.key(jid.device), enc?.to_owned())))
            .collect();
        devices
            .iter()
            .filter_map(|jid| {
                let account = state.account_of(jid)?;
                account.devices.contains_key(&jid.device).then_some(())?;
                let key = account.key(jid.device);
                let own = own.iter().find(|(owner, _)| *owner == key).map(|(_, enc)| enc.clone());
                let mut stanza = self.envelopes(sender, &self.to, own.into_iter().chain(shared.clone()));
                let (name, other) = alternative("participant", namespace, sender, self.device);
                stanza.attrs.insert("participant", &from);
                stanza.attrs.insert(name, other);
                if self.is_group() {
                    stanza.attrs.insert("addressing_mode", mode(namespace));
                }
                Some(Copy { key, from: self.to.clone(), stanza })
            })
            .collect()
    }

    /// The hash of the devices a group has, where the sender's own of those it wrote to is another: then it does not
    /// know somebody, and asks for the group again.
    pub(super) fn other_participants_hash(&self, state: &State) -> Option<String> {
        let sent = text_attr(self.node, "phash").filter(|_| self.is_group())?;
        let (group, namespace) = (state.groups.get(self.to.user.as_str())?, self.group_namespace());
        let members = group.record.members.iter().filter_map(|phone| state.accounts.get(phone));
        let devices: Vec<_> = members
            .flat_map(|account| {
                let linked = account.devices.keys().map(|number| namespace.device(account, *number));
                std::iter::once(namespace.user(account)).chain(linked)
            })
            .collect();
        let hash = MessageUtils::participant_list_hash(&devices).ok()?;
        (hash != sent).then_some(hash)
    }

    /// The namespace a group's members are shown in: the one the sender used.
    pub(super) fn group_namespace(&self) -> Namespace {
        match text_attr(self.node, "addressing_mode").as_deref() {
            Some("lid") => Namespace::Lid,
            Some(_) => Namespace::Pn,
            None => self.encrypted().next().map_or(Namespace::Pn, |(jid, _)| Namespace::of(&jid)),
        }
    }

    fn envelope(&self, sender: &Account, from: &Jid, enc: Node) -> Node {
        self.envelopes(sender, from, std::iter::once(enc))
    }

    /// The stanza with these ciphertexts and what else the sender put into it.
    fn envelopes(&self, sender: &Account, from: &Jid, encs: impl Iterator<Item = Node>) -> Node {
        let mut children: Vec<_> = encs.collect();
        let opens_session = children.iter().any(|enc| enc.attrs.get("type").is_some_and(|kind| kind == "pkmsg"));
        let rest = self.node.children().unwrap_or_default().iter();
        children.extend(
            rest.filter(|child| {
                !matches!(child.tag.as_ref(), "participants" | "enc" | "device-identity" | "tctoken" | "cstoken")
            })
            .map(NodeRef::to_owned),
        );
        if let Some(device) = sender.devices.get(&self.device).filter(|_| opens_session) {
            let identity = device.record.device_identity.to_vec();
            children.push(NodeBuilder::new("device-identity").bytes(identity).build());
        }
        let mut stanza = NodeBuilder::new("message")
            .attr("from", from)
            .attr("id", self.id.as_str())
            .attr("t", self.at())
            // Tells a stanza that is handed over again from a message that was sent again.
            .attr("sts", self.micros)
            .attr("notify", sender.record.name.as_str());
        for name in ["type", "edit", "category"] {
            if let Some(value) = text_attr(self.node, name) {
                stanza = stanza.attr(name, value);
            }
        }
        stanza.children(children).build()
    }
}

/// The attribute that names a device in the other namespace.
pub(super) fn alternative(
    whom: &'static str,
    namespace: Namespace,
    account: &Account,
    device: u16,
) -> (&'static str, Jid) {
    let name = match (whom, namespace) {
        ("sender", Namespace::Pn) => "sender_lid",
        ("sender", Namespace::Lid) => "sender_pn",
        (_, Namespace::Pn) => "participant_lid",
        (_, Namespace::Lid) => "participant_pn",
    };
    (name, namespace.other().device(account, device))
}

/// How a group's addressing is written.
pub(super) fn mode(namespace: Namespace) -> &'static str {
    match namespace {
        Namespace::Pn => "pn",
        Namespace::Lid => "lid",
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use whatsapp_rust::wacore_binary::marshal;
    use whatsapp_rust::wacore_binary::marshal::unmarshal_ref;

    use super::*;
    use crate::emulator::session::trial::{ANI, BUDI, Trial, sessions};

    /// The hash that the ack of a group message tells to one that was sent with this hash.
    fn told(trial: &mut Trial, hash: &str) -> Option<String> {
        let group = Jid::group(trial.emulator.groups()[0].jid.trim_end_matches("@g.us"));
        let message = NodeBuilder::new("message").attr("to", group).attr("id", "A").attr("phash", hash);
        let bytes = marshal(&message.attr("addressing_mode", "pn").build()).unwrap();
        trial.sessions[0].handle(&unmarshal_ref(&bytes[1..]).unwrap());
        let told = trial.told(0);
        let ack = told.iter().find(|node| node.tag == "ack").expect("no ack came");
        Some(ack.attrs.get("phash")?.as_str().into_owned())
    }

    #[tokio::test]
    async fn who_writes_to_others_than_a_group_has_is_told_its_hash() {
        let mut trial = sessions().await;
        let devices = [Jid::pn(ANI), Jid::pn_device(ANI, 1), Jid::pn(BUDI)];
        let right = MessageUtils::participant_list_hash(&devices).unwrap();
        assert_eq!(told(&mut trial, "2:another"), Some(right.clone()));
        assert_eq!(told(&mut trial, &right), None);
    }
}
