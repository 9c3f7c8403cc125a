//! Groups: making one, looking at one, and listing one's own.

use whatsapp_rust::wacore_binary::builder::NodeBuilder;
use whatsapp_rust::wacore_binary::{NodeRef, Server};

use super::{Answer, Request};
use crate::emulator::relay::{group, jid_attr, text_attr};
use crate::emulator::state::{Group, State};

pub(super) fn answer(request: &Request<'_>) -> Answer {
    if let Some(create) = request.child("create") {
        return make(request, create);
    }
    let pn_only = request.session.emulator.config().pn_only;
    let state = request.session.emulator.state();
    if request.child("participating").is_some() {
        let own = state.groups.values().filter(|group| group.has(request.phone));
        let groups: Vec<_> = own.map(|own| group::describe(&state, own, pn_only)).collect();
        return Answer::With(NodeBuilder::new("groups").children(groups).build());
    }
    if request.child("query").is_some() {
        return match asked(request, &state) {
            None => Answer::Refused(404, "item-not-found"),
            Some(group) if !group.has(request.phone) => Answer::Refused(403, "forbidden"),
            Some(group) => Answer::With(group::describe(&state, group, pn_only)),
        };
    }
    Answer::Refused(501, "feature-not-implemented")
}

fn asked<'a>(request: &Request<'_>, state: &'a State) -> Option<&'a Group> {
    let to = jid_attr(request.node, "to").filter(|to| to.server == Server::Group)?;
    state.groups.get(to.user.as_str())
}

fn make(request: &Request<'_>, create: &NodeRef<'_>) -> Answer {
    let Some(subject) = text_attr(create, "subject").filter(|subject| !subject.is_empty()) else {
        return Answer::Refused(400, "bad-request");
    };
    let pn_only = request.session.emulator.config().pn_only;
    let mut state = request.session.emulator.state();
    let invited = create
        .get_children_by_tag("participant")
        .filter_map(|participant| jid_attr(participant, "jid"))
        .filter_map(|jid| state.account_of(&jid).map(|account| account.phone().to_owned()));
    let members: Vec<_> = std::iter::once(request.phone.to_owned()).chain(invited).collect();
    let group = group::create(&mut state, &subject, &members, pn_only);
    Answer::With(group::describe(&state, &group, pn_only))
}
