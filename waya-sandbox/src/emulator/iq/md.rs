//! Linking and unlinking as the client asks for it.

use std::time::Duration;

use whatsapp_rust::wacore_binary::Node;
use whatsapp_rust::wacore_binary::builder::NodeBuilder;

use super::{Answer, Request};
use crate::emulator::handset;
use crate::emulator::relay::{devices, jid_attr, text_attr};
use crate::emulator::session::device_removed;
use crate::emulator::wire::Outgoing;

/// A client that logged out still reads the answer before its connection ends.
const FAREWELL: Duration = Duration::from_millis(200);

pub(super) fn answer(request: &Request<'_>) -> Answer {
    if let Some(registration) = request.child("link_code_companion_reg") {
        let (emulator, connection) = (&request.session.emulator, &request.session.connection);
        return match text_attr(registration, "stage").as_deref() {
            Some("companion_hello") => handset::take_hello(emulator, connection, registration)
                .map_or(Answer::Refused(400, "bad-request"), Answer::With),
            Some("companion_finish") => handset::take_finish(emulator, connection, registration)
                .map_or(Answer::Refused(400, "bad-request"), |()| {
                    Answer::With(NodeBuilder::new("link_code_companion_reg").build())
                }),
            _ => Answer::Refused(400, "bad-request"),
        };
    }
    if let Some(answer) = passkey(request) {
        return answer;
    }
    match request.child("remove-companion-device") {
        Some(_) if request.phone.is_empty() => Answer::Refused(401, "not-authorized"),
        Some(removal) => {
            let device = jid_attr(removal, "jid").map_or(request.device, |jid| jid.device);
            remove(request, device)
        }
        None => Answer::Done,
    }
}

/// The steps of a linking that asks for a passkey.
fn passkey(request: &Request<'_>) -> Option<Answer> {
    let (emulator, connection) = (&request.session.emulator, &request.session.connection);
    let shown = |node: Option<Node>| node.map_or(Answer::Refused(404, "item-not-found"), Answer::With);
    if !request.is_set() {
        let options = request.child("passkey_request_options").map(|_| handset::options(emulator, connection));
        let reference = || request.child("ref").map(|_| handset::reference(emulator, connection));
        return options.or_else(reference).map(shown);
    }
    let taken = if let Some(node) = request.child("passkey_prologue") {
        handset::take_prologue(emulator, connection, node)
    } else if let Some(node) = request.child("companion_nonce") {
        handset::take_nonce(emulator, connection, node)
    } else {
        handset::take_keys(emulator, connection, request.child("encrypted_pairing_request")?)
    };
    Some(taken.map_or_else(|why| Answer::Refused(400, why), |()| Answer::Done))
}

fn remove(request: &Request<'_>, device: u16) -> Answer {
    let mut state = request.session.emulator.state();
    let Some(account) = state.accounts.get(request.phone) else {
        return Answer::Refused(404, "item-not-found");
    };
    let Some(known) = account.devices.get(&device) else {
        return Answer::Refused(404, "item-not-found");
    };
    let (key, session) = (account.key(device), known.session.clone());
    if devices::unlink(&mut state, &key).is_err() {
        return Answer::Refused(500, "internal-server-error");
    }
    drop(state);
    request.answer(Answer::Done);
    if let Some(session) = session {
        tokio::spawn(async move {
            tokio::time::sleep(FAREWELL).await;
            session.connection.send_node(&device_removed());
            session.connection.tell(Outgoing::Close);
        });
    }
    Answer::Later
}
