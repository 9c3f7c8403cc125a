//! The passkey's answer and the code, over HTTP.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use super::{Answer, Door, answer, assert_refused};
use crate::model::{LinkState, PasskeyStep, Timestamp};
use crate::session::SessionError;

fn asked() -> LinkState {
    let request = json!({"challenge": "Y2hhbGxlbmdl", "rpId": "web.whatsapp.com", "allowCredentials": []}).to_string();
    let expires_at = Some(Timestamp::from_millis(1_800_000_060_000));
    LinkState::PasskeyRequired { step: PasskeyStep::Asked { request, expires_at } }
}

fn signed(challenge: &str) -> Value {
    let client_data = json!({"type": "webauthn.get", "challenge": challenge, "origin": "https://web.whatsapp.com"});
    let data = [&Sha256::digest("web.whatsapp.com")[..], &[5, 0, 0, 0, 1]].concat();
    json!({"id": "bWluZQ", "rawId": "bWluZQ", "type": "public-key", "response": {
        "clientDataJSON": URL_SAFE_NO_PAD.encode(client_data.to_string()),
        "authenticatorData": URL_SAFE_NO_PAD.encode(data),
        "signature": "c2lnbmVk",
    }})
}

impl Door {
    async fn passkey(&self, path: &str, body: impl Into<reqwest::Body>) -> Answer {
        let request = self.request("POST", &format!("/api/session/passkey{path}"));
        answer(request.header("content-type", "application/json").body(body)).await
    }
}

#[tokio::test]
async fn a_passkey_is_asked_for_answered_and_its_code_confirmed() {
    let door = Door::open().await;
    door.world.whatsapp.set_link(asked());
    let (_, session) = door.get("/api/session").await;
    insta::assert_json_snapshot!(session);

    let (status, session) = door.passkey("", signed("Y2hhbGxlbmdl").to_string()).await;
    assert_eq!((status, &session["passkey"]["step"]), (200, &json!("answered")), "{session}");
    let handed_in = door.world.whatsapp.passkeys();
    assert_eq!((handed_in.len(), handed_in[0].signature.as_slice()), (1, &b"signed"[..]));

    let compare = PasskeyStep::Compare { code: "ABCD-EFGH".to_owned() };
    door.world.whatsapp.set_link(LinkState::PasskeyRequired { step: compare });
    let (_, session) = door.get("/api/session").await;
    assert_eq!(session["passkey"], json!({"step": "compare", "request": null, "expiresAt": null, "code": "ABCD-EFGH"}));
    for (body, field) in [(r#"{"code":"ABCD-EFGX"}"#, "code"), ("{}", "code"), (r#"{"code":7}"#, "code")] {
        assert_refused(&door.passkey("/confirm", body).await, 422, "invalid_field", Some(field));
    }
    assert_refused(&door.passkey("/confirm", "{").await, 400, "invalid_json", None);
    let (status, session) = door.passkey("/confirm", r#"{"code":"abcd efgh"}"#).await;
    assert_eq!((status, &session["passkey"]["step"]), (200, &json!("answered")), "{session}");
}

#[tokio::test]
async fn a_wrong_answer_is_named_and_changes_nothing() {
    let door = Door::open().await;
    door.world.whatsapp.set_link(asked());
    let mut unsigned = signed("Y2hhbGxlbmdl");
    unsigned["response"]["signature"] = Value::Null;
    let large = json!({"x": "x".repeat(70_000)}).to_string();
    for (body, status, code, field) in [
        ("{".to_owned(), 400, "invalid_json", None),
        ("[]".to_owned(), 422, "invalid_field", Some("assertion")),
        ("{}".to_owned(), 422, "invalid_field", Some("type")),
        (unsigned.to_string(), 422, "invalid_field", Some("response.signature")),
        (signed("eWVzdGVyZGF5").to_string(), 422, "invalid_field", Some("response.clientDataJSON")),
        (large, 413, "too_large", None),
    ] {
        assert_refused(&door.passkey("", body).await, status, code, field);
    }
    assert_refused(&door.passkey("/confirm", r#"{"code":"ABCD-EFGH"}"#).await, 409, "passkey_not_asked", None);
    assert!(door.world.whatsapp.passkeys().is_empty());
    assert_eq!(door.get("/api/session").await.1["passkey"]["step"], "asked");

    door.world.whatsapp.next_refusal(SessionError::Refused("another-challenge".to_owned()));
    let right = signed("Y2hhbGxlbmdl").to_string();
    assert_refused(&door.passkey("", right.clone()).await, 502, "refused_by_whatsapp", None);
    assert_eq!(door.passkey("", right).await.0, 200, "another one can follow");
}

#[tokio::test]
async fn without_a_request_nothing_is_taken() {
    let door = Door::open().await;
    let right = signed("Y2hhbGxlbmdl").to_string();
    let over = PasskeyStep::Over { reason: "the connection ended".to_owned() };
    for state in [LinkState::Connected, LinkState::Unpaired, LinkState::PasskeyRequired { step: over }] {
        door.world.whatsapp.set_link(state.clone());
        assert_refused(&door.passkey("", right.clone()).await, 409, "passkey_not_asked", None);
        assert_refused(&door.passkey("/confirm", r#"{"code":"x"}"#).await, 409, "passkey_not_asked", None);
        assert_eq!(door.get("/api/session").await.1["state"], state.name());
    }
    let (_, session) = door.get("/api/session").await;
    assert_eq!(
        (&session["passkey"], &session["reason"]),
        (&Value::Null, &json!("the connection ended; start again with `waya login`"))
    );
}
