//! How large files may be.

use super::MediaError;
use crate::model::MediaKind;

/// How large files may be, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Pictures, video and sound.
    pub media: u64,
    /// Documents.
    pub document: u64,
    /// Files that came in and are loaded.
    pub download: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self { media: 16 << 20, document: 100 << 20, download: 100 << 20 }
    }
}

impl Limits {
    /// Whether a file may be sent as this.
    pub(super) fn check(self, kind: MediaKind, size: u64) -> Result<(), MediaError> {
        let (limit, what, setting) = match kind {
            MediaKind::Document => (self.document, "documents", "media.max_document_size"),
            _ => (
                self.media,
                "pictures, video and sound; with \"document\": true it goes as a document",
                "media.max_size",
            ),
        };
        if size > limit { Err(MediaError::TooLarge { what, limit, setting }) } else { Ok(()) }
    }
}
