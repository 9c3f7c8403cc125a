//! What a file is, by its beginning.

/// The MIME type that the content shows; `None` for text and whatever else has no mark of its own.
pub(super) fn sniff(head: &[u8]) -> Option<&'static str> {
    if head.starts_with(b"OggS") {
        return Some(ogg(head));
    }
    let found = infer::get(head)?.mime_type();
    Some(match found {
        "audio/m4a" => "audio/mp4",
        "audio/x-wav" => "audio/wav",
        "audio/x-flac" => "audio/flac",
        "video/x-m4v" => "video/mp4",
        found => found,
    })
}

/// The first page of an Ogg file names the codec (RFC 7845, section 5.1; the Vorbis and Theora specifications).
fn ogg(head: &[u8]) -> &'static str {
    let first_page = head.get(..128).unwrap_or(head);
    let names = |mark: &[u8]| first_page.windows(mark.len()).any(|window| window == mark);
    if names(b"OpusHead") {
        "audio/ogg; codecs=opus"
    } else if names(b"\x80theora") {
        "video/ogg"
    } else {
        "audio/ogg"
    }
}

/// The part of a MIME type before its parameters.
pub(super) fn essence(mimetype: &str) -> &str {
    mimetype.split(';').next().unwrap_or_default().trim()
}

/// The part of a MIME type before the slash.
pub(super) fn class(mimetype: &str) -> &str {
    mimetype.split('/').next().unwrap_or_default()
}
