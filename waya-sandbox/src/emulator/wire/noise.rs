//! The server's half of the Noise handshake: XX, IK, and XX as the answer to an IK hello that
//! cannot be read (the client then holds the key of another server).

use std::fmt;
use std::fs;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use whatsapp_rust::buffa::{self, Message};
use whatsapp_rust::wacore::crypto::hkdf_sha256_into;
use whatsapp_rust::wacore::handshake::{HandshakeError, NoiseCipher, NoiseHandshake};
use whatsapp_rust::wacore::libsignal::protocol::{KeyPair, PrivateKey, PublicKey};
use whatsapp_rust::wacore_binary::consts::{NOISE_PATTERN_IK, NOISE_PATTERN_XX, NOISE_PATTERN_XXFALLBACK};
use whatsapp_rust::waproto::whatsapp as wa;
use whatsapp_rust::waproto::whatsapp::cert_chain::{NoiseCertificate, noise_certificate};
use whatsapp_rust::waproto::whatsapp::handshake_message::{ClientHello, ServerHello};

use crate::emulator::config::EmulatorError;

/// Both certificates are valid from 2023 to 2100.
const NOT_BEFORE: u64 = 1_700_000_000;
const NOT_AFTER: u64 = 4_100_000_000;
const KEY_FILE: &str = "server-key";

/// The server's static key, the certificate chain that names it, and who vouches for that.
pub(crate) struct ServerIdentity {
    key: KeyPair,
    root: [u8; 32],
    chain: Vec<u8>,
}

impl fmt::Debug for ServerIdentity {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("ServerIdentity").finish_non_exhaustive()
    }
}

impl ServerIdentity {
    /// The identity kept in `folder`, made there at first; without a folder a fresh one.
    pub(crate) fn open(folder: Option<&Path>) -> Result<Self, EmulatorError> {
        let Some(folder) = folder else { return Self::generate() };
        let path = folder.join(KEY_FILE);
        match fs::read(&path) {
            Ok(bytes) => {
                if let Some(identity) = Self::from_bytes(&bytes) {
                    return Ok(identity);
                }
                let key = key_without_root(&bytes).ok_or_else(|| EmulatorError::BadKey(path.clone()))?;
                Self::certified(key)?.kept(folder, path)
            }
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Self::generate()?.kept(folder, path),
            Err(source) => Err(EmulatorError::Data { path, source }),
        }
    }

    /// A secret for one use of it, the same as long as the identity is.
    pub(crate) fn secret(&self, used_for: &[u8]) -> [u8; 32] {
        let mut secret = [0; 32];
        let derived = hkdf_sha256_into(self.key.private_key.serialize(), None, used_for, &mut secret);
        derived.expect("32 bytes are never too many");
        secret
    }

    /// The public key of the root, by which clients check the chain.
    pub(crate) fn root(&self) -> &[u8; 32] {
        &self.root
    }

    fn generate() -> Result<Self, EmulatorError> {
        Self::certified(KeyPair::generate(&mut signal_rand::rng()))
    }

    fn certified(key: KeyPair) -> Result<Self, EmulatorError> {
        let (root, chain) = certificate_chain(&key).map_err(EmulatorError::Crypto)?;
        Ok(Self { key, root, chain })
    }

    fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let (private, rest) = bytes.split_at_checked(32)?;
        let (root, chain) = rest.split_at_checked(32)?;
        let identity = Self { key: key_pair(private)?, root: root.try_into().ok()?, chain: chain.to_vec() };
        let chain = wa::CertChain::decode_from_slice(chain).ok()?;
        let intermediate = chain.intermediate.into_option()?;
        // A file from before the root was kept has other bytes in its place.
        let root = PublicKey::from_djb_public_key_bytes(&identity.root).ok()?;
        root.verify_signature(&intermediate.details?, &intermediate.signature?).then_some(identity)
    }

    fn kept(self, folder: &Path, path: PathBuf) -> Result<Self, EmulatorError> {
        let keep = || {
            let fresh = folder.join("server-key.new");
            let mut file = fs::OpenOptions::new().create(true).write(true).truncate(true).mode(0o600).open(&fresh)?;
            file.write_all(self.key.private_key.serialize())?;
            file.write_all(&self.root)?;
            file.write_all(&self.chain)?;
            fs::rename(fresh, folder.join(KEY_FILE))
        };
        keep().map_err(|source| EmulatorError::Data { path, source })?;
        Ok(self)
    }
}

