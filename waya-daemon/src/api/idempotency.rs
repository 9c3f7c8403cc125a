//! What makes two requests the same one.

use std::time::Duration;

use serde_json::Value;
use sha2::{Digest as _, Sha256};

use crate::model::Source;

/// How long a key is remembered.
pub const KEEP: Duration = Duration::from_hours(24);
/// The longest key, in characters.
pub const MAX_KEY_CHARS: usize = 255;

/// The caller's key, within the door it came through and the API key it came with ([`super::ApiKey::identity`]): another
/// API key cannot read an answer by guessing keys.
pub(super) fn key_hash(source: Source, api_key: Option<&[u8; 32]>, key: &str) -> [u8; 32] {
    let door: &[u8] = match (source, api_key) {
        (Source::Api, None) => b"api\0",
        (Source::Api, Some(_)) => b"key\0",
        (Source::Cli, _) => b"cli\0",
    };
    let api_key = api_key.filter(|_| source == Source::Api).map_or(&[][..], |identity| identity);
    Sha256::new().chain_update(door).chain_update(api_key).chain_update(key).finalize().into()
}

/// Hash of a JSON body: the order of keys, white space and how characters are escaped do not count, and neither does
/// the key itself when it stands in the body.
#[must_use]
pub fn body_hash(body: &Value) -> [u8; 32] {
    let mut hasher = Sha256::new();
    match body {
        Value::Object(fields) => {
            let mut fields: Vec<_> = fields.iter().filter(|(name, _)| *name != "idempotency_key").collect();
            fields.sort_unstable_by_key(|(name, _)| *name);
            object(&mut hasher, &fields);
        }
        other => feed(&mut hasher, other),
    }
    hasher.finalize().into()
}

/// Every value begins with a tag and, where its end is not plain, its length: two values never feed the same bytes.
fn feed(hasher: &mut Sha256, value: &Value) {
    match value {
        Value::Null => hasher.update(b"n"),
        Value::Bool(flag) => hasher.update(if *flag { b"t" } else { b"f" }),
        Value::Number(number) => {
            let text = match number.as_f64() {
                // 1.0 and 1 are one number in JSON.
                Some(float) if number.is_f64() && float.fract() == 0.0 && float.abs() < 9e15 => {
                    format!("{}", float as i64)
                }
                _ => number.to_string(),
            };
            tagged(hasher, b'd', text.as_bytes());
        }
        Value::String(text) => tagged(hasher, b's', text.as_bytes()),
        Value::Array(items) => {
            tagged(hasher, b'a', &items.len().to_le_bytes());
            for item in items {
                feed(hasher, item);
            }
        }
        Value::Object(fields) => {
            let mut fields: Vec<_> = fields.iter().collect();
            fields.sort_unstable_by_key(|(name, _)| *name);
            object(hasher, &fields);
        }
    }
}

fn object(hasher: &mut Sha256, fields: &[(&String, &Value)]) {
    tagged(hasher, b'o', &fields.len().to_le_bytes());
    for (name, value) in fields {
        tagged(hasher, b's', name.as_bytes());
        feed(hasher, value);
    }
}

fn tagged(hasher: &mut Sha256, tag: u8, bytes: &[u8]) {
    hasher.update([tag]);
    hasher.update((bytes.len() as u64).to_le_bytes());
    hasher.update(bytes);
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::{body_hash, key_hash};
    use crate::model::Source;

    fn hash(json: &str) -> [u8; 32] {
        body_hash(&serde_json::from_str(json).unwrap())
    }

    #[test]
    fn the_writing_does_not_count() {
        let one = hash(r#"{"number":"628111111111","message":"a\u0062","x":{"p":1,"q":[null,true]}}"#);
        let other = hash(
            r#"{ "idempotency_key": "k", "message" : "ab", "x":{"q":[null,true],"p":1.0}, "number":"628111111111"}"#,
        );
        assert_eq!(one, other);
    }

    #[test]
    fn the_content_does() {
        let all = [
            r#"{"a":"1"}"#,
            r#"{"a":1}"#,
            r#"{"a":["1"]}"#,
            r#"{"a":["1",null]}"#,
            r#"{"a":[["1"],null]}"#,
            r#"{"a":["1","b"]}"#,
            r#"{"a":["1b"]}"#,
            r#"{"a":"1","b":null}"#,
            r#"{"a":{"idempotency_key":1}}"#,
            r#"{"a":{}}"#,
            r#"{"a":[]}"#,
        ];
        let hashes: std::collections::HashSet<_> = all.iter().map(|json| hash(json)).collect();
        assert_eq!(hashes.len(), all.len());
    }

    #[test]
    fn a_key_counts_within_its_door_and_its_api_key_only() {
        let (one, other) = ([1; 32], [2; 32]);
        let all = [
            key_hash(Source::Api, None, "k"),
            key_hash(Source::Cli, None, "k"),
            key_hash(Source::Api, Some(&one), "k"),
            key_hash(Source::Api, Some(&other), "k"),
        ];
        assert_eq!(std::collections::HashSet::from(all).len(), all.len());
        assert_eq!(key_hash(Source::Api, Some(&one), "k"), all[2]);
    }
}
