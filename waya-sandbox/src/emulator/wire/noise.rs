//! The server's half of the Noise handshake: XX, IK, and XX as the answer to an IK hello that
//! cannot be read (the client then holds the key of another server).

use std::fmt;
use std::fs;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use whatsapp_rust::buffa::{self, Message};
use whatsapp_rust::wacore::crypto::hkdf_sha256_into;
use whatsapp_rust::wacore::handshake::{HandshakeError, NoiseCipher, NoiseHandshake};
use whatsapp_rust::wacore::libsignal::protocol::{KeyPair, PrivateKey};
use whatsapp_rust::wacore_binary::consts::{NOISE_PATTERN_IK, NOISE_PATTERN_XX, NOISE_PATTERN_XXFALLBACK};
use whatsapp_rust::waproto::whatsapp as wa;
use whatsapp_rust::waproto::whatsapp::cert_chain::{NoiseCertificate, noise_certificate};
use whatsapp_rust::waproto::whatsapp::handshake_message::{ClientHello, ServerHello};

use crate::emulator::config::EmulatorError;

/// Both certificates are valid from 2023 to 2100.
const NOT_BEFORE: u64 = 1_700_000_000;
const NOT_AFTER: u64 = 4_100_000_000;
const KEY_FILE: &str = "server-key";

/// The server's static key and the certificate chain that names it.
pub(crate) struct ServerIdentity {
    key: KeyPair,
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
            Ok(bytes) => Self::from_bytes(&bytes).ok_or(EmulatorError::BadKey(path)),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                let identity = Self::generate()?;
                identity.keep(folder).map_err(|source| EmulatorError::Data { path, source })?;
                Ok(identity)
            }
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

    fn generate() -> Result<Self, EmulatorError> {
        let key = KeyPair::generate(&mut signal_rand::rng());
        let chain = certificate_chain(&key).map_err(EmulatorError::Crypto)?;
        Ok(Self { key, chain })
    }

    fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let (private, chain) = bytes.split_at_checked(32)?;
        let key = KeyPair::try_from(PrivateKey::deserialize(private).ok()?).ok()?;
        wa::CertChain::decode_from_slice(chain).ok()?;
        Some(Self { key, chain: chain.to_vec() })
    }

    fn keep(&self, folder: &Path) -> std::io::Result<()> {
        let fresh = folder.join("server-key.new");
        let mut file = fs::OpenOptions::new().create(true).write(true).truncate(true).mode(0o600).open(&fresh)?;
        file.write_all(self.key.private_key.serialize())?;
        file.write_all(&self.chain)?;
        fs::rename(fresh, folder.join(KEY_FILE))
    }
}

/// A root signs an intermediate, the intermediate signs the server's key. The root key is thrown
/// away: clients of an emulator are built not to look at it.
fn certificate_chain(server: &KeyPair) -> Result<Vec<u8>, String> {
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
    Ok(chain.encode_to_vec())
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
