//! Questions about people: are they on WhatsApp, under which LID, with which devices.

use whatsapp_rust::wacore_binary::builder::NodeBuilder;
use whatsapp_rust::wacore_binary::{Jid, Node, NodeContent, NodeRef, Server};

use super::{Answer, Request};
use crate::emulator::handset::adv::key_index_list;
use crate::emulator::relay::{Namespace, devices, jid_attr, text_attr};
use crate::emulator::state::{Account, State, phone_digits};

pub(super) fn answer(request: &Request<'_>) -> Answer {
    let Some(usync) = request.child("usync") else { return Answer::Refused(400, "bad-request") };
    let questions: Vec<_> = usync
        .get_optional_child("query")
        .and_then(NodeRef::children)
        .unwrap_or_default()
        .iter()
        .map(|question| question.tag.to_string())
        .collect();
    let users = usync.get_optional_child("list").and_then(NodeRef::children).unwrap_or_default();
    let mut state = request.session.emulator.state();
    let asked: Vec<_> = users.iter().map(|user| Asked::read(&state, user)).collect();
    let users: Vec<_> = asked.iter().map(|asked| asked.answer(&questions, request)).collect();
    if questions.iter().any(|question| question == "devices") {
        let accounts = asked.iter().filter_map(|asked| asked.account);
        let phones = accounts.map(|account| account.phone().to_owned()).collect();
        devices::remember(&mut state, request.phone, phones);
    }
    let mut answer = NodeBuilder::new("usync").attr("index", "0").attr("last", "true");
    for name in ["sid", "mode", "context"] {
        if let Some(value) = text_attr(usync, name) {
            answer = answer.attr(name, value);
        }
    }
    Answer::With(answer.children([NodeBuilder::new("list").children(users).build()]).build())
}

/// One person asked about.
struct Asked<'a> {
    jid: Option<Jid>,
    /// The number as it was written, if it was asked for by number.
    contact: Option<String>,
    account: Option<&'a Account>,
}

impl<'a> Asked<'a> {
    fn read(state: &'a State, user: &NodeRef<'_>) -> Self {
        let contact =
            user.get_optional_child("contact").and_then(NodeRef::content_as_string).map(|text| text.to_string());
        let jid = jid_attr(user, "jid").or_else(|| {
            let digits = contact.as_deref().and_then(phone_digits)?;
            Some(Jid::new(digits, Server::Pn))
        });
        let account = jid.as_ref().and_then(|jid| state.account_of(jid));
        Self { jid, contact, account }
    }

    fn answer(&self, questions: &[String], request: &Request<'_>) -> Node {
        let mut user = NodeBuilder::new("user");
        if let Some(jid) = &self.jid {
            user = user.attr("jid", jid.to_non_ad());
            if let Some(account) = self.account.filter(|_| Namespace::of(jid) == Namespace::Lid) {
                user = user.attr("pn_jid", Namespace::Pn.user(account));
            }
        }
        let answers: Vec<_> = questions
            .iter()
            .filter_map(|question| match question.as_str() {
                "contact" => Some(self.contact()),
                "devices" => Some(self.devices(request.now())),
                "business" => self.account.filter(|account| account.record.business).map(|_| business()),
                // Also before the move to LIDs: everybody has one. Who is addressed by it is told when it is linked.
                "lid" => self.account.map(lid),
                "status" => Some(self.about(request.phone)),
                _ => None,
            })
            .collect();
        user.children(answers).build()
    }

    fn contact(&self) -> Node {
        let known = if self.account.is_some() { "in" } else { "out" };
        let mut contact = NodeBuilder::new("contact").attr("type", known).build();
        contact.content = self.contact.as_deref().map(|text| NodeContent::String(text.into()));
        contact
    }

    /// What the person says about himself, unless that is not for the asker's eyes (401).
    fn about(&self, asker: &str) -> Node {
        let status = NodeBuilder::new("status");
        let Some(account) = self.account else { return status.attr("code", "404").build() };
        if account.phone() != asker && (!account.shows("status") || account.blocks(asker)) {
            return status.attr("code", "401").build();
        }
        match &account.record.about {
            Some(about) => status.attr("t", about.at).bytes(about.text.clone().into_bytes()).build(),
            None => status.build(),
        }
    }

    fn devices(&self, now: i64) -> Node {
        let Some(account) = self.account else {
            let nobody = NodeBuilder::new("device-list").build();
            return NodeBuilder::new("devices").children([nobody]).build();
        };
        let handset = NodeBuilder::new("device").attr("id", "0").build();
        let linked = account.devices.iter().map(|(number, device)| {
            NodeBuilder::new("device").attr("id", *number).attr("key-index", device.record.key_index).build()
        });
        let list = NodeBuilder::new("device-list").children(std::iter::once(handset).chain(linked)).build();
        let mut index = NodeBuilder::new("key-index-list").attr("ts", now);
        if let Some(signed) = key_index_list(account, now).filter(|_| !account.devices.is_empty()) {
            index = index.bytes(signed);
        }
        NodeBuilder::new("devices").children([list, index.build()]).build()
    }
}

/// A business account that WhatsApp has not verified the name of.
fn business() -> Node {
    NodeBuilder::new("business").build()
}

fn lid(account: &Account) -> Node {
    NodeBuilder::new("lid").attr("val", Namespace::Lid.user(account)).build()
}
