//! One body, request's or answer's, as it passes.

use axum::http::{HeaderMap, header};

use super::mask::{JsonMask, MASK, MAX_BODY, is_secret};

/// A body up to this size is kept as it came until somebody wants to know what is kept of it, in bytes.
const LATER: usize = 4 << 10;

/// What is seen of a body.
#[derive(Debug)]
pub struct Seen {
    size: u64,
    kind: Kind,
}

#[derive(Debug)]
enum Kind {
    /// Small, and so far as it came: to mask it takes longer than to accept what it asks for.
    SmallJson(Vec<u8>),
    Json(JsonMask),
    /// A form with files; its beginning, and what divides its parts.
    Form {
        start: Vec<u8>,
        boundary: String,
    },
    /// Anything else is not kept.
    Other(String),
}

/// What is kept of a body.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Kept {
    /// Its whole size, in bytes.
    pub size: u64,
    /// What is shown of it; none when it was empty.
    pub text: Option<String>,
}

impl Seen {
    /// By what the headers say of it; nothing said is JSON.
    #[must_use]
    pub fn new(headers: &HeaderMap) -> Self {
        let given = headers
            .get(header::CONTENT_TYPE)
            .map_or(String::new(), |given| String::from_utf8_lossy(given.as_bytes()).chars().take(200).collect());
        let (kind, parameters) = given.split_once(';').unwrap_or((&given, ""));
        let kind = kind.trim().to_ascii_lowercase();
        let kind = if kind.is_empty() || kind == "application/json" || kind.ends_with("+json") {
            Kind::SmallJson(Vec::new())
        } else if kind == "multipart/form-data" {
            Kind::Form { start: Vec::new(), boundary: boundary(parameters) }
        } else {
            Kind::Other(kind)
        };
        Self { size: 0, kind }
    }

    /// The next piece.
    pub fn feed(&mut self, bytes: &[u8]) {
        self.size += bytes.len() as u64;
        match &mut self.kind {
            Kind::SmallJson(start) if start.len() + bytes.len() <= LATER => start.extend_from_slice(bytes),
            Kind::SmallJson(start) => {
                let mut mask = JsonMask::default();
                mask.feed(start);
                mask.feed(bytes);
                self.kind = Kind::Json(mask);
            }
            Kind::Json(mask) => mask.feed(bytes),
            Kind::Form { start, .. } => start.extend_from_slice(&bytes[..bytes.len().min(MAX_BODY - start.len())]),
            Kind::Other(_) => {}
        }
    }

    /// What is kept of it.
    #[must_use]
    pub fn finish(self) -> Kept {
        let Self { size, kind } = self;
        if size == 0 {
            return Kept { size, text: None };
        }
        let text = match kind {
            Kind::SmallJson(bytes) => {
                let mut mask = JsonMask::default();
                mask.feed(&bytes);
                masked(mask, size)
            }
            Kind::Json(mask) => masked(mask, size),
            Kind::Form { start, boundary } => form(&String::from_utf8_lossy(&start), &boundary, size),
            Kind::Other(kind) => format!("({size} bytes of {kind})"),
        };
        Kept { size, text: Some(text) }
    }
}

fn masked(mask: JsonMask, size: u64) -> String {
    match mask.finish() {
        (text, true) => format!("{text}… (cut; {size} bytes in all)"),
        (text, false) => text,
    }
}

fn boundary(parameters: &str) -> String {
    let value = parameters.split(';').find_map(|one| {
        let (name, value) = one.split_once('=')?;
        name.trim().eq_ignore_ascii_case("boundary").then(|| value.trim().trim_matches('"').to_owned())
    });
    value.unwrap_or_default()
}

/// The parts of a form, one a line: values as they are, files by their names.
fn form(start: &str, boundary: &str, size: u64) -> String {
    let mut lines = Vec::new();
    if !boundary.is_empty() {
        for part in start.split(&format!("--{boundary}")).skip(1) {
            let Some((head, value)) = part.split_once("\r\n\r\n") else { continue };
            let (name, file) = (parameter(head, "name"), parameter(head, "filename"));
            let name = name.unwrap_or_default();
            let value = value.strip_suffix("\r\n").unwrap_or(value);
            lines.push(match file {
                Some(file) => format!("{name}: (file {file:?})"),
                None if is_secret(name) => format!("{name}: {MASK}"),
                None => {
                    let mut mask = JsonMask::default();
                    mask.feed(value.as_bytes());
                    format!("{name}: {}", mask.finish().0)
                }
            });
        }
    }
    lines.push(format!("({size} bytes of multipart/form-data)"));
    lines.join("\n")
}

/// `name="value"` among a part's headers.
fn parameter<'a>(head: &'a str, name: &str) -> Option<&'a str> {
    let lower = head.to_ascii_lowercase();
    let sought = format!(" {name}=\"");
    let from = lower.find(&sought)? + sought.len();
    head.get(from..)?.split('"').next()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(kind: &str, body: &str) -> Option<String> {
        let mut headers = HeaderMap::new();
        if !kind.is_empty() {
            headers.insert(header::CONTENT_TYPE, kind.parse().unwrap());
        }
        let mut seen = Seen::new(&headers);
        body.as_bytes().chunks(7).for_each(|piece| seen.feed(piece));
        seen.finish().text
    }

    #[test]
    fn only_what_can_be_masked_is_kept() {
        assert_eq!(seen("", ""), None);
        for json in ["", "application/json; charset=utf-8", "application/vnd.api+json"] {
            assert_eq!(seen(json, r#"{"a":"b","secret":"x"}"#).unwrap(), r#"{"a":"b","secret":"***"}"#);
        }
        assert_eq!(seen("text/plain", "password=x").unwrap(), "(10 bytes of text/plain)");
    }

    #[test]
    fn a_large_body_is_masked_like_a_small_one() {
        let text = "x".repeat(LATER);
        let json = seen("", &format!(r#"{{"secret":"x","message":"{text}","token":"y"}}"#)).unwrap();
        assert!(json.starts_with(r#"{"secret":"***","#) && json.ends_with(r#","token":"***"}"#), "{json}");
    }

    #[test]
    fn a_form_is_shown_without_its_files() {
        let body = "--B\r\ncontent-disposition: form-data; name=\"number\"\r\n\r\n628\r\n\
                    --B\r\nContent-Disposition: form-data; name=\"token\"\r\n\r\nx\r\n\
                    --B\r\nContent-Disposition: form-data; name=\"file\"; filename=\"a.pdf\"\r\n\r\n%PDF\r\n--B--\r\n";
        let text = seen("multipart/form-data; boundary=\"B\"", body).unwrap();
        let size = body.len();
        assert_eq!(
            text,
            format!("number: 628\ntoken: ***\nfile: (file \"a.pdf\")\n({size} bytes of multipart/form-data)")
        );
    }
}