fn key_pair(private: &[u8]) -> Option<KeyPair> {
    KeyPair::try_from(PrivateKey::deserialize(private).ok()?).ok()
}

/// The key of a file from before the root was kept: it gets a new chain, which clients take as they take a renewed one.
fn key_without_root(bytes: &[u8]) -> Option<KeyPair> {
    let (private, chain) = bytes.split_at_checked(32)?;
    let chain = wa::CertChain::decode_from_slice(chain).ok()?;
    chain.leaf.is_set().then(|| key_pair(private))?
}

/// A root signs an intermediate, the intermediate signs the server's key. Nothing else is ever signed: of the root its
/// public key is kept, for clients that check the chain.
fn certificate_chain(server: &KeyPair) -> Result<([u8; 32], Vec<u8>), String> {
    let random = &mut signal_rand::rng();
    let (root, intermediate) = (KeyPair::generate(random), KeyPair::generate(random));
    let mut certificate = |issuer: &KeyPair, issuer_serial, serial, key: &KeyPair| {
        let details = noise_certificate::Details {
            serial: Some(serial),
            issuer_serial: Some(issuer_serial),
            key: Some(key.public_key.public_key_bytes().to_vec()),
            not_before: Some(NOT_BEFORE),
            not_after: Some(NOT_AFTER),
        }
        .encode_to_vec();
        let signature = issuer.private_key.calculate_signature(&details, random).map_err(|error| error.to_string())?;
        Ok::<_, String>(NoiseCertificate { details: Some(details), signature: Some(signature.to_vec()) })
    };
    let chain = wa::CertChain {
        intermediate: buffa::MessageField::some(certificate(&root, 0, 1, &intermediate)?),
        leaf: buffa::MessageField::some(certificate(&intermediate, 1, 2, server)?),
    };
    let public = root.public_key.public_key_bytes().try_into().map_err(|_| "a public key has 32 bytes".to_owned())?;
    Ok((public, chain.encode_to_vec()))
}

/// Why a handshake failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NoiseFailure {
    #[error("the first bytes are no WhatsApp greeting")]
    Greeting,
    #[error("the handshake message is incomplete")]
    Incomplete,
    #[error("the handshake message is no protobuf: {0}")]
    Decode(#[from] buffa::DecodeError),
    #[error("the handshake does not open: {0}")]
    Crypto(#[from] HandshakeError),
}

/// Which way the handshake went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Pattern {
    Xx,
    Ik,
    XxFallback,
}

/// A finished handshake.
pub(crate) struct Opened {
    pub(crate) pattern: Pattern,
    pub(crate) client_static: [u8; 32],
    pub(crate) payload: wa::ClientPayload,
    /// Decrypts what the client writes.
    pub(crate) incoming: NoiseCipher,
    /// Encrypts what the server writes.
    pub(crate) outgoing: NoiseCipher,
}

/// What the server does after the client's first message.
pub(crate) enum Hello {
    /// Write these bytes; the handshake is finished.
    Done(Vec<u8>, Box<Opened>),
    /// Write these bytes and wait for the client's second message.
    Wait(Vec<u8>, Box<Waiting>),
}

/// A handshake that waits for the client's second message.
pub(crate) struct Waiting {
    noise: NoiseHandshake,
    ephemeral: KeyPair,
    pattern: Pattern,
}

