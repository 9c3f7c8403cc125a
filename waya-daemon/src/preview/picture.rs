//! The picture of a preview, known by its first bytes: what a server calls it is often wrong.

use std::fmt;

/// A picture as it came.
#[derive(Clone, PartialEq, Eq)]
pub struct Picture {
    /// Undecoded; they may be broken further on.
    pub bytes: Vec<u8>,
    /// What they begin like.
    pub mimetype: &'static str,
}

impl Picture {
    /// The bytes as a picture, if they begin like one that phones show.
    #[must_use]
    pub fn sniff(bytes: Vec<u8>) -> Option<Self> {
        let mimetype = match bytes.as_slice() {
            [0xff, 0xd8, 0xff, ..] => "image/jpeg",
            [0x89, b'P', b'N', b'G', b'\r', b'\n', 0x1a, b'\n', ..] => "image/png",
            [b'G', b'I', b'F', b'8', b'7' | b'9', b'a', ..] => "image/gif",
            [b'R', b'I', b'F', b'F', _, _, _, _, b'W', b'E', b'B', b'P', ..] => "image/webp",
            _ => return None,
        };
        Some(Self { bytes, mimetype })
    }
}

impl fmt::Debug for Picture {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Picture({}, {} bytes)", self.mimetype, self.bytes.len())
    }
}
