//! Files of every kind, from what a caller gives to what is sent.

use ::base64::Engine as _;
use ::base64::engine::general_purpose::STANDARD;

use super::*;

fn media(limits: Limits) -> (Media, tempfile::TempDir) {
    let dir = tempfile::tempdir().unwrap();
    (Media::open(&dir.path().join("media"), watch::channel(limits).1, fetcher(), watch::channel(false).1).unwrap(), dir)
}

fn fetcher() -> Fetcher {
    Fetcher::new(watch::channel(crate::net::Policy::default()).1, None)
}

fn png(width: u32, height: u32) -> Vec<u8> {
    let mut bytes = std::io::Cursor::new(Vec::new());
    image::DynamicImage::new_rgb8(width, height).write_to(&mut bytes, image::ImageFormat::Png).unwrap();
    bytes.into_inner()
}

#[tokio::test]
async fn a_picture_is_kept_byte_for_byte_and_looked_at() {
    let (media, _dir) = media(Limits::default());
    let content = png(40, 20);
    let text = format!("data:image/png;base64,{}", STANDARD.encode(&content));
    let attachment = media.take_base64(text, MediaHints::default()).await.unwrap();
    assert_eq!((attachment.kind, attachment.mimetype.as_str()), (MediaKind::Image, "image/png"));
    assert_eq!((attachment.width, attachment.height, attachment.size), (Some(40), Some(20), content.len() as u64));
    assert_eq!(std::fs::read(media.path(attachment.hash)).unwrap(), content);
    assert!(media.thumbnail(&attachment).await.unwrap().starts_with(&[0xff, 0xd8]));
    let again = media.stored(attachment.hash).await.unwrap();
    assert_eq!(media.describe(again, MediaHints::default()).await.unwrap(), attachment);
}

#[tokio::test]
async fn each_kind_has_its_limit() {
    let (media, dir) = media(Limits { media: 100, document: 2_000, download: 1 });
    let small = |bytes: &[u8]| media.take_base64(STANDARD.encode(bytes), MediaHints::default());
    let picture = png(120, 120);
    assert!(picture.len() > 100 && picture.len() < 2_000);
    let error = small(&picture).await.unwrap_err().to_string();
    assert!(error.contains("100") && error.contains("media.max_size") && error.contains("document"), "{error}");
    let hints = MediaHints { document: true, ..MediaHints::default() };
    let document = media.take_base64(STANDARD.encode(&picture), hints).await.unwrap();
    assert_eq!((document.kind, document.filename.as_deref()), (MediaKind::Document, Some("file.png")));
    let error = small(&[b'x'; 2_001]).await.unwrap_err();
    assert!(matches!(error, MediaError::TooLarge { limit: 2_000, .. }), "{error}");
    assert!(matches!(small(b"").await, Err(MediaError::Empty)));
    let left = std::fs::read_dir(dir.path().join("media")).unwrap();
    assert!(left.into_iter().all(|file| file.unwrap().path().extension().is_none()), "nothing half-written");
}

#[tokio::test]
async fn a_file_that_is_gone_is_told() {
    let (media, _dir) = media(Limits::default());
    assert!(matches!(media.stored(MediaHash([1; 32])).await, Err(MediaError::Gone)));
}

#[tokio::test]
async fn a_crash_leaves_nothing_half_written() {
    let (media, dir) = media(Limits::default());
    let mut writer = media.writer().unwrap();
    writer.write(b"half").unwrap();
    let copy = dir.path().join("media/7.new");
    std::fs::copy(writer.path(), &copy).unwrap();
    drop(writer);
    let reopened =
        Media::open(&dir.path().join("media"), watch::channel(Limits::default()).1, fetcher(), watch::channel(false).1)
            .unwrap();
    assert_eq!(std::fs::read_dir(dir.path().join("media")).unwrap().count(), 0);
    drop(reopened);
}
