//! The body of a delivery, and the headers that prove where it comes from.

use std::fmt::Write as _;

use ring::hmac;
use serde::Serialize;
use serde_json::Value;

use crate::model::{ChatId, Secret, Timestamp};
use crate::session::Me;

/// What is posted; its bytes are what is signed.
#[derive(Debug, Clone, Serialize)]
pub struct Envelope<'a> {
    /// The event's id, the same on every delivery.
    pub id: &'a str,
    /// When it happened.
    pub timestamp: Timestamp,
    /// Its topic's word.
    pub event: &'a str,
    /// The profile's name.
    pub session: &'a str,
    /// Who is linked.
    pub me: Option<Account>,
    /// The event itself.
    pub payload: Value,
}

/// The linked account, as receivers see it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Account {
    id: ChatId,
    number: String,
    name: String,
}

impl From<&Me> for Account {
    fn from(me: &Me) -> Self {
        Self { id: ChatId::phone(&me.phone), number: me.phone.clone(), name: me.push_name.clone() }
    }
}

impl Envelope<'_> {
    /// The bytes that are posted. Everything in it is text, numbers and JSON already, so there always are some.
    #[must_use]
    pub fn bytes(&self) -> Vec<u8> {
        serde_json::to_vec(self).unwrap_or_default()
    }
}

/// The headers of one delivery; unsigned without a secret.
#[must_use]
pub fn headers(id: &str, sent_at: Timestamp, body: &[u8], secret: Option<&Secret>) -> Vec<(&'static str, String)> {
    let mut headers = vec![
        ("Content-Type", "application/json".to_owned()),
        ("User-Agent", concat!("Waya/", env!("CARGO_PKG_VERSION")).to_owned()),
        ("X-Webhook-Request-Id", id.to_owned()),
        ("X-Webhook-Timestamp", sent_at.as_millis().to_string()),
    ];
    if let Some(secret) = secret {
        headers.push(("X-Webhook-Hmac", signature(secret, body)));
        headers.push(("X-Webhook-Hmac-Algorithm", "sha512".to_owned()));
    }
    headers
}

/// HMAC-SHA512 in small hex digits.
#[must_use]
pub fn signature(secret: &Secret, body: &[u8]) -> String {
    let key = hmac::Key::new(hmac::HMAC_SHA512, secret.0.as_bytes());
    let mut text = String::with_capacity(128);
    for byte in hmac::sign(&key, body).as_ref() {
        let _ = write!(text, "{byte:02x}");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn the_body_has_the_envelopes_fields_in_order() {
        let me = Me { phone: "6281200000001".to_owned(), lid: None, push_name: "Toko".to_owned() };
        let envelope = Envelope {
            id: "evt_1",
            timestamp: Timestamp::from_millis(1_795_405_726_789),
            event: "message.sent",
            session: "default",
            me: Some(Account::from(&me)),
            payload: json!({"id": "x"}),
        };
        let text = String::from_utf8(envelope.bytes()).unwrap();
        insta::assert_snapshot!(text, @r#"{"id":"evt_1","timestamp":1795405726789,"event":"message.sent","session":"default","me":{"id":"6281200000001@c.us","number":"6281200000001","name":"Toko"},"payload":{"id":"x"}}"#);
        let nobody = Envelope { me: None, ..envelope };
        assert!(String::from_utf8(nobody.bytes()).unwrap().contains(r#""me":null"#));
    }

    /// RFC 4231, test case 2.
    #[test]
    fn the_signature_is_hmac_sha512() {
        let signed = signature(&Secret("Jefe".to_owned()), b"what do ya want for nothing?");
        assert_eq!(
            signed,
            "164b7a7bfcf819e2e395fbe73b56e0a387bd64222e831fd610270cd7ea2505549758bf75c05a994a6d034f65f8f0e6fdcaeab1a34d4a6b4b636e070a38bce737"
        );
        let names =
            |headers: Vec<(&'static str, String)>| headers.into_iter().map(|(name, _)| name).collect::<Vec<_>>();
        let unsigned = names(headers("evt_1", Timestamp::from_millis(5), b"x", None));
        assert!(!unsigned.contains(&"X-Webhook-Hmac"));
    }
}
