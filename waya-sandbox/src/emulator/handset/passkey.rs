//! Linking an account that is guarded by a passkey: the server asks for an assertion, the handset and the client agree on
//! a key and on a code to compare, and the client hands its keys over under it.
//!
//! It plays the server and the handset. The handset confirms the code by itself. Signatures are not checked, for there
//! is no real passkey; everything around them is.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use whatsapp_rust::buffa::Message as _;
use whatsapp_rust::wacore::libsignal::crypto::aes_256_gcm_decrypt;
use whatsapp_rust::wacore::libsignal::protocol::KeyPair;
use whatsapp_rust::wacore::shortcake::ShortcakeUtils;
use whatsapp_rust::wacore_binary::builder::NodeBuilder;
use whatsapp_rust::wacore_binary::{Node, NodeRef};
use whatsapp_rust::waproto::whatsapp as wa;
use whatsapp_rust::waproto::whatsapp::device_props::PlatformType;

use super::pairing::link;
use super::waiting::Waiting;
use crate::emulator::wire::ConnectionHandle;
use crate::emulator::{Emulator, lock};

/// The site that the accounts' passkeys belong to.
const SITE: &str = "web.whatsapp.com";
/// How long a request is of use, as it says.
const LASTS: Duration = Duration::from_secs(60);
/// How long the handset takes over its part; a client gets to see the answer to its own before that.
const HANDSET_TAKES: Duration = Duration::from_millis(200);
/// "A person was there" and "it was the right one", in an authenticator's flags.
const PRESENT_AND_VERIFIED: u8 = 0b101;

/// A request for a passkey, and how far its answer has come.
#[derive(Debug)]
pub(super) struct PasskeyRequest {
    phone: String,
    challenge: [u8; 32],
    credential_id: Vec<u8>,
    reference: String,
    stage: Stage,
}

#[derive(Debug)]
enum Stage {
    /// The assertion is awaited.
    Asked,
    /// The handset shows its half; the client's nonce is awaited.
    Committed { half: Half, commitment: Vec<u8>, identity: Vec<u8> },
    /// Both sides show the code; the client's keys are awaited.
    Compared { code: String, key: [u8; 32] },
    /// The keys are there.
    Done,
}

/// What the client and the handset told each other of themselves.
struct Half {
    companion: [u8; 32],
    platform: PlatformType,
    own: KeyPair,
    nonce: [u8; 32],
}

impl fmt::Debug for Half {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Half").field("platform", &self.platform).finish_non_exhaustive()
    }
}

/// Why a client's step was not taken.
type Refused = &'static str;

/// Asks a client that waits for the passkey of `phone`.
pub(super) fn demand(waiting: &Waiting, phone: &str, at: i64) {
    let request = PasskeyRequest {
        phone: phone.to_owned(),
        challenge: rand::random(),
        credential_id: credential_of(phone),
        reference: format!("2@{}", URL_SAFE_NO_PAD.encode(rand::random::<[u8; 32]>())),
        stage: Stage::Asked,
    };
    let asked = notification("passkey_prologue_request", request.options(), at);
    *lock::mutex(&waiting.passkey) = Some(request);
    waiting.connection.send_node(&asked);
}

/// The options once more, for a client that asks for them.
pub(crate) fn options(emulator: &Emulator, connection: &ConnectionHandle) -> Option<Node> {
    let waiting = emulator.pairings().by_connection(connection)?;
    lock::mutex(&waiting.passkey).as_ref().map(PasskeyRequest::options)
}

/// The reference that a client's half is to name.
pub(crate) fn reference(emulator: &Emulator, connection: &ConnectionHandle) -> Option<Node> {
    let waiting = emulator.pairings().by_connection(connection)?;
    let passkey = lock::mutex(&waiting.passkey);
    Some(leaf("ref", passkey.as_ref()?.reference.as_bytes()))
}

