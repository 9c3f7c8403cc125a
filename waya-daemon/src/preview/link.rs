//! The first link of a text. Pure.
//!
//! A link starts with `http://`, `https://` or `www.`, where a word starts, and ends at white space; the punctuation of
//! the sentence around it is none of it.

use reqwest::Url;

use crate::net::Host;

/// Nobody writes longer ones into a message.
const LONGEST: usize = 2048;
const STARTS: [&str; 3] = ["http://", "https://", "www."];

/// A link as it stands in a text, and where it leads.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Link<'a> {
    pub(super) written: &'a str,
    pub(super) url: Url,
}

/// The first one that can be fetched.
pub(super) fn first(text: &str) -> Option<Link<'_>> {
    let mut before = None;
    text.char_indices().find_map(|(at, c)| {
        let starts_word = before.replace(c).is_none_or(|before| !continues(before));
        if starts_word { link(&text[at..]) } else { None }
    })
}

/// Whether what follows this character is still the same word: `xhttp://`, `me@www.example.com`.
fn continues(c: char) -> bool {
    c.is_alphanumeric() || matches!(c, '_' | '-' | '@' | '.' | '/' | ':' | '=')
}

fn link(rest: &str) -> Option<Link<'_>> {
    let start = STARTS.iter().find(|start| starts_with(rest, start))?;
    let ends = |c: char| c.is_whitespace() || c.is_control() || matches!(c, '<' | '>' | '"' | '`' | '|' | '\\' | '^');
    let end = rest.find(ends).unwrap_or(rest.len());
    let written = without_sentence(rest.get(..end).filter(|word| word.len() <= LONGEST)?);
    let url = if *start == "www." { format!("https://{written}") } else { written.to_owned() };
    let url = Url::parse(&url).ok().filter(is_somewhere)?;
    Some(Link { written, url })
}

fn starts_with(rest: &str, start: &str) -> bool {
    rest.get(..start.len()).is_some_and(|front| front.eq_ignore_ascii_case(start))
}

/// Takes off what belongs to the sentence: dots and commas, and brackets that were opened before the link.
fn without_sentence(mut written: &str) -> &str {
    while let Some(last) = written.chars().next_back() {
        let open = match last {
            ')' => '(',
            ']' => '[',
            '}' => '{',
            '.' | ',' | ';' | ':' | '!' | '?' | '\'' | '*' | '~' | '…' | '”' | '’' | '»' | '。' | '，' | '）' => {
                last
            }
            _ => break,
        };
        let count = |bracket: char| written.chars().filter(|c| *c == bracket).count();
        if open != last && count(open) >= count(last) {
            break;
        }
        written = &written[..written.len() - last.len_utf8()];
    }
    written
}

/// Not a name of the own network, and nobody's user and password: these are for the reader, not for us.
fn is_somewhere(url: &Url) -> bool {
    let known = match Host::of(url) {
        Some(Host::Name(name)) => name.rsplit_once('.').is_some_and(|(rest, last)| !rest.is_empty() && last.len() > 1),
        Some(Host::Address(_)) => true,
        None => false,
    };
    known && url.username().is_empty() && url.password().is_none()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn found(text: &str) -> Option<(&str, String)> {
        first(text).map(|link| (link.written, link.url.to_string()))
    }

    #[test]
    fn a_link_is_found_as_it_stands() {
        for (text, written, url) in [
            ("https://example.com", "https://example.com", "https://example.com/"),
            ("see HTTP://Example.com/A?b=c#d now", "HTTP://Example.com/A?b=c#d", "http://example.com/A?b=c#d"),
            ("(www.example.com/x)", "www.example.com/x", "https://www.example.com/x"),
            ("halo\nhttps://a.example, https://b.example", "https://a.example", "https://a.example/"),
            ("https://id.wikipedia.org/wiki/Java_(pulau).", "https://id.wikipedia.org/wiki/Java_(pulau)", ""),
            ("(lihat https://id.wikipedia.org/wiki/Java_(pulau))", "https://id.wikipedia.org/wiki/Java_(pulau)", ""),
            ("*https://example.com/x*!?", "https://example.com/x", ""),
            ("“https://example.com/x”", "https://example.com/x", ""),
            ("<https://example.com/x>", "https://example.com/x", ""),
            ("https://bücher.example/ä", "https://bücher.example/ä", "https://xn--bcher-kva.example/%C3%A4"),
            ("👉https://example.com/👈", "https://example.com/👈", ""),
            ("http://93.184.216.34:8080/x", "http://93.184.216.34:8080/x", ""),
            ("https:// https://h:99999 https://ok.example/", "https://ok.example/", ""),
        ] {
            let (found_written, found_url) = found(text).unwrap_or_else(|| panic!("{text}"));
            assert_eq!(found_written, written, "{text}");
            assert!(url.is_empty() || found_url == url, "{text}: {found_url}");
        }
    }

    #[test]
    fn what_is_no_link_is_none() {
        for text in [
            "",
            "halo",
            "example.com/x",
            "budi@www.example.com",
            "xhttp://example.com",
            "ftp://example.com",
            "https://",
            "http://localhost/x",
            "www.",
            "www.a",
            "https://budi:rahasia@example.com/",
            "https://budi@example.com/",
            "https://.com",
            "javascript:http://example.com",
        ] {
            assert_eq!(found(text), None, "{text}");
        }
        assert_eq!(found(&format!("https://example.com/{}", "a".repeat(LONGEST))), None);
    }

    proptest! {
        #[test]
        fn any_text_is_searched(text in "(\\PC|\\s|http://|https://|www\\.|[a-z.()]){0,40}") {
            if let Some(link) = first(&text) {
                prop_assert!(text.contains(link.written) && !link.written.is_empty());
                prop_assert!(link.url.has_host() && matches!(link.url.scheme(), "http" | "https"));
            }
        }
    }
}
