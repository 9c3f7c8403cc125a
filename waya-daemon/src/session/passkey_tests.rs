//! Answers that are right, and every way in which one can be wrong.
#![allow(clippy::unwrap_used)]

use proptest::prelude::*;
use serde_json::json;

use super::*;

fn encode(bytes: impl AsRef<[u8]>) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

fn request() -> Value {
    json!({
        "challenge": encode("the challenge"),
        "rpId": "web.whatsapp.com",
        "timeout": 60_000,
        "allowCredentials": [{"type": "public-key", "id": encode("other")}, {"type": "public-key", "id": encode("mine")}],
    })
}

fn client_data(kind: &str, challenge: &str) -> String {
    encode(json!({"type": kind, "challenge": encode(challenge), "origin": "https://web.whatsapp.com"}).to_string())
}

fn authenticator_data(site: &str) -> Vec<u8> {
    [&Sha256::digest(site)[..], &[5, 0, 0, 0, 1]].concat()
}

fn answer() -> Value {
    json!({
        "id": encode("mine"),
        "rawId": encode("mine"),
        "type": "public-key",
        "authenticatorAttachment": "cross-platform",
        "clientExtensionResults": {},
        "response": {
            "clientDataJSON": client_data("webauthn.get", "the challenge"),
            "authenticatorData": encode(authenticator_data("web.whatsapp.com")),
            "signature": encode("signed"),
            "userHandle": encode("me"),
        },
    })
}

fn read(answer: &Value) -> Result<PasskeyAnswer, BadAnswer> {
    PasskeyAnswer::read(&answer.to_string(), &request().to_string())
}

/// The answer with one place changed (`None`: removed).
fn with(pointer: &str, value: Option<Value>) -> Value {
    let mut answer = answer();
    let (parent, name) = pointer.rsplit_once('/').unwrap();
    let parent = answer.pointer_mut(parent).unwrap().as_object_mut().unwrap();
    match value {
        Some(value) => drop(parent.insert(name.to_owned(), value)),
        None => drop(parent.remove(name)),
    }
    answer
}

#[test]
fn an_answer_is_taken_over_byte_for_byte() {
    let read_back = read(&answer()).unwrap();
    assert_eq!(read_back.credential_id, b"mine");
    assert_eq!(encode(&read_back.client_data), client_data("webauthn.get", "the challenge"));
    assert_eq!(read_back.authenticator_data, authenticator_data("web.whatsapp.com"));
    assert_eq!((read_back.signature.as_slice(), read_back.user_handle.as_deref()), (&b"signed"[..], Some(&b"me"[..])));
    assert!(!format!("{read_back:?}").contains("signed"));
}

#[test]
fn padding_no_owner_and_a_request_without_a_list_are_fine() {
    let padded = with("/response/signature", Some(json!("c2lnbg==")));
    assert_eq!(read(&padded).unwrap().signature, b"sign");
    for owner in [None, Some(Value::Null)] {
        assert_eq!(read(&with("/response/userHandle", owner)).unwrap().user_handle, None);
    }
    let anybody = json!({"challenge": encode("the challenge"), "allowCredentials": []});
    assert!(PasskeyAnswer::read(&format!("\u{feff}{}", answer()), &anybody.to_string()).is_ok());
}

#[test]
fn what_is_wrong_is_named() {
    let text = |text: &str| Some(json!(text));
    let site = authenticator_data("evil.example");
    for (pointer, value, field, words) in [
        ("/type", None, "type", "public-key"),
        ("/type", text("password"), "type", "public-key"),
        ("/rawId", None, "rawId", "missing"),
        ("/rawId", Some(json!([1, 2])), "rawId", "base64url"),
        ("/rawId", text(""), "rawId", "empty"),
        ("/id", None, "id", "missing"),
        ("/id", text(&encode("other")), "id", "same as rawId"),
        ("/response", None, "response", "object"),
        ("/response", text("x"), "response", "object"),
        ("/response/clientDataJSON", None, "response.clientDataJSON", "missing"),
        ("/response/clientDataJSON", text("a+b/"), "response.clientDataJSON", "base64url"),
        ("/response/clientDataJSON", text(&encode("{")), "response.clientDataJSON", "no JSON"),
        (
            "/response/clientDataJSON",
            text(&client_data("webauthn.create", "the challenge")),
            "response.clientDataJSON",
            "webauthn.get",
        ),
        (
            "/response/clientDataJSON",
            text(&client_data("webauthn.get", "of yesterday")),
            "response.clientDataJSON",
            "challenge",
        ),
        ("/response/authenticatorData", Some(Value::Null), "response.authenticatorData", "missing"),
        ("/response/authenticatorData", text(&encode("short")), "response.authenticatorData", "37 bytes"),
        ("/response/authenticatorData", text(&encode(&site)), "response.authenticatorData", "web.whatsapp.com"),
        ("/response/signature", None, "response.signature", "missing"),
        ("/response/signature", Some(json!(7)), "response.signature", "base64url"),
        ("/response/userHandle", text("%"), "response.userHandle", "base64url"),
    ] {
        match read(&with(pointer, value.clone())) {
            Err(BadAnswer::Field { field: named, problem }) => {
                assert_eq!(named, field, "{pointer} {value:?}");
                assert!(problem.contains(words), "{pointer} {value:?}: {problem}");
            }
            other => panic!("{pointer} {value:?}: {other:?}"),
        }
    }
}

#[test]
fn a_passkey_that_was_not_asked_for_is_refused() {
    let mut stranger = with("/id", Some(json!(encode("stranger"))));
    stranger["rawId"] = json!(encode("stranger"));
    assert!(read(&stranger).is_err_and(|error| error.to_string().starts_with("rawId: is none of the passkeys")));
}

#[test]
fn what_is_no_object_and_what_is_too_large_is_refused() {
    for text in ["", "{", "[]", "null", "\"x\"", "{\"id\":}"] {
        let refused = PasskeyAnswer::read(text, &request().to_string());
        assert!(matches!(refused, Err(BadAnswer::NotJson(_))), "{text:?}: {refused:?}");
    }
    let large = format!("{{\"x\":\"{}\"}}", "x".repeat(MAX_ANSWER));
    assert_eq!(PasskeyAnswer::read(&large, &request().to_string()), Err(BadAnswer::TooLarge(large.len())));
}

proptest! {
    #[test]
    fn nothing_that_comes_from_outside_is_a_fault(text in ".{0,200}", request in ".{0,60}") {
        prop_assert!(PasskeyAnswer::read(&text, &request).is_err());
    }

    /// A request that cannot be read is one that nothing answers.
    #[test]
    fn no_answer_fits_a_request_that_cannot_be_read(request in "[^{]{0,60}") {
        prop_assert!(PasskeyAnswer::read(&answer().to_string(), &request).is_err());
    }
}