/// A client hands in the passkey's answer and its own half.
pub(crate) fn take_prologue(
    emulator: &Emulator,
    connection: &ConnectionHandle,
    prologue: &NodeRef<'_>,
) -> Result<(), Refused> {
    let waiting = emulator.pairings().by_connection(connection).ok_or("nobody-waits")?;
    let mut passkey = lock::mutex(&waiting.passkey);
    let request = passkey.as_mut().filter(|request| matches!(request.stage, Stage::Asked)).ok_or("not-asked-for")?;
    let part = |tag| content(prologue, tag).ok_or("incomplete");
    let (credential_id, assertion) = (part("credential_id")?, part("webauthn_assertion")?);
    request.check(&credential_id, &assertion)?;

    let payload = wa::ProloguePayload::decode_from_slice(&part("prologue_payload")?).map_err(|_| "bad-payload")?;
    let identity = payload.companion_ephemeral_identity.ok_or("bad-payload")?;
    let commitment = payload.commitment.as_option().and_then(|commitment| commitment.hash.clone());
    let companion = wa::CompanionEphemeralIdentity::decode_from_slice(&identity).map_err(|_| "bad-identity")?;
    if companion.r#ref.as_deref() != Some(request.reference.as_str()) {
        return Err("another-reference");
    }
    let half = Half {
        companion: companion.public_key.and_then(|key| key.try_into().ok()).ok_or("bad-identity")?,
        platform: companion.device_type.ok_or("bad-identity")?,
        own: KeyPair::generate(&mut signal_rand::rng()),
        nonce: rand::random(),
    };
    let told = wa::PrimaryEphemeralIdentity {
        public_key: Some(half.own.public_key.public_key_bytes().to_vec()),
        nonce: Some(half.nonce.to_vec()),
    };
    request.stage = Stage::Committed { half, commitment: commitment.ok_or("bad-payload")?, identity };
    drop(passkey);
    let told =
        notification("crsc_continuation", leaf("primary_ephemeral_identity", &told.encode_to_vec()), emulator.now());
    tokio::spawn(async move {
        tokio::time::sleep(HANDSET_TAKES).await;
        waiting.connection.send_node(&told);
    });
    Ok(())
}

/// A client reveals what it had committed itself to: now both sides know the code.
pub(crate) fn take_nonce(
    emulator: &Emulator,
    connection: &ConnectionHandle,
    node: &NodeRef<'_>,
) -> Result<(), Refused> {
    let waiting = emulator.pairings().by_connection(connection).ok_or("nobody-waits")?;
    let mut passkey = lock::mutex(&waiting.passkey);
    let request = passkey.as_mut().ok_or("not-asked-for")?;
    let Stage::Committed { half, commitment, identity } = &request.stage else { return Err("not-asked-for") };
    let nonce: [u8; 32] = node.content_bytes().and_then(|bytes| bytes.try_into().ok()).ok_or("bad-nonce")?;
    if ShortcakeUtils::commitment_hash(identity, &nonce)[..] != commitment[..] {
        return Err("another-commitment");
    }
    let own: [u8; 32] = half.own.public_key.public_key_bytes().try_into().map_err(|_| "no-key")?;
    let code = ShortcakeUtils::derive_verification_code(&nonce, &own, &half.nonce);
    let key = ShortcakeUtils::derive_encryption_key(&half.own, &half.companion, half.platform, &request.reference)
        .map_err(|_| "no-key")?;
    request.stage = Stage::Compared { code, key };
    Ok(())
}

/// A client hands its keys over: the handset signs it in.
pub(crate) fn take_keys(emulator: &Emulator, connection: &ConnectionHandle, node: &NodeRef<'_>) -> Result<(), Refused> {
    let waiting = emulator.pairings().by_connection(connection).ok_or("nobody-waits")?;
    let mut passkey = lock::mutex(&waiting.passkey);
    let request = passkey.as_mut().ok_or("not-asked-for")?;
    let Stage::Compared { key, .. } = &request.stage else { return Err("not-asked-for") };
    let sealed = node.content_bytes().ok_or("incomplete")?;
    let keys = open(sealed, key).ok_or("cannot-be-opened")?;
    let is_own = keys.companion_public_key.as_deref() == Some(&waiting.noise_public[..])
        && keys.companion_identity_key.as_deref() == Some(&waiting.registration.identity[..]);
    let secret = keys.adv_secret.filter(|secret| is_own && secret.len() == 32).ok_or("other-keys")?;
    request.stage = Stage::Done;
    let phone = request.phone.clone();
    drop(passkey);
    let emulator = emulator.clone();
    tokio::spawn(async move {
        tokio::time::sleep(HANDSET_TAKES).await;
        if let Err(error) = link(&emulator, &waiting, &phone, &secret).await {
            tracing::warn!(%error, "a client with a passkey could not be linked");
        }
    });
    Ok(())
}

/// The code that the handset of `phone` shows, as clients show it.
pub(crate) fn code_on_phone(waiting: &[Arc<Waiting>], phone: &str) -> Option<String> {
    waiting.iter().find_map(|waiting| match lock::mutex(&waiting.passkey).as_ref() {
        Some(PasskeyRequest { phone: of, stage: Stage::Compared { code, .. }, .. }) if of == phone => {
            let (head, tail) = code.split_at_checked(4)?;
            Some(format!("{head}-{tail}"))
        }
        _ => None,
    })
}

