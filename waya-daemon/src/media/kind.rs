//! What a file will be sent as, by its content first and by what the caller says of it second. Pure.

use super::MediaError;
use super::convert::Conversion;
use super::sniff::{class, essence, sniff};
use crate::model::{MediaHints, MediaKind};

/// No name of a document is longer, in characters.
const MAX_FILENAME_CHARS: usize = 255;
/// What nobody can say more of.
const UNKNOWN: &str = "application/octet-stream";
/// Types whose content always shows; content without a mark is none of these.
const MARKED: [&str; 16] = [
    "image/jpeg",
    "image/png",
    "image/gif",
    "image/webp",
    "image/bmp",
    "video/mp4",
    "video/3gpp",
    "video/quicktime",
    "video/webm",
    "audio/mpeg",
    "audio/ogg",
    "audio/mp4",
    "audio/wav",
    "audio/flac",
    "audio/amr",
    "application/pdf",
];

/// What a file will be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Chosen {
    /// What it is to WhatsApp.
    pub(super) kind: MediaKind,
    /// Its MIME type.
    pub(super) mimetype: String,
    /// It has to be made into something else first.
    pub(super) convert: Option<Conversion>,
}

/// Chooses by the beginning of the file and the caller's hints.
pub(super) fn choose(head: &[u8], hints: &MediaHints) -> Result<Chosen, MediaError> {
    let found = sniff(head);
    let declared = hints.mimetype.as_deref().filter(|text| !text.trim().is_empty()).map(normal).transpose()?;
    if let Some(declared) = &declared {
        contradicts(declared, found)?;
    }
    let mimetype = mimetype(found, declared.as_deref(), hints.filename.as_deref());
    let plain = |kind| Ok(Chosen { kind, mimetype: mimetype.clone(), convert: None });
    if hints.voice {
        return match class(&mimetype) {
            _ if mimetype == "audio/ogg; codecs=opus" => plain(MediaKind::Voice),
            "audio" | "video" => Ok(Chosen {
                kind: MediaKind::Voice,
                mimetype: Conversion::Voice.mimetype().to_owned(),
                convert: Some(Conversion::Voice),
            }),
            _ => Err(MediaError::NoSound(found.unwrap_or("no sound"))),
        };
    }
    if hints.document {
        return plain(MediaKind::Document);
    }
    match by_type(&mimetype) {
        MediaKind::Gif => {
            Ok(Chosen { kind: MediaKind::Gif, mimetype: "video/mp4".to_owned(), convert: Some(Conversion::Gif) })
        }
        kind => plain(kind),
    }
}

fn by_type(mimetype: &str) -> MediaKind {
    match essence(mimetype) {
        "image/jpeg" | "image/png" => MediaKind::Image,
        "image/webp" => MediaKind::Sticker,
        "image/gif" => MediaKind::Gif,
        "video/mp4" | "video/3gpp" | "video/quicktime" => MediaKind::Video,
        "audio/mpeg" | "audio/mp4" | "audio/aac" | "audio/amr" | "audio/ogg" => MediaKind::Audio,
        // Phones show nothing else than these in place.
        _ => MediaKind::Document,
    }
}

/// What a file is expected to be before its content is there; `None` when nothing tells.
pub(super) fn expected(hints: &MediaHints, name: Option<&str>) -> Option<MediaKind> {
    if hints.voice {
        return Some(MediaKind::Voice);
    }
    if hints.document {
        return Some(MediaKind::Document);
    }
    let by_name = || hints.filename.as_deref().or(name).and_then(|name| mime_guess::from_path(name).first_raw());
    let told = hints.mimetype.as_deref().filter(|told| !told.trim().is_empty()).or_else(by_name)?;
    normal(told).ok().map(|told| by_type(&told))
}

/// `type/subtype`, with its parameters, in small letters and by its usual name.
fn normal(text: &str) -> Result<String, MediaError> {
    let bad = || MediaError::BadMimetype(text.chars().take(80).collect());
    let lower = text.trim().to_ascii_lowercase();
    let (kind, subtype) = essence(&lower).split_once('/').ok_or_else(bad)?;
    let is_token = |part: &str| {
        let fits = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$&-^_.+".contains(&byte);
        !part.is_empty() && part.len() <= 127 && part.bytes().all(fits)
    };
    if !is_token(kind) || !is_token(subtype) || lower.len() > 200 || lower.chars().any(char::is_control) {
        return Err(bad());
    }
    Ok(match essence(&lower) {
        "image/jpg" | "image/pjpeg" => "image/jpeg".to_owned(),
        "audio/mp3" | "audio/x-mp3" => "audio/mpeg".to_owned(),
        "audio/x-wav" | "audio/wave" | "audio/vnd.wave" => "audio/wav".to_owned(),
        "audio/m4a" | "audio/x-m4a" => "audio/mp4".to_owned(),
        "audio/opus" => "audio/ogg; codecs=opus".to_owned(),
        _ => lower,
    })
}

