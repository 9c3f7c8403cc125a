//! What a page's head says of the page: Open Graph first, then what is older. Pure.

use html5gum::emitters::default::DefaultEmitter;
use html5gum::{StartTag, Token, Tokenizer};

/// Phones cut earlier; in characters.
const LONGEST_TITLE: usize = 300;
/// The same.
const LONGEST_DESCRIPTION: usize = 500;

/// What was found, tidied; none of it is empty.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Head {
    pub(super) title: Option<String>,
    pub(super) description: Option<String>,
    /// An address, often relative to the page's.
    pub(super) image: Option<String>,
}

/// The names under which pages say something, the better ones first.
const TITLES: [&str; 2] = ["og:title", "twitter:title"];
const DESCRIPTIONS: [&str; 3] = ["og:description", "twitter:description", "description"];
const IMAGES: [&str; 5] = ["og:image:secure_url", "og:image", "og:image:url", "twitter:image", "twitter:image:src"];

/// Reads up to the end of the head.
pub(super) fn read(html: &str) -> Head {
    let mut emitter = DefaultEmitter::default();
    // What stands in scripts and styles is no markup.
    emitter.naively_switch_states(true);
    let mut said = Said::default();
    let mut in_title = false;
    for Ok(token) in Tokenizer::new_with_emitter(html, emitter) {
        match token {
            Token::StartTag(tag) => match tag.name.as_slice() {
                b"body" => break,
                b"meta" => said.meta(&tag),
                name => in_title = name == b"title",
            },
            Token::String(text) if in_title => {
                said.title.get_or_insert_with(|| String::from_utf8_lossy(&text).into_owned());
            }
            Token::EndTag(tag) => match tag.name.as_slice() {
                b"head" => break,
                _ => in_title = false,
            },
            _ => {}
        }
    }
    said.best()
}

/// The first thing said under each name, as it was said.
#[derive(Default)]
struct Said {
    title: Option<String>,
    titles: [Option<String>; 2],
    descriptions: [Option<String>; 3],
    images: [Option<String>; 5],
}

impl Said {
    fn meta(&mut self, tag: &StartTag<()>) {
        let text = |name: &[u8]| {
            tag.attributes.get(name).map(|value| String::from_utf8_lossy(value.as_slice()).trim().to_owned())
        };
        let Some(content) = text(b"content").filter(|content| !content.is_empty()) else { return };
        for name in [text(b"property"), text(b"name"), text(b"itemprop")].into_iter().flatten() {
            let name = name.to_ascii_lowercase();
            let places = [
                (&TITLES[..], &mut self.titles[..]),
                (&DESCRIPTIONS, &mut self.descriptions),
                (&IMAGES, &mut self.images),
            ];
            for (names, places) in places {
                if let Some(at) = names.iter().position(|known| *known == name) {
                    places[at].get_or_insert_with(|| content.clone());
                }
            }
        }
    }

    fn best(self) -> Head {
        let mut title = self.titles.into_iter().chain([self.title]).flatten();
        let mut description = self.descriptions.into_iter().flatten();
        Head {
            title: title.find_map(|text| tidied(&text, LONGEST_TITLE)),
            description: description.find_map(|text| tidied(&text, LONGEST_DESCRIPTION)),
            image: self.images.into_iter().flatten().next(),
        }
    }
}

/// One line of at most so many characters; nothing when nothing is left, or when it was not understood.
fn tidied(text: &str, most: usize) -> Option<String> {
    if text.contains(char::REPLACEMENT_CHARACTER) {
        return None;
    }
    let shown = |c: &char| c.is_whitespace() || !(c.is_control() || is_invisible(*c));
    let text: String = text.chars().filter(shown).collect();
    let text = text.split_whitespace().collect::<Vec<_>>().join(" ");
    match text.char_indices().nth(most) {
        _ if text.is_empty() => None,
        None => Some(text),
        Some(_) => {
            let kept: String = text.chars().take(most - 1).collect();
            Some(format!("{}…", kept.trim_end()))
        }
    }
}

