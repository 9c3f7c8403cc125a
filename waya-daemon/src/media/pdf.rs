//! How many pages a PDF has, as far as that stands in it in clear.

use std::fs::File;
use std::io::Read as _;
use std::path::Path;

/// Larger ones are not looked through.
const LARGEST: u64 = 32 << 20;

/// The pages of a file; none for what is no PDF, and for one that keeps its page tree compressed. Blocks.
pub(super) fn pages_of(path: &Path) -> Option<u32> {
    let mut file = File::open(path).ok()?;
    let mut mark = [0; 5];
    file.read_exact(&mut mark).ok()?;
    if &mark != b"%PDF-" || file.metadata().ok()?.len() > LARGEST {
        return None;
    }
    let mut content = Vec::new();
    file.read_to_end(&mut content).ok()?;
    count(&content)
}

/// The largest `/Count` of a node of the page tree (ISO 32000-1, 7.7.3): the root's.
fn count(content: &[u8]) -> Option<u32> {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let mut most = None;
    let mut rest = content;
    while let Some(at) = rest.windows(6).position(|window| window == b"/Pages") {
        // The dictionary around it, which other keys of it may stand before or behind.
        let begin = content.len() - rest.len() + at;
        let from = content[..begin].windows(2).rposition(|window| window == b"<<").unwrap_or(begin);
        let to =
            content[begin..].windows(2).position(|window| window == b">>").map_or(content.len(), |end| begin + end);
        let dictionary = text(&content[from..to]);
        if let Some((_, count)) = dictionary.split_once("/Count") {
            let digits: String = count.trim_start().chars().take_while(char::is_ascii_digit).collect();
            most = most.max(digits.parse().ok());
        }
        rest = &rest[at + 6..];
    }
    most.filter(|pages| (1..=100_000).contains(pages))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_root_of_the_pages_counts_them_all() {
        let root =
            b"%PDF-1.4 1 0 obj<</Type/Catalog/Pages 2 0 R>>endobj 2 0 obj<</Count 12/Type/Pages/Kids[3 0 R]>>endobj \
            3 0 obj << /Type /Pages /Parent 2 0 R /Count 7 >> endobj";
        assert_eq!(count(root), Some(12));
        assert_eq!(count(b"%PDF-1.5 compressed"), None);
        assert_eq!(count(b"<</Type/Pages/Count -3>>"), None);
    }

    proptest! {
        #[test]
        fn no_content_is_a_fault_of_ours(content in proptest::collection::vec(any::<u8>(), 0..400)) {
            let _ = count(&content);
            let _ = count(&[b"<</Pages/Count".as_slice(), &content].concat());
        }
    }
}
