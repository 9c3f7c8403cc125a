//! The tokens by which people vouch for each other: who holds one of a person may write to that person.
//!
//! A token is made from its issuer's key and its holder's number: nothing about it is stored, and it is good for ever.

use hmac::{Hmac, Mac};
use sha2::Sha256;
use whatsapp_rust::wacore_binary::NodeRef;

use crate::emulator::state::Account;

/// Bytes of a token.
const TOKEN: usize = 16;

/// The token that an account gives to the one with this phone.
pub(crate) fn token(issuer: &Account, holder: &str) -> Vec<u8> {
    let Ok(mut mac) = Hmac::<Sha256>::new_from_slice(&issuer.record.identity_private) else { return Vec::new() };
    mac.update(b"token of ");
    mac.update(holder.as_bytes());
    mac.finalize().into_bytes()[..TOKEN].to_vec()
}

/// Whether a message brings the token that its recipient gave to its sender.
pub(super) fn brings(message: &NodeRef<'_>, recipient: &Account, sender: &str) -> bool {
    let brought = message.get_optional_child("tctoken").and_then(|token| token.content_bytes());
    brought.is_some_and(|brought| token(recipient, sender) == brought)
}
