//! From bytes to text, as far as pages need it: UTF-8, and the one old encoding that pages use without saying so. Pure.

/// How far into a page browsers look for its encoding, in bytes.
const DECLARED_WITHIN: usize = 1024;
/// The names of Windows-1252, and of what browsers take for it.
const WESTERN: [&str; 6] = ["windows-1252", "cp1252", "iso-8859-1", "iso8859-1", "latin1", "us-ascii"];

/// The text of a page. What is UTF-8 is taken as such, whatever it is called; otherwise `content_type` and the page say
/// what it is. Bytes that mean nothing become U+FFFD.
pub(super) fn decode(page: &[u8], content_type: &str) -> String {
    let page = page.strip_prefix(b"\xef\xbb\xbf").unwrap_or(page);
    let Err(error) = std::str::from_utf8(page) else { return String::from_utf8_lossy(page).into_owned() };
    let front = String::from_utf8_lossy(&page[..page.len().min(DECLARED_WITHIN)]).into_owned();
    let name = declared(content_type).or_else(|| declared(&front));
    match name {
        Some(name) if WESTERN.contains(&name.as_str()) => page.iter().map(|byte| western(*byte)).collect(),
        // Cut off within a character.
        _ if error.error_len().is_none() => String::from_utf8_lossy(&page[..error.valid_up_to()]).into_owned(),
        Some(_) => String::from_utf8_lossy(page).into_owned(),
        None => page.iter().map(|byte| western(*byte)).collect(),
    }
}

/// What follows `charset=`, in small letters.
fn declared(text: &str) -> Option<String> {
    let text = text.to_ascii_lowercase();
    let (_, rest) = text.split_once("charset")?;
    let rest = rest.trim_start().strip_prefix('=')?.trim_start().trim_start_matches(['"', '\'']);
    let end = rest.find(|c: char| !c.is_ascii_alphanumeric() && !matches!(c, '-' | '_')).unwrap_or(rest.len());
    (end > 0).then(|| rest[..end].to_owned())
}

/// Windows-1252.
fn western(byte: u8) -> char {
    const UPPER: [char; 32] = [
        '€', '\u{81}', '‚', 'ƒ', '„', '…', '†', '‡', 'ˆ', '‰', 'Š', '‹', 'Œ', '\u{8d}', 'Ž', '\u{8f}', '\u{90}', '‘',
        '’', '“', '”', '•', '–', '—', '˜', '™', 'š', '›', 'œ', '\u{9d}', 'ž', 'Ÿ',
    ];
    match byte {
        0x80..=0x9f => UPPER[usize::from(byte - 0x80)],
        _ => char::from(byte),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn pages_are_read_in_what_they_are_written_in() {
        for (page, content_type, text) in [
            ("héllo".as_bytes(), "text/html; charset=iso-8859-1", "héllo"),
            (b"\xef\xbb\xbfhi", "text/html", "hi"),
            (b"caf\xe9 \x80", "text/html", "café €"),
            (b"caf\xe9", "text/html; Charset=\"ISO-8859-1\"", "café"),
            (b"<meta charset='windows-1252'>\x93x\x94", "text/html", "<meta charset='windows-1252'>“x”"),
            (b"\x83n\x83\x8d\x81[", "text/html; charset=Shift_JIS", "\u{fffd}n\u{fffd}\u{fffd}\u{fffd}["),
            (b"caf\xc3\xa9 \xe2\x82", "text/html", "café "),
        ] {
            assert_eq!(decode(page, content_type), text, "{page:?} {content_type}");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_some_text(page in proptest::collection::vec(any::<u8>(), 0..200), declared in "\\PC{0,30}") {
            let _ = decode(&page, &declared);
        }

        #[test]
        fn text_comes_back(text in "\\PC{0,100}") {
            prop_assert_eq!(decode(text.as_bytes(), ""), text.trim_start_matches('\u{feff}'));
        }
    }
}
