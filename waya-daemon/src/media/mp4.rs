//! What an MP4 file, a QuickTime or 3GP one (ISO 14496-12), says of itself: how long it plays, how large its picture is.
//!
//! Reads the heads of its boxes and two short ones, however large the file is. A damaged one tells nothing. What
//! libraries there are read audio only, or all tables of all tracks.

use std::io::{Read, Seek, SeekFrom};

/// More boxes than this are not looked at: no camera makes so many on the way to these.
const MOST_BOXES: usize = 2048;
/// The longest box that is read, as far as it matters here.
const LONGEST: usize = 96;

/// What is known of a film.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Film {
    /// Width and height in pixels, as people see it: turned as the camera says.
    pub(super) size: Option<(u32, u32)>,
    /// How long it plays.
    pub(super) seconds: Option<u32>,
}

/// Looks at a file; `None` for one that is none of these. Blocks.
pub(super) fn film(file: impl Read + Seek) -> Option<Film> {
    let mut boxes = Boxes { file, left: MOST_BOXES };
    let end = boxes.file.seek(SeekFrom::End(0)).ok()?;
    let whole = Part { kind: *b"file", start: 0, end };
    let moov = boxes.find(whole, *b"moov")?;
    let (mut film, mut at, mut length) = (Film::default(), moov.start, None);
    while let Some(part) = boxes.next(at, moov.end) {
        match &part.kind {
            b"mvhd" => length = boxes.content(part).as_deref().and_then(movie_length),
            // Of a film in fragments the length stands here.
            b"mvex" => {
                let told = boxes.find(part, *b"mehd").and_then(|part| boxes.content(part));
                length = length.map(|(scale, length)| (scale, length.or(told.as_deref().and_then(fragments_length))));
            }
            b"trak" if film.size.is_none() => {
                let told = boxes.find(part, *b"tkhd").and_then(|part| boxes.content(part));
                film.size = told.as_deref().and_then(picture_size);
            }
            _ => {}
        }
        at = part.end;
    }
    let (scale, length) = length?;
    let seconds = length.and_then(|length| {
        u32::try_from(length.checked_div(scale.into())?)
            .ok()
            .map(|whole| whole.saturating_add(u32::from(length % u64::from(scale) > 0)))
    });
    Some(Film { seconds: seconds.filter(|seconds| *seconds > 0), ..film })
}

/// A box, without its head.
#[derive(Debug, Clone, Copy)]
struct Part {
    kind: [u8; 4],
    start: u64,
    end: u64,
}

/// A file as boxes in boxes.
struct Boxes<F> {
    file: F,
    /// How many more are looked at.
    left: usize,
}

impl<F: Read + Seek> Boxes<F> {
    /// The box that begins there and ends before `end`.
    fn next(&mut self, at: u64, end: u64) -> Option<Part> {
        self.left = self.left.checked_sub(1)?;
        let (mut size, mut kind, mut long) = ([0; 4], [0; 4], [0; 8]);
        self.file.seek(SeekFrom::Start(at)).ok()?;
        self.file.read_exact(&mut size).ok()?;
        self.file.read_exact(&mut kind).ok()?;
        let (head, size) = match u32::from_be_bytes(size) {
            0 => (8, end.checked_sub(at)?),
            1 => {
                self.file.read_exact(&mut long).ok()?;
                (16, u64::from_be_bytes(long))
            }
            size => (8, u64::from(size)),
        };
        let part = Part { kind, start: at + head, end: at.checked_add(size)? };
        (part.start <= part.end && part.end <= end).then_some(part)
    }

    /// The first box of this kind within another.
    fn find(&mut self, within: Part, kind: [u8; 4]) -> Option<Part> {
        let mut at = within.start;
        loop {
            let part = self.next(at, within.end)?;
            if part.kind == kind {
                return Some(part);
            }
            at = part.end;
        }
    }

    /// The beginning of what is in it.
    fn content(&mut self, part: Part) -> Option<Vec<u8>> {
        let length = usize::try_from(part.end - part.start).unwrap_or(LONGEST).min(LONGEST);
        let mut content = vec![0; length];
        self.file.seek(SeekFrom::Start(part.start)).ok()?;
        self.file.read_exact(&mut content).ok()?;
        Some(content)
    }
}

fn number(content: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_be_bytes(content.get(at..at + 4)?.try_into().ok()?))
}

/// Version 1 of a box has lengths of 64 bits. All ones are a length that nobody knows.
fn length(content: &[u8], at: usize) -> Option<u64> {
    let low = number(content, at)?;
    if content.first() != Some(&1) {
        return Some(low.into()).filter(|_| low != u32::MAX);
    }
    let length = u64::from(low) << 32 | u64::from(number(content, at + 4)?);
    Some(length).filter(|length| *length != u64::MAX)
}

/// Of `mvhd`: units a second, and the length in them.
fn movie_length(content: &[u8]) -> Option<(u32, Option<u64>)> {
    let scale_at = if content.first() == Some(&1) { 20 } else { 12 };
    let scale = number(content, scale_at).filter(|scale| *scale > 0)?;
    Some((scale, length(content, scale_at + 4).filter(|length| *length > 0)))
}

/// Of `mehd`.
fn fragments_length(content: &[u8]) -> Option<u64> {
    length(content, 4)
}

