//! A file given in base64, decoded in pieces.

use base64::Engine as _;
use base64::alphabet;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};

use super::{MediaError, Writer};

/// Callers leave the padding out now and then.
const LENIENT: GeneralPurposeConfig = GeneralPurposeConfig::new()
    .with_decode_padding_mode(DecodePaddingMode::Indifferent)
    .with_decode_allow_trailing_bits(true);
const STANDARD: GeneralPurpose = GeneralPurpose::new(&alphabet::STANDARD, LENIENT);
const URL_SAFE: GeneralPurpose = GeneralPurpose::new(&alphabet::URL_SAFE, LENIENT);

/// Characters decoded at once; a multiple of four.
const PIECE: usize = 64 * 1024;

/// Decodes into the file. The MIME type that a `data:` URL tells comes back. Blocks.
pub(super) fn decode(text: &str, mut writer: Writer) -> Result<(Writer, Option<String>), MediaError> {
    let (told, text) = split(text)?;
    // Encoders for mail break the lines.
    let is_broken = text.bytes().any(|byte| byte.is_ascii_whitespace());
    let cleaned: Option<String> = is_broken.then(|| text.chars().filter(|c| !c.is_ascii_whitespace()).collect());
    let text = cleaned.as_deref().unwrap_or(text).as_bytes();
    let engine = if text.iter().any(|byte| matches!(byte, b'-' | b'_')) { URL_SAFE } else { STANDARD };
    let mut decoded = Vec::with_capacity(PIECE / 4 * 3 + 3);
    for (number, piece) in text.chunks(PIECE).enumerate() {
        decoded.clear();
        engine.decode_vec(piece, &mut decoded).map_err(|error| problem(&error, number * PIECE))?;
        // Padding is allowed at the end only; in the middle it would make the file shorter without a word.
        let is_last = (number + 1) * PIECE >= text.len();
        if !is_last && decoded.len() != PIECE / 4 * 3 {
            return Err(MediaError::NotBase64("there is padding in the middle".to_owned()));
        }
        writer.write(&decoded)?;
    }
    Ok((writer, told))
}

fn problem(error: &base64::DecodeError, offset: usize) -> MediaError {
    use base64::DecodeError as E;
    MediaError::NotBase64(match error {
        E::InvalidByte(at, byte) => {
            format!("{:?} at position {} does not belong there", char::from(*byte), offset + at)
        }
        E::InvalidLength(_) | E::InvalidLastSymbol(..) => "it is cut off".to_owned(),
        E::InvalidPadding => "its padding is wrong".to_owned(),
    })
}

/// What a `data:` URL (RFC 2397) says of the type, and the rest; any other text as it is.
fn split(text: &str) -> Result<(Option<String>, &str), MediaError> {
    let text = text.trim();
    let Some(rest) = text.get(..5).filter(|start| start.eq_ignore_ascii_case("data:")).map(|_| &text[5..]) else {
        return Ok((None, text));
    };
    let Some((head, data)) = rest.split_once(',') else {
        return Err(MediaError::NotBase64("a data: URL has its data behind a comma".to_owned()));
    };
    let Some(kind) = head.strip_suffix(";base64") else {
        return Err(MediaError::NotBase64("a data: URL must say ;base64 before the comma".to_owned()));
    };
    Ok(((!kind.is_empty()).then(|| kind.to_owned()), data))
}

#[cfg(test)]
mod tests {
    use base64::engine::general_purpose;
    use proptest::prelude::*;

    use super::super::files::Files;
    use super::*;

    fn decoded(text: &str) -> Result<(Vec<u8>, Option<String>), MediaError> {
        let dir = tempfile::tempdir().unwrap();
        let files = Files::open(dir.path()).unwrap();
        let (writer, told) = decode(text, files.writer(1 << 20)?)?;
        Ok((std::fs::read(writer.path()).unwrap(), told))
    }

    #[test]
    fn every_usual_spelling_is_read() {
        for text in ["SGFsbyE_", "SGFsbyE/", " SGFs\r\nbyE/\n", "data:;base64,SGFsbyE/"] {
            assert_eq!(decoded(text).unwrap(), (b"Halo!?".to_vec(), None), "{text}");
        }
        assert_eq!(decoded("SGFsbw").unwrap().0, b"Halo");
        let (content, told) = decoded("data:image/png;charset=x;base64,SGFsbw==").unwrap();
        assert_eq!((content.as_slice(), told.as_deref()), (b"Halo".as_slice(), Some("image/png;charset=x")));
    }

    #[test]
    fn what_is_no_base64_is_told() {
        for (text, word) in [
            ("SGFs*w==", "'*' at position 4"),
            ("data:image/png,SGFs", ";base64"),
            ("data:image/png;base64", "comma"),
            ("S", "cut off"),
        ] {
            let error = decoded(text).unwrap_err().to_string();
            assert!(error.contains(word), "{text}: {error}");
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]
        #[test]
        fn all_bytes_come_through(bytes in proptest::collection::vec(any::<u8>(), 0..200_000)) {
            let text = general_purpose::STANDARD.encode(&bytes);
            prop_assert_eq!(decoded(&text).unwrap().0, bytes);
        }
    }
}