impl PasskeyRequest {
    /// WebAuthn's `PublicKeyCredentialRequestOptions`.
    fn options(&self) -> Node {
        let options = json!({
            "challenge": URL_SAFE_NO_PAD.encode(self.challenge),
            "timeout": LASTS.as_millis() as u64,
            "rpId": SITE,
            "allowCredentials": [{ "type": "public-key", "id": URL_SAFE_NO_PAD.encode(&self.credential_id) }],
            "userVerification": "required",
        });
        leaf("passkey_request_options", options.to_string().as_bytes())
    }

    /// Everything about the passkey's answer but its signature.
    fn check(&self, credential_id: &[u8], assertion: &[u8]) -> Result<(), Refused> {
        let assertion: Value = serde_json::from_slice(assertion).map_err(|_| "no-json")?;
        let bytes = |place: &str| assertion.pointer(place).and_then(Value::as_str).and_then(decode);
        if assertion["type"] != "public-key" || bytes("/rawId").as_deref() != Some(credential_id) {
            return Err("bad-assertion");
        }
        if bytes("/id").as_deref() != Some(credential_id) || credential_id != self.credential_id {
            return Err("unknown-credential");
        }
        let client_data = bytes("/response/clientDataJSON").ok_or("bad-assertion")?;
        let client_data: Value = serde_json::from_slice(&client_data).map_err(|_| "bad-client-data")?;
        if client_data["type"] != "webauthn.get" || client_data["origin"] != format!("https://{SITE}") {
            return Err("bad-client-data");
        }
        if client_data["challenge"].as_str().and_then(decode).as_deref() != Some(&self.challenge[..]) {
            return Err("another-challenge");
        }
        let data = bytes("/response/authenticatorData").filter(|data| data.len() >= 37).ok_or("bad-assertion")?;
        let verified = data.get(32).is_some_and(|flags| flags & PRESENT_AND_VERIFIED == PRESENT_AND_VERIFIED);
        if !data.starts_with(&Sha256::digest(SITE)) || !verified {
            return Err("bad-authenticator-data");
        }
        let signed = bytes("/response/signature").is_some_and(|signature| !signature.is_empty());
        if signed { Ok(()) } else { Err("bad-assertion") }
    }
}

/// What the passkey of an emulated account gives to these options, as a browser would write it: for tests.
///
/// `None` when the options name no passkey.
pub fn passkey_answer(options: &str) -> Option<String> {
    let options: Value = serde_json::from_str(options).ok()?;
    let (challenge, site) = (options["challenge"].as_str()?, options["rpId"].as_str()?);
    let id = options.pointer("/allowCredentials/0/id")?.as_str()?;
    let client_data = json!({ "type": "webauthn.get", "challenge": challenge, "origin": format!("https://{site}") });
    let data = [&Sha256::digest(site)[..], &[PRESENT_AND_VERIFIED, 0, 0, 0, 1]].concat();
    let answer = json!({
        "id": id,
        "rawId": id,
        "type": "public-key",
        "authenticatorAttachment": "platform",
        "clientExtensionResults": {},
        "response": {
            "clientDataJSON": URL_SAFE_NO_PAD.encode(client_data.to_string()),
            "authenticatorData": URL_SAFE_NO_PAD.encode(data),
            "signature": URL_SAFE_NO_PAD.encode(Sha256::digest(client_data.to_string())),
            "userHandle": URL_SAFE_NO_PAD.encode(id),
        },
    });
    Some(answer.to_string())
}

/// Every account has one passkey, always the same.
fn credential_of(phone: &str) -> Vec<u8> {
    Sha256::digest(format!("passkey of {phone}")).to_vec()
}

fn open(sealed: &[u8], key: &[u8; 32]) -> Option<wa::PairingRequest> {
    let sealed = wa::EncryptedPairingRequest::decode_from_slice(sealed).ok()?;
    let iv: [u8; 12] = sealed.iv?.try_into().ok()?;
    let mut opened = Vec::new();
    aes_256_gcm_decrypt(key, &iv, b"", &sealed.encrypted_payload?, &mut opened).ok()?;
    wa::PairingRequest::decode_from_slice(&opened).ok()
}

fn decode(text: &str) -> Option<Vec<u8>> {
    URL_SAFE_NO_PAD.decode(text).ok()
}

fn content(node: &NodeRef<'_>, tag: &str) -> Option<Vec<u8>> {
    Some(node.get_optional_child(tag)?.content_bytes()?.to_vec())
}

fn leaf(tag: &'static str, bytes: &[u8]) -> Node {
    NodeBuilder::new(tag).bytes(bytes.to_vec()).build()
}

fn notification(kind: &'static str, child: Node, at: i64) -> Node {
    NodeBuilder::new("notification")
        .attr("from", "s.whatsapp.net")
        .attr("type", kind)
        .attr("id", format!("passkey-{:08x}", rand::random::<u32>()))
        .attr("t", at)
        .children([child])
        .build()
}
