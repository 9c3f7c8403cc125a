//! What WhatsApp takes in one form only, made into that form by ffmpeg, if it is installed.

use std::io;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use tokio::io::AsyncReadExt as _;
use tokio::process::Command;

use super::{MediaError, Writer};
use crate::model::MediaKind;

/// A conversion that takes longer is given up.
const TAKES_AT_MOST: Duration = Duration::from_mins(2);
/// So long the first picture of a video is waited for: it is worth no more.
const FRAME_TAKES_AT_MOST: Duration = Duration::from_secs(20);
/// No such picture is longer, in bytes.
const LONGEST_FRAME: u64 = 1 << 20;
/// So much of what ffmpeg complains of is shown, in characters.
const MAX_COMPLAINT: usize = 200;

/// What is made of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Conversion {
    /// Sound as a voice note: Opus in Ogg, one channel.
    Voice,
    /// A GIF as a video without sound, which WhatsApp plays over and over.
    Gif,
}

impl Conversion {
    pub(super) const fn kind(self) -> MediaKind {
        match self {
            Self::Voice => MediaKind::Voice,
            Self::Gif => MediaKind::Gif,
        }
    }

    pub(super) const fn mimetype(self) -> &'static str {
        match self {
            Self::Voice => "audio/ogg; codecs=opus",
            Self::Gif => "video/mp4",
        }
    }

    const fn arguments(self) -> &'static [&'static str] {
        match self {
            Self::Voice => &["-vn", "-ac", "1", "-ar", "48000", "-c:a", "libopus", "-b:a", "32k", "-f", "ogg"],
            Self::Gif => &[
                "-an",
                "-movflags",
                "faststart",
                "-pix_fmt",
                "yuv420p",
                "-vf",
                // The codec wants even sides.
                "scale=trunc(iw/2)*2:trunc(ih/2)*2",
                "-f",
                "mp4",
            ],
        }
    }
}

/// Converts the file at `source` into `writer`.
pub(super) async fn run(source: &Path, conversion: Conversion, writer: Writer) -> Result<Writer, MediaError> {
    run_with("ffmpeg", source, conversion, writer).await
}

async fn run_with(program: &str, source: &Path, conversion: Conversion, writer: Writer) -> Result<Writer, MediaError> {
    let mut command = Command::new(program);
    command
        .args(["-v", "error", "-nostdin", "-y", "-protocol_whitelist", "file,pipe", "-i"])
        .arg(source)
        .args(conversion.arguments())
        .arg(writer.path())
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .kill_on_drop(true);
    let running = command.spawn().map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => MediaError::NoFfmpeg,
        _ => MediaError::Io(error),
    })?;
    let ended = match tokio::time::timeout(TAKES_AT_MOST, running.wait_with_output()).await {
        Ok(ended) => ended?,
        Err(_) => return Err(MediaError::Conversion("ffmpeg took too long".to_owned())),
    };
    if !ended.status.success() {
        let said = String::from_utf8_lossy(&ended.stderr);
        // Its last line says what the matter is; paths of ours are nobody's business.
        let last = said.lines().rev().find(|line| !line.trim().is_empty()).unwrap_or("no reason given");
        let last = last.replace(&*source.to_string_lossy(), "the file");
        return Err(MediaError::Conversion(last.chars().take(MAX_COMPLAINT).collect()));
    }
    super::blocking(move || writer.reread()).await
}

/// How a video begins, as JPEG; `None` without ffmpeg, and for what it cannot read.
pub(super) async fn first_frame(source: &Path) -> Option<Vec<u8>> {
    frame_by(Command::new("ffmpeg"), source).await
}

async fn frame_by(mut ffmpeg: Command, source: &Path) -> Option<Vec<u8>> {
    ffmpeg
        .args(["-v", "error", "-nostdin", "-protocol_whitelist", "file,pipe", "-i"])
        .arg(source)
        .args(["-an", "-frames:v", "1", "-vf", "scale=320:320:force_original_aspect_ratio=decrease"])
        .args(["-c:v", "mjpeg", "-f", "image2pipe", "-"])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .kill_on_drop(true);
    let mut running = ffmpeg.spawn().ok()?;
    let mut said = running.stdout.take()?.take(LONGEST_FRAME);
    let mut jpeg = Vec::new();
    let read = tokio::time::timeout(FRAME_TAKES_AT_MOST, said.read_to_end(&mut jpeg)).await;
    (read.is_ok_and(|read| read.is_ok()) && !jpeg.is_empty()).then_some(jpeg)
}

#[cfg(test)]
mod tests {
    use super::super::files::Files;
    use super::*;

    #[tokio::test]
    async fn without_the_program_there_is_a_word_for_it() {
        let dir = tempfile::tempdir().unwrap();
        let writer = Files::open(dir.path()).unwrap().writer(1 << 20).unwrap();
        let converted = run_with("no-such-ffmpeg", dir.path(), Conversion::Voice, writer).await;
        assert!(matches!(converted, Err(MediaError::NoFfmpeg)));
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0, "nothing is left behind");
    }

    #[tokio::test]
    async fn the_first_picture_is_what_the_program_says() {
        let dir = tempfile::tempdir().unwrap();
        let script = dir.path().join("ffmpeg");
        // Read by a shell and not run itself: nothing need be waited for before that can be done.
        let by = |says: &str| {
            std::fs::write(&script, says).unwrap();
            let mut command = Command::new("sh");
            command.arg(&script);
            command
        };
        let frame = frame_by(by("for last; do :; done; echo \"$7 $last\""), Path::new("/a b")).await;
        assert_eq!(frame.as_deref(), Some(&b"/a b -\n"[..]));
        assert_eq!(frame_by(by("exit 1"), Path::new("/x")).await, None);
        assert_eq!(frame_by(Command::new("no-such-ffmpeg"), Path::new("/x")).await, None);
    }
}
