//! The answer that a passkey gives to WhatsApp's request: WebAuthn's `PublicKeyCredential` with an assertion in it, as
//! JSON. Pure: reads it and says what is wrong with it, before WhatsApp is bothered.
//!
//! It never checks the signature (WhatsApp alone knows the passkey's public key), and never makes one.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Map, Value};
use sha2::{Digest as _, Sha256};

/// The longest answer, in bytes; real ones have about a thousand.
pub const MAX_ANSWER: usize = 64 << 10;
/// What authenticator data begins with: the site's hash, flags and a counter.
const AUTHENTICATOR_DATA_HEAD: usize = 37;

/// An answer whose form is right and that fits its request.
#[derive(Clone, PartialEq, Eq)]
pub struct PasskeyAnswer {
    /// Which passkey.
    pub credential_id: Vec<u8>,
    /// What the browser or app says of the occasion, byte for byte as it was signed.
    pub client_data: Vec<u8>,
    /// What the passkey's keeper says of the occasion.
    pub authenticator_data: Vec<u8>,
    /// Over both.
    pub signature: Vec<u8>,
    /// Whom the passkey belongs to, when it says so.
    pub user_handle: Option<Vec<u8>>,
}

/// What is wrong with an answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadAnswer {
    /// It cannot be one.
    #[error("the passkey's answer has {0} bytes; {MAX_ANSWER} are the most")]
    TooLarge(usize),
    /// It is no JSON object.
    #[error("the passkey's answer is no JSON object: {0}")]
    NotJson(String),
    /// A field is missing or wrong.
    #[error("{field}: {problem}")]
    Field {
        /// Which one, from the outside in.
        field: &'static str,
        /// What is wrong with it.
        problem: String,
    },
}

fn wrong(field: &'static str, problem: impl Into<String>) -> BadAnswer {
    BadAnswer::Field { field, problem: problem.into() }
}

impl PasskeyAnswer {
    /// Reads an answer to `request`, WhatsApp's `PublicKeyCredentialRequestOptions` as JSON.
    ///
    /// # Errors
    /// The first thing that is wrong.
    pub fn read(text: &str, request: &str) -> Result<Self, BadAnswer> {
        if text.len() > MAX_ANSWER {
            return Err(BadAnswer::TooLarge(text.len()));
        }
        let answer: Map<String, Value> = serde_json::from_str(text.trim_start_matches('\u{feff}'))
            .map_err(|error| BadAnswer::NotJson(error.to_string()))?;
        if answer.get("type").and_then(Value::as_str) != Some("public-key") {
            return Err(wrong("type", "must be \"public-key\""));
        }
        let credential_id = bytes("rawId", answer.get("rawId"))?;
        if bytes("id", answer.get("id"))? != credential_id {
            return Err(wrong("id", "must be the same as rawId"));
        }
        let Some(Value::Object(response)) = answer.get("response") else {
            return Err(wrong("response", "must be an object with clientDataJSON, authenticatorData and signature"));
        };
        let answer = Self {
            credential_id,
            client_data: bytes("response.clientDataJSON", response.get("clientDataJSON"))?,
            authenticator_data: bytes("response.authenticatorData", response.get("authenticatorData"))?,
            signature: bytes("response.signature", response.get("signature"))?,
            user_handle: match response.get("userHandle") {
                None | Some(Value::Null) => None,
                given => Some(bytes("response.userHandle", given)?),
            },
        };
        answer.fits(&serde_json::from_str(request).unwrap_or_default())?;
        Ok(answer)
    }

    /// What WhatsApp would refuse without saying why.
    fn fits(&self, request: &Value) -> Result<(), BadAnswer> {
        const CLIENT_DATA: &str = "response.clientDataJSON";
        const AUTHENTICATOR_DATA: &str = "response.authenticatorData";
        let client_data: Map<String, Value> = serde_json::from_slice(&self.client_data)
            .map_err(|error| wrong(CLIENT_DATA, format!("holds no JSON object: {error}")))?;
        let said = |name: &str| client_data.get(name).and_then(Value::as_str);
        if said("type") != Some("webauthn.get") {
            return Err(wrong(
                CLIENT_DATA,
                "its type must be \"webauthn.get\": use the passkey, do not make a new one",
            ));
        }
        let wanted = request.get("challenge").and_then(Value::as_str).and_then(decode);
        if wanted.is_none() || said("challenge").and_then(decode) != wanted {
            return Err(wrong(
                CLIENT_DATA,
                "its challenge is not the one WhatsApp asks with now; make the answer to the request that is shown",
            ));
        }
        if self.authenticator_data.len() < AUTHENTICATOR_DATA_HEAD {
            return Err(wrong(AUTHENTICATOR_DATA, format!("must have {AUTHENTICATOR_DATA_HEAD} bytes or more")));
        }
        if let Some(site) = request.get("rpId").and_then(Value::as_str)
            && !self.authenticator_data.starts_with(&Sha256::digest(site))
        {
            return Err(wrong(AUTHENTICATOR_DATA, format!("is not for {site}; use the account's passkey of {site}")));
        }
        let allowed = request.get("allowCredentials").and_then(Value::as_array).filter(|allowed| !allowed.is_empty());
        let is_it =
            |one: &Value| one.get("id").and_then(Value::as_str).and_then(decode).as_ref() == Some(&self.credential_id);
        if allowed.is_some_and(|allowed| !allowed.iter().any(is_it)) {
            return Err(wrong("rawId", "is none of the passkeys that WhatsApp asks for (allowCredentials)"));
        }
        Ok(())
    }
}

/// The bytes of a field.
fn bytes(field: &'static str, given: Option<&Value>) -> Result<Vec<u8>, BadAnswer> {
    let text = match given {
        None | Some(Value::Null) => return Err(wrong(field, "is missing")),
        Some(Value::String(text)) => text,
        Some(_) => return Err(wrong(field, "must be a string of base64url")),
    };
    match decode(text) {
        None => Err(wrong(field, "must be base64url: letters, digits, - and _, without anything else")),
        Some(bytes) if bytes.is_empty() => Err(wrong(field, "must not be empty")),
        Some(bytes) => Ok(bytes),
    }
}

/// Base64url; some programs pad it.
fn decode(text: &str) -> Option<Vec<u8>> {
    URL_SAFE_NO_PAD.decode(text.trim_end_matches('=')).ok()
}

/// Without what it says, because debug output reaches logs.
impl fmt::Debug for PasskeyAnswer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PasskeyAnswer").finish_non_exhaustive()
    }
}

#[cfg(test)]
#[path = "passkey_tests.rs"]
mod tests;
