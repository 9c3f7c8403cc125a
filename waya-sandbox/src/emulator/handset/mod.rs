//! The emulated handsets: they scan codes, sign devices in, and hand over app-state keys and history.
//!
//! What is sent to a handset is confirmed when it is switched on, or as soon as it is. It opens a message only when a device asks for it or
//! for its file again, and what its own devices say to it alone.

pub(crate) mod adv;
mod history;
mod keys;
mod on_demand;
mod opening;
mod pairing;
mod pairing_code;
mod passkey;
mod peer;
mod pieces;
mod requests;
mod reupload;
mod signal;
mod waiting;

use super::state::phone_digits;
use super::{Emulator, ScanError, ScannedDevice};

pub use history::HISTORY_TEXT;
pub(crate) use history::hand_piece;
pub(crate) use keys::{share_keys_if_due, share_keys_soon};
pub(crate) use pairing_code::{take_finish, take_hello};
pub use passkey::passkey_answer;
pub(crate) use passkey::{options, reference, take_keys, take_nonce, take_prologue};
pub(crate) use requests::{hand_over_again, hear, taken};
pub(crate) use reupload::upload_again;
pub(crate) use waiting::{Pairings, big_endian, offer_pairing};

/// Lets a handset scan a pairing QR.
pub(crate) async fn scan_qr(emulator: &Emulator, qr: &str, phone: Option<&str>) -> Result<ScannedDevice, ScanError> {
    let qr = waiting::Qr::parse(qr)?;
    let waiting = emulator.pairings().by_qr(&qr).ok_or(ScanError::UnknownCode)?;
    let phone = match phone {
        Some(phone) => phone_digits(phone).ok_or_else(|| ScanError::BadPhone(phone.to_owned()))?,
        None => phone_of_name(emulator, &waiting.push_name),
    };
    guarded(emulator, &waiting, &phone)?;
    pairing::link(emulator, &waiting, &phone, &qr.adv_secret).await
}

/// Asks for a passkey where the account has one; then the pairing goes on by what the client answers.
fn guarded(emulator: &Emulator, waiting: &waiting::Waiting, phone: &str) -> Result<(), ScanError> {
    if emulator.fault_rules().wants_passkey(phone) {
        passkey::demand(waiting, phone, emulator.now());
        return Err(ScanError::PasskeyAsked);
    }
    Ok(())
}

/// The code that the handset of `phone` shows to be compared.
pub(crate) fn passkey_code(emulator: &Emulator, phone: &str) -> Option<String> {
    passkey::code_on_phone(&emulator.pairings().all(), phone)
}

/// Types a pairing code into a handset.
pub(crate) async fn enter_pair_code(emulator: &Emulator, phone: &str, code: &str) -> Result<ScannedDevice, ScanError> {
    let digits = phone_digits(phone).ok_or_else(|| ScanError::BadPhone(phone.to_owned()))?;
    pairing_code::enter(emulator, &digits, code).await
}

/// The account with this push name, or a number nobody has yet.
fn phone_of_name(emulator: &Emulator, name: &str) -> String {
    let state = emulator.state();
    let known = state.accounts.values().find(|account| account.record.name == name);
    if let Some(account) = known.filter(|_| !name.is_empty()) {
        return account.phone().to_owned();
    }
    loop {
        let phone = format!("62899{:08}", rand::random_range(0..100_000_000_u32));
        if !state.accounts.contains_key(&phone) {
            return phone;
        }
    }
}