/// What could make a line read differently from how it is written.
fn is_invisible(c: char) -> bool {
    matches!(c, '\u{ad}' | '\u{200b}' | '\u{200e}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2060}'..='\u{2069}' | '\u{feff}')
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn head(title: &str, description: &str, image: &str) -> Head {
        let some = |text: &str| (!text.is_empty()).then(|| text.to_owned());
        Head { title: some(title), description: some(description), image: some(image) }
    }

    #[test]
    fn open_graph_comes_first_and_entities_are_what_they_stand_for() {
        let html = r#"<!doctype html><html><HEAD>
            <title>Plain &amp; old</title><meta name="description" content="older">
            <META PROPERTY='og:title' CONTENT='Tom &amp; Jerry&#39;s &quot;caf&eacute;&quot; &#x1F600;'>
            <meta property=og:description content="  one
               two&nbsp;three "><meta property="og:description" content="second">
            <meta property="og:image" content="/a.jpg?x=1&amp;y=2">
            </head><body><meta property="og:image" content="/late.jpg">"#;
        assert_eq!(read(html), head("Tom & Jerry's \"café\" 😀", "one two three", "/a.jpg?x=1&y=2"));
    }

    #[test]
    fn older_ways_do_when_there_is_nothing_else() {
        let html = "<title>\n Toko\tBudi \n</title><meta name=Description content='Beras'>";
        assert_eq!(read(html), head("Toko Budi", "Beras", ""));
        let html = "<meta name='twitter:title' content='T'><meta name=twitter:image content=i.png><title>x</title>";
        assert_eq!(read(html), head("T", "", "i.png"));
        let html = "<meta property='og:title' content=' '><meta property='og:title'><title>x</title><title>y</title>";
        assert_eq!(read(html), head("x", "", ""));
        let html =
            "<meta property='og:image' content='http://a/'><meta property='og:image:secure_url' content='https://a/'>";
        assert_eq!(read(html), head("", "", "https://a/"));
    }

    #[test]
    fn what_is_not_markup_says_nothing() {
        for html in [
            "",
            "hello",
            "<!-- <title>x</title> -->",
            "<script>document.write('<title>x</title>')</script>",
            "<style><title>x</title></style>",
            "<title></title>",
            "<body><title>x</title>",
            "</head><title>x</title>",
            "<title>\u{fffd}\u{fffd}</title>",
            "<title>\u{202e}\u{200b}</title>",
            "<meta property=og:title content=",
            "<meta content=x>",
        ] {
            assert_eq!(read(html), Head::default(), "{html}");
        }
    }

    #[test]
    fn long_texts_are_cut() {
        let html = format!("<title>{}</title><meta name=description content='{}'>", "ä".repeat(301), "b ".repeat(600));
        let head = read(&html);
        let title = head.title.unwrap();
        assert!(title.chars().count() == 300 && title.ends_with("ä…"), "{title}");
        assert!(head.description.unwrap().ends_with("b…"));
        assert_eq!(tidied(&"ä".repeat(300), 300).unwrap().chars().count(), 300);
    }

    #[test]
    fn words_are_not_turned_around() {
        assert_eq!(read("<title>a\u{202e}b\u{1}c\u{feff}</title>").title.unwrap(), "abc");
    }

    proptest! {
        #[test]
        fn any_page_is_read(html in "(\\PC|\\s|<meta |<title>|</title>|property=|content=|og:title|&#x|&|;|\"|'|>|<!--|<script>){0,30}") {
            let head = read(&html);
            prop_assert!(head.title.is_none_or(|title| !title.trim().is_empty() && title.chars().count() <= LONGEST_TITLE));
        }

        #[test]
        fn any_character_may_be_named_by_number(code: u32) {
            let _ = read(&format!("<title>a&#{code};&#x{code:x};b</title>"));
        }

        #[test]
        fn a_title_is_what_was_written(text in "[a-zA-Z0-9äé€]{1,20}( [a-zA-Z0-9äé€]{1,20}){0,5}") {
            let html = format!("<html><head><title>{text}</title></head>");
            prop_assert_eq!(read(&html).title, Some(text));
        }
    }
}
