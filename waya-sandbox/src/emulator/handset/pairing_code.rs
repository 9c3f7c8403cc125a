//! Pairing by code: the handset's half of the exchange, and what the server passes between.

use tokio::sync::oneshot;
use whatsapp_rust::wacore::crypto::hkdf_sha256_into;
use whatsapp_rust::wacore::libsignal::crypto::aes_256_gcm_decrypt;
use whatsapp_rust::wacore::libsignal::protocol::{KeyPair, PublicKey};
use whatsapp_rust::wacore::pair_code::PairCodeUtils;
use whatsapp_rust::wacore_binary::builder::NodeBuilder;
use whatsapp_rust::wacore_binary::{Node, NodeRef};

use super::pairing::{ANSWER_LIMIT, link};
use super::waiting::{CodeFinish, CodeRequest};
use crate::emulator::state::phone_digits;
use crate::emulator::wire::ConnectionHandle;
use crate::emulator::{Emulator, ScanError, ScannedDevice, ensure_account, lock};

/// A client asks to be paired by code; the answer names the request.
pub(crate) fn take_hello(emulator: &Emulator, connection: &ConnectionHandle, request: &NodeRef<'_>) -> Option<Node> {
    let waiting = emulator.pairings().by_connection(connection)?;
    let jid = request.get_attr("jid")?.to_jid()?;
    let phone = phone_digits(&jid.user)?;
    let wrapped = request.get_optional_child("link_code_pairing_wrapped_companion_ephemeral_pub")?;
    let reference = rand::random::<[u8; 16]>().to_vec();
    let code = CodeRequest {
        phone,
        wrapped_ephemeral: wrapped.content_bytes()?.to_vec(),
        reference: reference.clone(),
        finish: None,
    };
    *lock::mutex(&waiting.code) = Some(code);
    let answer = NodeBuilder::new("link_code_companion_reg")
        .attr("stage", "companion_hello")
        .children([NodeBuilder::new("link_code_pairing_ref").bytes(reference).build()]);
    Some(answer.build())
}

/// A client hands over its key bundle; false if nobody typed its code.
pub(crate) fn take_finish(emulator: &Emulator, connection: &ConnectionHandle, request: &NodeRef<'_>) -> Option<()> {
    let bytes = |tag| Some(request.get_optional_child(tag)?.content_bytes()?.to_vec());
    let waiting = emulator.pairings().by_connection(connection)?;
    let mut code = lock::mutex(&waiting.code);
    let code = code.as_mut()?;
    (bytes("link_code_pairing_ref")? == code.reference).then_some(())?;
    let finish = CodeFinish {
        wrapped_bundle: bytes("link_code_pairing_wrapped_key_bundle")?,
        identity: bytes("companion_identity_public")?,
    };
    code.finish.take()?.send(finish).ok()
}

/// The handset of `phone` types a code in.
pub(super) async fn enter(emulator: &Emulator, phone: &str, code: &str) -> Result<ScannedDevice, ScanError> {
    let code: String = code.chars().filter(|c| !"- ".contains(*c)).map(|c| c.to_ascii_uppercase()).collect();
    if !PairCodeUtils::validate_code(&code) {
        return Err(ScanError::WrongCode);
    }
    let waiting = emulator.pairings().by_phone(phone).ok_or(ScanError::UnknownCode)?;
    super::guarded(emulator, &waiting, phone)?;
    let (sender, receiver) = oneshot::channel();
    let (wrapped, reference) = {
        let mut request = lock::mutex(&waiting.code);
        let request = request.as_mut().ok_or(ScanError::UnknownCode)?;
        request.finish = Some(sender);
        (request.wrapped_ephemeral.clone(), request.reference.clone())
    };
    let account = account_identity(emulator, phone)?;

    let ephemeral = KeyPair::generate(&mut signal_rand::rng());
    let own_public: [u8; 32] = ephemeral.public_key.public_key_bytes().try_into().map_err(|_| ScanError::WrongCode)?;
    // Two key derivations of 131,072 rounds each.
    let (companion_ephemeral, wrapped_own) = tokio::task::spawn_blocking(move || {
        let companion = PairCodeUtils::decrypt_primary_ephemeral_pub(&wrapped, &code);
        (companion, PairCodeUtils::encrypt_ephemeral_pub(&own_public, &code))
    })
    .await
    .map_err(|_| ScanError::Unfinished)?;
    let companion_ephemeral = companion_ephemeral.map_err(|_| ScanError::WrongCode)?;

    waiting.connection.send_node(&primary_hello(&wrapped_own, &account, &reference, emulator.now()));
    let finish = tokio::time::timeout(ANSWER_LIMIT, receiver)
        .await
        .map_err(|_| ScanError::Unfinished)?
        .map_err(|_| ScanError::Unfinished)?;
    let secret = adv_secret(&ephemeral, &account, &companion_ephemeral, &finish).ok_or(ScanError::WrongCode)?;
    if finish.identity != waiting.registration.identity {
        return Err(ScanError::WrongCode);
    }
    link(emulator, &waiting, phone, &secret).await
}