/// A file that is something else than it is said to be would reach people as rubbish.
fn contradicts(declared: &str, found: Option<&'static str>) -> Result<(), MediaError> {
    let declared = essence(declared);
    let wrong = |found| Err(MediaError::WrongType { declared: declared.to_owned(), found });
    let Some(found) = found else {
        return if MARKED.contains(&declared) { wrong("something else") } else { Ok(()) };
    };
    let is_media = |kind: &str| matches!(kind, "image" | "video" | "audio");
    let same = match (class(declared), class(found)) {
        _ if declared == essence(found) || declared == UNKNOWN => true,
        // One container, with or without pictures.
        ("audio", "video") | ("video", "audio") => true,
        (declared, found) if is_media(declared) => declared == found,
        ("text", found) => !is_media(found),
        _ => declared != "application/pdf" && (found != "application/pdf"),
    };
    if same { Ok(()) } else { wrong(found) }
}

/// What the content shows, else what the caller says, else what the name says.
fn mimetype(found: Option<&'static str>, declared: Option<&str>, filename: Option<&str>) -> String {
    let by_name = || filename.and_then(|name| mime_guess::from_path(name).first_raw());
    let declared = declared.filter(|declared| essence(declared) != UNKNOWN);
    match found {
        // A recording has the marks of a video.
        Some("video/mp4" | "video/3gpp" | "video/webm") if declared.or_else(by_name).is_some_and(is_audio) => {
            declared.map(essence).filter(|declared| is_audio(declared)).unwrap_or("audio/mp4").to_owned()
        }
        Some(found) if matches!(class(found), "image" | "video" | "audio") || found == "application/pdf" => {
            found.to_owned()
        }
        // Office files have the marks of what they are packed with.
        found => declared.or_else(by_name).or(found).unwrap_or(UNKNOWN).to_owned(),
    }
}

fn is_audio(mimetype: &str) -> bool {
    class(mimetype) == "audio"
}

