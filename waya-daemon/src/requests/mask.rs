//! What of a body may be kept: secrets become `***`, files a note of their size, and the rest is cut.
//!
//! Pure. A body is fed in the pieces in which it passes; nothing but the kept part, and the beginning of one text, is held.

/// So much of a body is kept, in bytes.
pub const MAX_BODY: usize = 16 << 10;
/// A text of nothing but base64 of this length is a file.
const FILE: usize = 2048;
/// The same under a name that says so.
const NAMED_FILE: usize = 128;
/// The longest name that is looked at; no secret's is longer.
const MAX_NAME: usize = 64;
/// What stands for a secret.
pub(super) const MASK: &str = "***";

/// Whether values of this name (of a field, a header, a form's part) are nobody's business.
pub fn is_secret(name: &str) -> bool {
    const NAMES: [&str; 17] = [
        "authorization",
        "proxyauthorization",
        "cookie",
        "setcookie",
        "passwd",
        "assertion",
        "clientdatajson",
        "authenticatordata",
        "signature",
        "userhandle",
        "rawid",
        "challenge",
        "qr",
        "pairingcode",
        "credentials",
        "privatekey",
        "pin",
    ];
    const ENDS: [&str; 4] = ["password", "token", "secret", "apikey"];
    let plain: String = name.chars().filter(char::is_ascii_alphanumeric).map(|c| c.to_ascii_lowercase()).collect();
    NAMES.contains(&plain.as_str()) || ENDS.iter().any(|end| plain.ends_with(end))
}

/// A JSON body on its way through. Broken JSON is kept as far as it can be told what is what.
#[derive(Debug, Default)]
pub struct JsonMask {
    kept: Vec<u8>,
    cut: bool,
    state: State,
    /// The name that the next value has.
    name: Option<Vec<u8>>,
    /// The text that ended last, which is a name if a colon follows.
    last: Option<Vec<u8>>,
}

#[derive(Debug, Default)]
enum State {
    /// Between texts.
    #[default]
    Open,
    /// In a text that may still turn out to be a file or a name; what is there of it.
    Text { held: Vec<u8>, escaped: bool, base64: bool },
    /// In a text that is kept.
    Plain { escaped: bool },
    /// In a file; its length so far.
    File { length: u64, escaped: bool },
    /// In a secret text.
    Secret { escaped: bool },
    /// In a secret number or word.
    SecretWord { word: Vec<u8> },
    /// In a secret object or array.
    SecretTree { depth: u32, text: bool, escaped: bool },
}

impl JsonMask {
    /// The next piece of the body.
    pub fn feed(&mut self, mut bytes: &[u8]) {
        while let (Some((&byte, rest)), false) = (bytes.split_first(), self.cut) {
            bytes = rest;
            if let State::File { length, escaped } = &mut self.state {
                // Files are long: straight to what ends them.
                if byte != b'"' && byte != b'\\' && !*escaped {
                    let run = rest.iter().position(|byte| matches!(byte, b'"' | b'\\')).unwrap_or(rest.len());
                    *length += 1 + run as u64;
                    bytes = &rest[run..];
                    continue;
                }
            }
            self.step(byte);
        }
    }

    fn step(&mut self, byte: u8) {
        self.state = match std::mem::take(&mut self.state) {
            State::Open => self.open(byte),
            State::Text { mut held, escaped, base64 } => {
                if byte == b'"' && !escaped {
                    self.text_ends(held, base64);
                    return;
                }
                held.push(byte);
                let base64 = base64 && is_base64(byte, held.len());
                let escaped = byte == b'\\' && !escaped;
                if held.len() < FILE {
                    State::Text { held, escaped, base64 }
                } else if base64 {
                    State::File { length: held.len() as u64, escaped }
                } else {
                    self.keep(b"\"");
                    self.keep(&held);
                    State::Plain { escaped }
                }
            }
            State::Plain { escaped } => {
                self.keep(&[byte]);
                if byte == b'"' && !escaped { State::Open } else { State::Plain { escaped: byte == b'\\' && !escaped } }
            }
            State::File { length, escaped } if byte == b'"' && !escaped => {
                self.keep(file_note(length).as_bytes());
                State::Open
            }
            State::File { length, escaped } => State::File { length: length + 1, escaped: byte == b'\\' && !escaped },
            State::Secret { escaped } if byte == b'"' && !escaped => {
                self.keep_mask();
                State::Open
            }
            State::Secret { escaped } => State::Secret { escaped: byte == b'\\' && !escaped },
            State::SecretWord { mut word } if !matches!(byte, b',' | b'}' | b']') && !byte.is_ascii_whitespace() => {
                word.push(byte);
                word.truncate(8);
                State::SecretWord { word }
            }
            State::SecretWord { word } => {
                // That there is no secret is none.
                if word == b"null" {
                    self.keep(b"null");
                } else {
                    self.keep_mask();
                }
                self.open(byte)
            }
            State::SecretTree { depth, text, escaped } => self.tree(byte, depth, text, escaped),
        };
    }

