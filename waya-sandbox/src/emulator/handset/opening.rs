//! Messages that lie on a handset, opened.

use futures_util::FutureExt;
use whatsapp_rust::wacore::libsignal::protocol::{
    CiphertextMessage, PreKeySignalMessage, ProtocolAddress, SenderKeyDistributionMessage, SenderKeyName,
    SessionRecord, SignalMessage, UsePQRatchet, group_decrypt, message_decrypt,
    process_sender_key_distribution_message,
};
use whatsapp_rust::wacore::messages::decode_plaintext;
use whatsapp_rust::waproto::whatsapp as wa;

use super::signal::{Handset, OneSenderKey, OneSession};
use crate::emulator::state::Account;
use crate::emulator::state::letters::{Letter, Letters, Sealed, Sender};

/// How messages are padded.
const PADDING: u8 = 2;

/// A message from a device of the handset's own account, to the handset alone.
pub(super) fn open_peer(account: &Account, letters: &Letters, device: u16, sealed: &Sealed) -> Option<wa::Message> {
    by_session(account, letters, &(account.phone().to_owned(), device), sealed)
}

/// Opens a message that lies on an account's handset; `None` if the key to it is not there.
pub(super) fn open(account: &Account, letters: &Letters, letter: &Letter) -> Option<wa::Message> {
    match &letter.sealed {
        Sealed::SenderKey(sealed) => {
            letters.sender_keys(letter).find_map(|key| by_sender_key(account, letters, letter, key, sealed))
        }
        sealed => by_session(account, letters, &letter.sender, sealed),
    }
}

fn by_session(account: &Account, letters: &Letters, sender: &Sender, sealed: &Sealed) -> Option<wa::Message> {
    let (phone, device) = sender;
    match sealed {
        Sealed::PreKey(bytes) => {
            let sealed = PreKeySignalMessage::try_from(&bytes[..]).ok()?;
            decrypt(account, sender, &CiphertextMessage::PreKeySignalMessage(sealed), None)
        }
        Sealed::Session(bytes) if phone == account.phone() => {
            let sealed = CiphertextMessage::SignalMessage(SignalMessage::try_from(&bytes[..]).ok()?);
            letters.sessions(*device).find_map(|session| decrypt(account, sender, &sealed, Some(session.clone())))
        }
        Sealed::Session(_) | Sealed::SenderKey(_) => None,
    }
}

fn decrypt(
    account: &Account,
    (phone, device): &Sender,
    sealed: &CiphertextMessage,
    session: Option<SessionRecord>,
) -> Option<wa::Message> {
    let mut handset = Handset::of(account);
    let (mut pre_keys, signed) = (handset.clone(), handset.clone());
    let address = ProtocolAddress::new(phone, u32::from(*device).into());
    let (mut sessions, mut random) = (OneSession(session), signal_rand::rng());
    let opened = message_decrypt(
        sealed,
        &address,
        &mut sessions,
        &mut handset,
        &mut pre_keys,
        &signed,
        &mut random,
        UsePQRatchet::No,
    );
    // The stores answer at once, so this future never waits; the ones below neither.
    decode_plaintext(&opened.now_or_never()?.ok()?.plaintext, PADDING).ok()
}

fn by_sender_key(
    account: &Account,
    letters: &Letters,
    letter: &Letter,
    key: &Sealed,
    sealed: &[u8],
) -> Option<wa::Message> {
    let handed = by_session(account, letters, &letter.sender, key)?;
    let handed = handed.sender_key_distribution_message.as_option()?;
    let handed = handed.axolotl_sender_key_distribution_message.as_deref()?;
    let handed = SenderKeyDistributionMessage::try_from(handed).ok()?;
    let name = SenderKeyName::from_parts(&letter.chat, &letter.sender.0);
    let mut store = OneSenderKey::default();
    process_sender_key_distribution_message(&name, &handed, &mut store).now_or_never()?.ok()?;
    let opened = group_decrypt(sealed, &mut store, &name).now_or_never()?.ok()?;
    decode_plaintext(&opened, PADDING).ok()
}