impl ServerIdentity {
    /// Reads the client's first message and makes the server's.
    pub(crate) fn answer(&self, prologue: &[u8], message: &[u8]) -> Result<Hello, NoiseFailure> {
        let hello = wa::HandshakeMessage::decode_from_slice(message)?
            .client_hello
            .into_option()
            .ok_or(NoiseFailure::Incomplete)?;
        let client_ephemeral = key32(hello.ephemeral.as_deref())?;
        if hello.r#static.is_none() || hello.payload.is_none() {
            return self.answer_xx(NOISE_PATTERN_XX, Pattern::Xx, prologue, &client_ephemeral);
        }
        match self.answer_ik(prologue, &client_ephemeral, &hello) {
            Ok(done) => Ok(done),
            Err(error) => {
                tracing::debug!(%error, "an IK hello does not open; answering with XX");
                let pattern = NOISE_PATTERN_XXFALLBACK;
                self.answer_xx(pattern, Pattern::XxFallback, prologue, &client_ephemeral)
            }
        }
    }

    fn answer_xx(
        &self,
        name: &str,
        pattern: Pattern,
        prologue: &[u8],
        client_ephemeral: &[u8; 32],
    ) -> Result<Hello, NoiseFailure> {
        let mut noise = NoiseHandshake::new(name, prologue)?;
        noise.authenticate(client_ephemeral);
        let ephemeral = KeyPair::generate(&mut signal_rand::rng());
        noise.authenticate(ephemeral.public_key.public_key_bytes());
        noise.mix_shared_secret(ephemeral.private_key.serialize(), client_ephemeral)?;
        let server_static = noise.encrypt(self.key.public_key.public_key_bytes())?;
        noise.mix_shared_secret(self.key.private_key.serialize(), client_ephemeral)?;
        let payload = noise.encrypt(&self.chain)?;
        let reply = server_hello(&ephemeral, Some(server_static), payload);
        Ok(Hello::Wait(reply, Box::new(Waiting { noise, ephemeral, pattern })))
    }

    fn answer_ik(
        &self,
        prologue: &[u8],
        client_ephemeral: &[u8; 32],
        hello: &ClientHello,
    ) -> Result<Hello, NoiseFailure> {
        let mut noise = NoiseHandshake::new(NOISE_PATTERN_IK, prologue)?;
        noise.authenticate(self.key.public_key.public_key_bytes());
        noise.authenticate(client_ephemeral);
        noise.mix_shared_secret(self.key.private_key.serialize(), client_ephemeral)?;
        let client_static = noise.decrypt(hello.r#static.as_deref().unwrap_or_default())?;
        let client_static = key32(Some(&client_static))?;
        noise.mix_shared_secret(self.key.private_key.serialize(), &client_static)?;
        let payload = noise.decrypt(hello.payload.as_deref().unwrap_or_default())?;
        let payload = wa::ClientPayload::decode_from_slice(&payload)?;

        let ephemeral = KeyPair::generate(&mut signal_rand::rng());
        noise.authenticate(ephemeral.public_key.public_key_bytes());
        noise.mix_shared_secret(ephemeral.private_key.serialize(), client_ephemeral)?;
        noise.mix_shared_secret(ephemeral.private_key.serialize(), &client_static)?;
        let chain = noise.encrypt(&self.chain)?;
        let reply = server_hello(&ephemeral, None, chain);
        Ok(Hello::Done(reply, Box::new(open(noise, Pattern::Ik, client_static, payload)?)))
    }
}