    fn open(&mut self, byte: u8) -> State {
        if byte.is_ascii_whitespace() {
            self.keep(&[byte]);
            return State::Open;
        }
        if byte == b':' {
            self.keep(b":");
            self.name = self.last.take();
            return State::Open;
        }
        self.last = None;
        let secret = self.name.as_deref().is_some_and(|name| is_secret(&String::from_utf8_lossy(name)));
        match byte {
            b'"' if secret => State::Secret { escaped: false },
            b'"' => State::Text { held: Vec::new(), escaped: false, base64: true },
            b'{' | b'[' if secret => State::SecretTree { depth: 1, text: false, escaped: false },
            b',' | b'{' | b'[' | b'}' | b']' => {
                self.keep(&[byte]);
                self.name = None;
                State::Open
            }
            _ if secret => State::SecretWord { word: vec![byte] },
            _ => {
                self.keep(&[byte]);
                State::Open
            }
        }
    }

    fn tree(&mut self, byte: u8, depth: u32, text: bool, escaped: bool) -> State {
        let (depth, text, escaped) = match byte {
            _ if text => (depth, byte != b'"' || escaped, byte == b'\\' && !escaped),
            b'"' => (depth, true, false),
            b'{' | b'[' => (depth.saturating_add(1), false, false),
            b'}' | b']' => (depth - 1, false, false),
            _ => (depth, false, false),
        };
        if depth == 0 {
            self.keep_mask();
            return State::Open;
        }
        State::SecretTree { depth, text, escaped }
    }

    fn text_ends(&mut self, held: Vec<u8>, base64: bool) {
        let named = self.name.as_deref().is_some_and(|name| name.eq_ignore_ascii_case(b"data"));
        if base64 && named && held.len() >= NAMED_FILE {
            self.keep(file_note(held.len() as u64).as_bytes());
        } else {
            self.keep(b"\"");
            self.keep(&held);
            self.keep(b"\"");
        }
        if self.name.take().is_none() && held.len() <= MAX_NAME {
            self.last = Some(unescaped(held));
        }
        self.state = State::Open;
    }

    fn keep_mask(&mut self) {
        self.name = None;
        self.keep(format!("\"{MASK}\"").as_bytes());
    }

    fn keep(&mut self, bytes: &[u8]) {
        let room = MAX_BODY - self.kept.len();
        self.kept.extend_from_slice(&bytes[..bytes.len().min(room)]);
        self.cut |= bytes.len() > room;
    }

    /// What is kept of it, and whether something is missing at its end.
    pub fn finish(mut self) -> (String, bool) {
        match std::mem::take(&mut self.state) {
            State::Open | State::Plain { .. } => {}
            State::Text { held, .. } => {
                self.keep(b"\"");
                self.keep(&held);
            }
            State::File { length, .. } => self.keep(file_note(length).as_bytes()),
            State::SecretWord { word } if word == b"null" => self.keep(b"null"),
            State::Secret { .. } | State::SecretWord { .. } | State::SecretTree { .. } => self.keep_mask(),
        }
        let text = String::from_utf8_lossy(&self.kept).into_owned();
        (text, self.cut)
    }
}

/// A base64 character, or one of what stands before it in a `data:` URL; `\` because some escape the slash.
fn is_base64(byte: u8, at: usize) -> bool {
    byte.is_ascii_alphanumeric()
        || matches!(byte, b'+' | b'/' | b'-' | b'_' | b'=' | b'\\')
        || (at <= 128 && matches!(byte, b':' | b';' | b',' | b'.'))
}

fn file_note(length: u64) -> String {
    format!("\"(base64, about {} bytes)\"", length / 4 * 3)
}