fn account_identity(emulator: &Emulator, phone: &str) -> Result<KeyPair, ScanError> {
    let mut state = emulator.state();
    ensure_account(&mut state, phone, "").map_err(|error| ScanError::Refused(error.to_string()))?;
    state.accounts.get(phone).map(|account| account.identity.clone()).ok_or(ScanError::UnknownCode)
}

fn primary_hello(wrapped: &[u8], account: &KeyPair, reference: &[u8], at: i64) -> Node {
    let leaf = |tag, bytes: &[u8]| NodeBuilder::new(tag).bytes(bytes.to_vec()).build();
    let registration = NodeBuilder::new("link_code_companion_reg")
        .attr("stage", "primary_hello")
        .children([
            leaf("link_code_pairing_wrapped_primary_ephemeral_pub", wrapped),
            leaf("primary_identity_pub", account.public_key.public_key_bytes()),
            leaf("link_code_pairing_ref", reference),
        ])
        .build();
    NodeBuilder::new("notification")
        .attr("from", "s.whatsapp.net")
        .attr("type", "link_code_companion_reg")
        .attr("id", format!("code-{:08x}", rand::random::<u32>()))
        .attr("t", at)
        .children([registration])
        .build()
}

/// Opens the client's key bundle and derives the secret both sides now share.
fn adv_secret(
    ephemeral: &KeyPair,
    account: &KeyPair,
    companion_ephemeral: &[u8; 32],
    finish: &CodeFinish,
) -> Option<[u8; 32]> {
    let companion = PublicKey::from_djb_public_key_bytes(companion_ephemeral).ok()?;
    let ephemeral_shared = ephemeral.private_key.calculate_agreement(&companion).ok()?;
    let (salt, rest) = finish.wrapped_bundle.split_at_checked(32)?;
    let (iv, sealed) = rest.split_at_checked(12)?;
    let mut key = [0; 32];
    let info = b"link_code_pairing_key_bundle_encryption_key";
    hkdf_sha256_into(&ephemeral_shared, Some(salt), info, &mut key).ok()?;
    let mut bundle = Vec::new();
    aes_256_gcm_decrypt(&key, iv.try_into().ok()?, b"", sealed, &mut bundle).ok()?;

    let (identity, rest) = bundle.split_at_checked(32)?;
    let (own_identity, random) = rest.split_at_checked(32)?;
    let fits = identity == finish.identity && own_identity == account.public_key.public_key_bytes();
    fits.then_some(())?;
    let identity = PublicKey::from_djb_public_key_bytes(identity).ok()?;
    let identity_shared = account.private_key.calculate_agreement(&identity).ok()?;
    let mut secret = [0; 32];
    let combined = [&ephemeral_shared[..], &identity_shared, random].concat();
    hkdf_sha256_into(&combined, None, b"adv_secret", &mut secret).ok()?;
    Some(secret)
}