impl Waiting {
    /// Reads the client's second message.
    pub(crate) fn finish(mut self, message: &[u8]) -> Result<Opened, NoiseFailure> {
        let finish = wa::HandshakeMessage::decode_from_slice(message)?
            .client_finish
            .into_option()
            .ok_or(NoiseFailure::Incomplete)?;
        let client_static = self.noise.decrypt(finish.r#static.as_deref().unwrap_or_default())?;
        let client_static = key32(Some(&client_static))?;
        self.noise.mix_shared_secret(self.ephemeral.private_key.serialize(), &client_static)?;
        let payload = self.noise.decrypt(finish.payload.as_deref().unwrap_or_default())?;
        let payload = wa::ClientPayload::decode_from_slice(&payload)?;
        open(self.noise, self.pattern, client_static, payload)
    }
}

fn open(
    noise: NoiseHandshake,
    pattern: Pattern,
    client_static: [u8; 32],
    payload: wa::ClientPayload,
) -> Result<Opened, NoiseFailure> {
    let (incoming, outgoing) = noise.finish()?;
    Ok(Opened { pattern, client_static, payload, incoming, outgoing })
}

fn server_hello(ephemeral: &KeyPair, server_static: Option<Vec<u8>>, payload: Vec<u8>) -> Vec<u8> {
    wa::HandshakeMessage {
        server_hello: buffa::MessageField::some(ServerHello {
            ephemeral: Some(ephemeral.public_key.public_key_bytes().to_vec()),
            r#static: server_static,
            payload: Some(payload),
            ..Default::default()
        }),
        ..Default::default()
    }
    .encode_to_vec()
}

fn key32(bytes: Option<&[u8]>) -> Result<[u8; 32], NoiseFailure> {
    bytes.and_then(|bytes| bytes.try_into().ok()).ok_or(NoiseFailure::Incomplete)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn details(certificate: &NoiseCertificate) -> noise_certificate::Details {
        noise_certificate::Details::decode_from_slice(certificate.details.as_deref().unwrap()).unwrap()
    }

    fn is_signed_by(certificate: &NoiseCertificate, key: &[u8]) -> bool {
        let key = PublicKey::from_djb_public_key_bytes(key).unwrap();
        key.verify_signature(certificate.details.as_deref().unwrap(), certificate.signature.as_deref().unwrap())
    }

    #[test]
    fn the_root_vouches_for_the_chain_and_the_chain_for_the_key() {
        let identity = ServerIdentity::generate().unwrap();
        let chain = wa::CertChain::decode_from_slice(&identity.chain).unwrap();
        let (intermediate, leaf) = (chain.intermediate.into_option().unwrap(), chain.leaf.into_option().unwrap());
        let (above, below) = (details(&intermediate), details(&leaf));
        assert!(is_signed_by(&intermediate, identity.root()));
        assert!(is_signed_by(&leaf, above.key.as_deref().unwrap()));
        assert_eq!((above.issuer_serial, below.issuer_serial), (Some(0), above.serial));
        assert_eq!(below.key.as_deref().unwrap(), identity.key.public_key.public_key_bytes());
        let other = ServerIdentity::generate().unwrap();
        assert!(!is_signed_by(&intermediate, other.root()) && !is_signed_by(&leaf, identity.root()));
    }

    #[test]
    fn the_root_is_kept_and_a_key_without_one_gets_one() {
        let folder = tempfile::tempdir().unwrap();
        let first = ServerIdentity::open(Some(folder.path())).unwrap();
        let again = ServerIdentity::open(Some(folder.path())).unwrap();
        assert_eq!((again.root(), &again.chain), (first.root(), &first.chain));

        let path = folder.path().join(KEY_FILE);
        fs::write(&path, [first.key.private_key.serialize(), &first.chain[..]].concat()).unwrap();
        let mended = ServerIdentity::open(Some(folder.path())).unwrap();
        assert_eq!(mended.key.public_key, first.key.public_key);
        assert_ne!(mended.root(), first.root());
        assert_eq!(ServerIdentity::open(Some(folder.path())).unwrap().root(), mended.root());

        for bytes in [&b""[..], &[7; 31], &[7; 64], &[7; 200]] {
            fs::write(&path, bytes).unwrap();
            assert!(matches!(ServerIdentity::open(Some(folder.path())), Err(EmulatorError::BadKey(_))), "{bytes:?}");
        }
    }
}
