//! What people say about themselves, set by one of their devices; asked for by `usync`.

use super::{Answer, Request};
use crate::emulator::relay::account;
use crate::emulator::state::record::About;

/// The longest text, in characters.
const MAX_ABOUT: usize = 139;

pub(super) fn answer(request: &Request<'_>) -> Answer {
    let text = request.child("status").filter(|_| request.is_set());
    let Some(text) = text.map(|status| status.content_as_string().map(|text| text.to_string()).unwrap_or_default())
    else {
        return Answer::Refused(400, "bad-request");
    };
    if text.chars().count() > MAX_ABOUT {
        return Answer::Refused(406, "not-acceptable");
    }
    let mut state = request.session.emulator.state();
    let Some(account) = state.accounts.get(request.phone) else { return Answer::Refused(404, "item-not-found") };
    let mut record = account.record.clone();
    record.about = Some(About { text, at: request.now() });
    match account::change_about(&mut state, record) {
        Ok(()) => Answer::Done,
        Err(_) => Answer::Refused(500, "internal-server-error"),
    }
}