/// The name that recipients see: the caller's, without folders, else one that fits the type.
pub(super) fn filename(given: Option<&str>, mimetype: &str) -> String {
    let own = given.and_then(|name| name.rsplit(['/', '\\']).next()).map(str::trim);
    let own: String = own.unwrap_or_default().chars().filter(|c| !c.is_control()).take(MAX_FILENAME_CHARS).collect();
    if !own.is_empty() && own != "." && own != ".." {
        return own;
    }
    let extension = match essence(mimetype) {
        UNKNOWN => None,
        "text/plain" => Some("txt"),
        "image/jpeg" => Some("jpg"),
        other => mime_guess::get_mime_extensions_str(other).and_then(|known| known.first().copied()),
    };
    extension.map_or_else(|| "file".to_owned(), |extension| format!("file.{extension}"))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const JPEG: &[u8] = &[0xff, 0xd8, 0xff, 0xe0, 0, 0x10, b'J', b'F', b'I', b'F', 0];
    const PNG: &[u8] = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR";
    const PDF: &[u8] = b"%PDF-1.4\n";
    const ZIP: &[u8] = b"PK\x03\x04\x14\0\0\0\0\0";
    const MP4: &[u8] = b"\0\0\0\x18ftypisom\0\0\0\0isommp42";
    const OPUS: &[u8] = b"OggS\0\x02\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\x01\x13OpusHead\x01\x01";
    const MP3: &[u8] = b"ID3\x03\0\0\0\0\0\0";
    const WEBP: &[u8] = b"RIFF\x24\0\0\0WEBPVP8 ";
    const GIF: &[u8] = b"GIF89a\x01\0\x01\0";
    const WAV: &[u8] = b"RIFF\x24\0\0\0WAVEfmt ";

    fn hints(mimetype: &str, filename: &str) -> MediaHints {
        let text = |text: &str| (!text.is_empty()).then(|| text.to_owned());
        MediaHints { mimetype: text(mimetype), filename: text(filename), ..MediaHints::default() }
    }

    fn chosen(head: &[u8], mimetype: &str, filename: &str) -> (MediaKind, String) {
        let chosen = choose(head, &hints(mimetype, filename)).unwrap();
        (chosen.kind, chosen.mimetype)
    }

    #[test]
    fn the_content_decides() {
        for (head, mimetype, filename, kind, shown) in [
            (JPEG, "", "", MediaKind::Image, "image/jpeg"),
            (JPEG, "image/jpg", "x.txt", MediaKind::Image, "image/jpeg"),
            (PNG, "image/jpeg", "", MediaKind::Image, "image/png"),
            (PDF, "", "photo.jpg", MediaKind::Document, "application/pdf"),
            (PDF, "application/octet-stream", "", MediaKind::Document, "application/pdf"),
            (MP4, "", "", MediaKind::Video, "video/mp4"),
            (MP4, "audio/mp4", "", MediaKind::Audio, "audio/mp4"),
            (MP4, "", "rekaman.m4a", MediaKind::Audio, "audio/mp4"),
            (OPUS, "", "", MediaKind::Audio, "audio/ogg; codecs=opus"),
            (MP3, "audio/mp3", "", MediaKind::Audio, "audio/mpeg"),
            (WEBP, "", "", MediaKind::Sticker, "image/webp"),
            (WAV, "", "", MediaKind::Document, "audio/wav"),
            (b"a;b\n1;2", "text/csv", "", MediaKind::Document, "text/csv"),
            (b"a;b\n1;2", "", "daftar.csv", MediaKind::Document, "text/csv"),
            (b"a;b\n1;2", "", "", MediaKind::Document, "application/octet-stream"),
            (ZIP, "", "", MediaKind::Document, "application/zip"),
            (
                ZIP,
                "application/vnd.openxmlformats-officedocument.wordprocessingml.document",
                "",
                MediaKind::Document,
                "application/vnd.openxmlformats-officedocument.wordprocessingml.document",
            ),
        ] {
            assert_eq!(chosen(head, mimetype, filename), (kind, shown.to_owned()), "{mimetype} {filename}");
        }
    }

    #[test]
    fn what_is_not_what_it_is_said_to_be_is_refused() {
        for (head, mimetype) in [
            (PDF, "image/png"),
            (JPEG, "application/pdf"),
            (JPEG, "video/mp4"),
            (b"no picture".as_slice(), "image/png"),
            (b"no document".as_slice(), "application/pdf"),
            (PNG, "text/plain"),
        ] {
            let error = choose(head, &hints(mimetype, "")).unwrap_err();
            assert!(matches!(error, MediaError::WrongType { .. }), "{mimetype}: {error}");
        }
        for mimetype in ["png", "image/", "/png", "image/p ng", "image/png\n"] {
            let chosen = choose(PNG, &hints(mimetype, ""));
            assert!(matches!(chosen, Err(MediaError::BadMimetype(_)) | Ok(_)), "{mimetype}");
            assert_eq!(chosen.is_ok(), mimetype == "image/png\n", "{mimetype}: only the space around it is let go");
        }
    }

    #[test]
    fn voice_notes_are_sound() {
        let voice = |head| choose(head, &MediaHints { voice: true, ..MediaHints::default() });
        let opus = voice(OPUS).unwrap();
        assert_eq!((opus.kind, opus.convert), (MediaKind::Voice, None));
        for head in [MP3, WAV, MP4] {
            let chosen = voice(head).unwrap();
            assert_eq!((chosen.kind, chosen.convert), (MediaKind::Voice, Some(Conversion::Voice)));
            assert_eq!(chosen.mimetype, "audio/ogg; codecs=opus");
        }
        assert!(matches!(voice(PNG), Err(MediaError::NoSound("image/png"))));
        assert!(matches!(voice(b"text"), Err(MediaError::NoSound(_))));
    }

    #[test]
    fn moving_pictures_are_made_into_a_video_and_anything_may_be_a_document() {
        assert_eq!(choose(GIF, &MediaHints::default()).unwrap().convert, Some(Conversion::Gif));
        let document = MediaHints { document: true, ..MediaHints::default() };
        for (head, mimetype) in [(GIF, "image/gif"), (JPEG, "image/jpeg"), (WEBP, "image/webp")] {
            let chosen = choose(head, &document).unwrap();
            assert_eq!((chosen.kind, chosen.mimetype.as_str(), chosen.convert), (MediaKind::Document, mimetype, None));
        }
    }

    #[test]
    fn a_document_has_a_name_without_folders() {
        assert_eq!(filename(Some("../../etc/passwd"), "text/plain"), "passwd");
        assert_eq!(filename(Some(r"C:\a\nota.pdf"), "application/pdf"), "nota.pdf");
        assert_eq!(filename(Some("  "), "application/pdf"), "file.pdf");
        assert_eq!(filename(None, "text/plain"), "file.txt");
        assert_eq!(filename(None, "application/octet-stream; x"), "file");
    }

    proptest! {
        #[test]
        fn nothing_is_a_fault_of_ours(
            head in proptest::collection::vec(any::<u8>(), 0..300),
            mimetype in ".{0,40}", name in ".{0,40}", voice: bool, document: bool,
        ) {
            let hints = MediaHints { mimetype: Some(mimetype), filename: Some(name.clone()), voice, document };
            if let Ok(chosen) = choose(&head, &hints) {
                let name = filename(Some(&name), &chosen.mimetype);
                prop_assert!(!name.is_empty() && !name.contains('/'));
            }
        }
    }
}
