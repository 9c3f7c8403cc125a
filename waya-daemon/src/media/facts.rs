//! What can be read off a file: its size in pixels, its length, its pages. What cannot be read is left out.

use std::fs::File;
use std::io::{Read as _, Seek as _, SeekFrom};
use std::path::Path;

use super::{pdf, picture};
use crate::model::MediaKind;

/// An Ogg page is at most so long (RFC 3533, section 6).
const OGG_PAGE: u64 = 65_307;
/// Opus counts in these, whatever it was recorded with (RFC 7845, section 4).
const OPUS_RATE: u64 = 48_000;

/// What is known of a file.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Facts {
    pub(super) width: Option<u32>,
    pub(super) height: Option<u32>,
    pub(super) seconds: Option<u32>,
    pub(super) pages: Option<u32>,
}

/// Looks at a file. Blocks.
pub(super) fn of(path: &Path, kind: MediaKind) -> Facts {
    let mut facts = Facts::default();
    match kind {
        MediaKind::Image | MediaKind::Sticker => (facts.width, facts.height) = picture::size_of(path).unzip(),
        MediaKind::Voice | MediaKind::Audio => facts.seconds = opus_seconds(path),
        MediaKind::Document => facts.pages = pdf::pages_of(path),
        MediaKind::Video | MediaKind::Gif => {}
    }
    facts
}

/// How long an Opus file plays: the position that its last page tells, without what is skipped at the start.
fn opus_seconds(path: &Path) -> Option<u32> {
    let mut file = File::open(path).ok()?;
    let mut head = [0; 128];
    let count = file.read(&mut head).ok()?;
    let at = find(&head[..count], b"OpusHead")?;
    let skip = u64::from(u16::from_le_bytes(head.get(at + 10..at + 12)?.try_into().ok()?));
    let length = file.metadata().ok()?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(OGG_PAGE))).ok()?;
    let mut tail = Vec::new();
    file.take(OGG_PAGE).read_to_end(&mut tail).ok()?;
    let last = tail.windows(4).rposition(|window| window == b"OggS")?;
    let position = u64::from_le_bytes(tail.get(last + 6..last + 14)?.try_into().ok()?);
    let samples = position.checked_sub(skip).filter(|_| position != u64::MAX)?;
    u32::try_from(samples.div_ceil(OPUS_RATE)).ok().filter(|seconds| *seconds > 0)
}

fn find(bytes: &[u8], mark: &[u8]) -> Option<usize> {
    bytes.windows(mark.len()).position(|window| window == mark)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn opus(skip: u16, position: u64) -> Vec<u8> {
        let mut file = b"OggS\0\x02".to_vec();
        file.extend([0; 22]);
        file.extend(b"OpusHead\x01\x01");
        file.extend(skip.to_le_bytes());
        file.resize(90_000, 0);
        file.extend(b"OggS\0\x04");
        file.extend(position.to_le_bytes());
        file.extend([0; 300]);
        file
    }

    #[test]
    fn an_opus_file_tells_its_length() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x");
        for (file, seconds) in [
            (opus(312, 312 + 48_000 * 7), Some(7)),
            (opus(312, 312 + 48_000 * 7 + 1), Some(8)),
            (opus(312, 100), None),
            (opus(0, u64::MAX), None),
            (b"OggS".to_vec(), None),
            (Vec::new(), None),
        ] {
            std::fs::write(&path, file).unwrap();
            assert_eq!(of(&path, MediaKind::Voice).seconds, seconds);
        }
    }
}