/// A name may be written with escapes.
fn unescaped(name: Vec<u8>) -> Vec<u8> {
    if !name.contains(&b'\\') {
        return name;
    }
    let quoted = format!("\"{}\"", String::from_utf8_lossy(&name));
    serde_json::from_str::<String>(&quoted).map_or(name, String::into_bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::{Value, json};

    fn mask(body: &str) -> String {
        let mut mask = JsonMask::default();
        mask.feed(body.as_bytes());
        mask.finish().0
    }

    #[test]
    fn secrets_are_masked_wherever_they_stand() {
        for (body, kept) in [
            (r#"{"password":"hunter2"}"#, r#"{"password":"***"}"#),
            (r#"{"a":1, "apiKey" : "k\"x" ,"b":2}"#, r#"{"a":1, "apiKey" : "***" ,"b":2}"#),
            (r#"{"API_KEY":12345,"b":true}"#, r#"{"API_KEY":"***","b":true}"#),
            (r#"{"access-token":null}"#, r#"{"access-token":null}"#),
            (r#"{"pass\u0077ord":"x"}"#, r#"{"pass\u0077ord":"***"}"#),
            (r#"{"secret":{"a":["}",{"b":"\"}"}]},"c":1}"#, r#"{"secret":"***","c":1}"#),
            (r#"{"x":[{"token":["a","b"]}],"y":"z"}"#, r#"{"x":[{"token":"***"}],"y":"z"}"#),
            (r#"{"password":"#, r#"{"password":"#),
            (r#"{"password":"hun"#, r#"{"password":"***""#),
            (r#"{"password":["hun"#, r#"{"password":"***""#),
            (r#"{"number":"628","message" "Halo"}"#, r#"{"number":"628","message" "Halo"}"#),
            (r#"["password","x"]"#, r#"["password","x"]"#),
        ] {
            assert_eq!(mask(body), kept);
        }
    }

    #[test]
    fn files_become_a_note() {
        let file = "QUJD".repeat(100_000);
        let note = "(base64, about 300000 bytes)";
        let body = json!({ "number": "628", "media": { "mimetype": "image/png", "data": file }, "message": "Halo" });
        let kept: Value = serde_json::from_str(&mask(&body.to_string())).unwrap();
        assert_eq!((&kept["media"]["data"], &kept["message"]), (&json!(note), &json!("Halo")));
        let url = json!({ "x": format!("data:image/png;base64,{file}") }).to_string().replace('/', "\\/");
        assert!(mask(&url).starts_with("{\"x\":\"(base64, about "));
        let short = json!({ "data": "QUJD".repeat(40), "other": "QUJD".repeat(40) });
        let kept: Value = serde_json::from_str(&mask(&short.to_string())).unwrap();
        assert_eq!((&kept["data"], &kept["other"]), (&json!("(base64, about 120 bytes)"), &short["other"]));
    }

    #[test]
    fn long_texts_are_kept_up_to_the_limit() {
        let body = json!({ "message": "kata ".repeat(10_000) }).to_string();
        let mut mask = JsonMask::default();
        mask.feed(body.as_bytes());
        assert_eq!(mask.finish(), (body[..MAX_BODY].to_owned(), true));
    }

    fn tree() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            "[^S]{0,12}".prop_map(Value::from)
        ];
        let names = prop_oneof![Just("message"), Just("data"), Just("a\"b"), Just("é\\")].prop_map(str::to_owned);
        leaf.prop_recursive(4, 40, 5, move |value| {
            prop_oneof![
                proptest::collection::vec(value.clone(), 0..5).prop_map(Value::from),
                proptest::collection::btree_map(names.clone(), value, 0..4)
                    .prop_map(|fields| Value::Object(fields.into_iter().collect())),
            ]
        })
    }

    /// Puts secrets into every object.
    fn hide(value: &mut Value, secret: &Value) {
        match value {
            Value::Object(fields) => {
                fields.values_mut().for_each(|value| hide(value, secret));
                fields.insert("Token".to_owned(), secret.clone());
            }
            Value::Array(items) => items.iter_mut().for_each(|value| hide(value, secret)),
            _ => {}
        }
    }

    proptest! {
        #[test]
        fn what_is_no_secret_is_kept_as_it_is(body in tree()) {
            let body = body.to_string();
            if body.len() <= MAX_BODY {
                prop_assert_eq!(mask(&body), body);
            }
        }

        #[test]
        fn no_secret_stays_and_pieces_do_not_count(
            mut body in tree(),
            secret in tree(),
            cuts in proptest::collection::vec(1usize..40, 0..60),
        ) {
            let secret = json!([secret, "SSSS", {"x": "SSSS"}]);
            hide(&mut body, &secret);
            let text = body.to_string();
            let whole = mask(&text);
            prop_assert!(!whole.contains("SSSS"), "{}", whole);
            let (mut pieces, mut rest) = (JsonMask::default(), text.as_bytes());
            for cut in cuts {
                let (piece, after) = rest.split_at(cut.min(rest.len()));
                pieces.feed(piece);
                rest = after;
            }
            pieces.feed(rest);
            prop_assert_eq!(pieces.finish().0, whole);
        }

        #[test]
        fn anything_at_all_is_bounded(bytes in proptest::collection::vec(any::<u8>(), 0..2000), times in 1usize..40) {
            let mut mask = JsonMask::default();
            for _ in 0..times {
                mask.feed(&bytes);
            }
            prop_assert!(mask.kept.len() <= MAX_BODY);
            mask.finish();
        }
    }
}
