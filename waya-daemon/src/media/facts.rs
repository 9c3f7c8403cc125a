//! What can be read off a file: its size in pixels, its length, its pages. What cannot be read is left out.

use std::fs::File;
use std::io::{BufReader, Read as _, Seek as _, SeekFrom};
use std::path::Path;

use lofty::config::ParseOptions;
use lofty::file::AudioFile as _;
use lofty::probe::Probe;

use super::mp4::{self, Film};
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
        MediaKind::Voice => facts.seconds = opus_seconds(path),
        MediaKind::Audio => {
            let seconds = opus_seconds(path).or_else(|| film(path).and_then(|film| film.seconds));
            facts.seconds = seconds.or_else(|| sound_seconds(path));
        }
        MediaKind::Document => facts.pages = pdf::pages_of(path),
        MediaKind::Video | MediaKind::Gif => {
            let film = film(path).unwrap_or_default();
            (facts.width, facts.height) = film.size.unzip();
            facts.seconds = film.seconds;
        }
    }
    facts
}

fn film(path: &Path) -> Option<Film> {
    mp4::film(BufReader::new(File::open(path).ok()?))
}

/// How long MP3, AAC and the like play. Tags, with their pictures, are skipped.
fn sound_seconds(path: &Path) -> Option<u32> {
    let options = ParseOptions::new().read_tags(false).read_cover_art(false);
    let sound = Probe::new(BufReader::new(File::open(path).ok()?)).options(options).guess_file_type().ok()?;
    let millis = sound.read().ok()?.properties().duration().as_millis();
    // To the nearest second: encoders fill the last frame up.
    u32::try_from((millis + 500) / 1000).ok().filter(|_| millis > 0).map(|seconds| seconds.max(1))
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
    use proptest::prelude::*;

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

    /// A second of MP3 is 38.28 of these frames.
    fn mp3(frames: usize) -> Vec<u8> {
        let frame = [&[0xff, 0xfb, 0x90, 0x64][..], &[0; 413]].concat();
        let tag = b"ID3\x04\0\0\0\0\x01\0".iter().copied().chain([0; 128]);
        tag.chain(frame.repeat(frames)).collect()
    }

    /// A second of AAC is 43.07 of these frames.
    fn aac(frames: usize) -> Vec<u8> {
        let length = 200;
        let head = [0xff, 0xf1, 0x50, 0x80, (length >> 3) as u8, ((length & 7) << 5) as u8 | 0x1f, 0xfc];
        [&head[..], &vec![0; length - 7]].concat().repeat(frames)
    }

    #[test]
    fn sound_and_films_tell_their_length() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x");
        let film = mp4::tests::mp4(4_200, 640, 360);
        for (file, kind, size, seconds) in [
            (mp3(400), MediaKind::Audio, None, Some(11)),
            (aac(450), MediaKind::Audio, None, Some(11)),
            (opus(312, 312 + 48_000 * 7), MediaKind::Audio, None, Some(7)),
            (film.clone(), MediaKind::Audio, None, Some(5)),
            (film.clone(), MediaKind::Video, Some((640, 360)), Some(5)),
            (film, MediaKind::Gif, Some((640, 360)), Some(5)),
            (mp3(0), MediaKind::Audio, None, None),
            (b"ID3".to_vec(), MediaKind::Audio, None, None),
            (vec![0; 4_096], MediaKind::Audio, None, None),
            (mp3(9), MediaKind::Video, None, None),
        ] {
            std::fs::write(&path, &file).unwrap();
            let facts = of(&path, kind);
            assert_eq!(facts.width.zip(facts.height), size, "{kind:?}, {} bytes", file.len());
            // What no file says exactly is reckoned from how much of it plays in a second.
            let near = facts.seconds.zip(seconds).is_some_and(|(told, real)| told.abs_diff(real) <= 1);
            assert!(near || facts.seconds == seconds, "{kind:?}, {} bytes: {:?}", file.len(), facts.seconds);
        }
    }

    proptest! {
        #[test]
        fn no_file_is_a_fault_of_ours(cut in 0usize..600, noise in proptest::collection::vec(any::<u8>(), 0..600)) {
            let dir = tempfile::tempdir().unwrap();
            let path = dir.path().join("x");
            for beginning in [mp3(9), aac(9), mp4::tests::mp4(1, 2, 2), opus(0, 9), b"ID3\x04".to_vec(), Vec::new()] {
                std::fs::write(&path, [&beginning[..cut.min(beginning.len())], &noise[..]].concat()).unwrap();
                let _ = (of(&path, MediaKind::Audio), of(&path, MediaKind::Video));
            }
        }
    }
}