/// Of `tkhd`; a track that is heard has no size.
fn picture_size(content: &[u8]) -> Option<(u32, u32)> {
    let matrix_at = if content.first() == Some(&1) { 52 } else { 40 };
    let pixels = |at: usize| number(content, matrix_at + at).map(|fixed| fixed >> 16).filter(|pixels| *pixels > 0);
    let (width, height) = (pixels(36)?, pixels(40)?);
    // By a quarter, either way round: nothing on the diagonal.
    let is_turned = number(content, matrix_at)? == 0 && number(content, matrix_at + 16)? == 0;
    Some(if is_turned { (height, width) } else { (width, height) })
}

#[cfg(test)]
pub(super) mod tests {
    use std::io::Cursor;

    use proptest::prelude::*;

    use super::*;

    const STRAIGHT: [u32; 9] = [0x1_0000, 0, 0, 0, 0x1_0000, 0, 0, 0, 0x4000_0000];
    const TURNED: [u32; 9] = [0, 0x1_0000, 0, 0xffff_0000, 0, 0, 0, 0, 0x4000_0000];

    fn boxed(kind: [u8; 4], content: &[u8]) -> Vec<u8> {
        let size = u32::try_from(content.len() + 8).unwrap();
        [&size.to_be_bytes(), &kind[..], content].concat()
    }

    fn numbers(numbers: &[u32]) -> Vec<u8> {
        numbers.iter().flat_map(|number| number.to_be_bytes()).collect()
    }

    fn mvhd(scale: u32, length: u32) -> Vec<u8> {
        boxed(*b"mvhd", &[numbers(&[0, 0, 0, scale, length]), vec![0; 80]].concat())
    }

    fn trak(matrix: [u32; 9], width: u32, height: u32) -> Vec<u8> {
        let head = numbers(&[7, 0, 0, 1, 0, 0, 0, 0, 0, 0]);
        let tkhd = [head, numbers(&matrix), numbers(&[width << 16, height << 16])].concat();
        boxed(*b"trak", &[boxed(*b"edts", &[]), boxed(*b"tkhd", &tkhd)].concat())
    }

    fn file(moov: &[Vec<u8>]) -> Vec<u8> {
        let ftyp = boxed(*b"ftyp", b"isom\0\0\0\0isommp42");
        [ftyp, boxed(*b"mdat", &[7; 300]), boxed(*b"moov", &moov.concat())].concat()
    }

    /// A film of so many milliseconds.
    pub fn mp4(millis: u32, width: u32, height: u32) -> Vec<u8> {
        file(&[mvhd(1000, millis), trak(STRAIGHT, 0, 0), trak(STRAIGHT, width, height)])
    }

    fn told(bytes: Vec<u8>) -> Option<Film> {
        film(Cursor::new(bytes))
    }

    #[test]
    fn a_film_tells_its_length_and_size() {
        let film = |size, seconds| Some(Film { size, seconds });
        assert_eq!(told(mp4(7_001, 640, 360)), film(Some((640, 360)), Some(8)));
        let turned = file(&[mvhd(600, 1_200), trak(TURNED, 1920, 1080)]);
        assert_eq!(told(turned), film(Some((1080, 1920)), Some(2)), "a phone held upright");
        let sound = file(&[mvhd(1000, 3_000), trak(STRAIGHT, 0, 0)]);
        assert_eq!(told(sound), film(None, Some(3)));
        for (version, length) in [(0, numbers(&[0, 4_500])), (1, numbers(&[1 << 24, 0, 4_500]))] {
            let mvex = boxed(*b"mvex", &boxed(*b"mehd", &length));
            let fragments = file(&[mvhd(1000, 0), trak(STRAIGHT, 2, 2), mvex]);
            assert_eq!(told(fragments), film(Some((2, 2)), Some(5)), "version {version}");
        }
        let long = [numbers(&[1 << 24, 0, 0, 0, 0, 90_000, 0, 180_000]), vec![0; 80]].concat();
        assert_eq!(told(file(&[boxed(*b"mvhd", &long)])), film(None, Some(2)));
        for unknown in [mvhd(1000, 0), mvhd(1000, u32::MAX)] {
            assert_eq!(told(file(&[unknown, trak(STRAIGHT, 2, 2)])), film(Some((2, 2)), None));
        }
    }

    #[test]
    fn what_is_no_film_tells_nothing() {
        for bytes in [Vec::new(), b"RIFF".to_vec(), boxed(*b"moov", &[]), file(&[mvhd(0, 5)]), vec![0; 4_000]] {
            assert_eq!(told(bytes), None);
        }
        let whole = mp4(7_000, 640, 360);
        for end in 0..whole.len() {
            assert_eq!(told(whole[..end].to_vec()), None, "cut at {end}");
        }
        // Boxes without end are not looked at without end.
        assert_eq!(told(boxed(*b"free", &[]).repeat(MOST_BOXES + 1)), None);
    }

    proptest! {
        #[test]
        fn no_file_is_a_fault_of_ours(at in 0usize..700, bytes in proptest::collection::vec(any::<u8>(), 0..40)) {
            let mut broken = mp4(7_000, 640, 360);
            let at = at.min(broken.len());
            let end = (at + bytes.len()).min(broken.len());
            broken.splice(at..end, bytes.iter().copied());
            let _ = told(broken);
            let _ = told(bytes);
        }
    }
}
