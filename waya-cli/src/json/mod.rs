//! What `--json` prints: the bodies of the matching HTTP answers, key by key.
//!
//! One file a noun; nothing here decides or prints.

pub mod events;
pub mod opt_outs;
pub mod queue;
pub mod requests;
pub mod sandbox;
pub mod session;
pub mod settings;
pub mod webhooks;

use waya_proto::v1;

/// The contract's word of a value such as `LINK_STATE_LOGGED_OUT`.
fn word(name: &str, prefix: &str) -> String {
    name.strip_prefix(prefix).unwrap_or(name).to_ascii_lowercase()
}

/// The word of a link state.
pub fn link_state(state: i32) -> String {
    word(v1::LinkState::try_from(state).unwrap_or_default().as_str_name(), "LINK_STATE_")
}

/// The word of a message's status.
pub fn status(status: i32) -> String {
    word(v1::Status::try_from(status).unwrap_or_default().as_str_name(), "STATUS_")
}

/// The word of a message's ack.
pub fn ack(ack: i32) -> String {
    word(v1::Ack::try_from(ack).unwrap_or_default().as_str_name(), "ACK_")
}

#[cfg(test)]
mod tests {
    use super::v1;

    #[test]
    fn the_words_are_the_contracts() {
        assert_eq!(super::link_state(v1::LinkState::LoggedOut as i32), "logged_out");
        assert_eq!(super::link_state(v1::LinkState::PasskeyRequired as i32), "passkey_required");
        assert_eq!(super::status(v1::Status::Cancelled as i32), "cancelled");
        assert_eq!(super::ack(v1::Ack::None as i32), "none");
        assert_eq!(super::ack(99), "unspecified");
    }
}
