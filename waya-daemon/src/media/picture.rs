//! Pictures: their size, and a small picture of them for the recipient to see before it is loaded.
//!
//! A picture that cannot be decoded goes without; what decodes to more than fits the limits here is not decoded.

use std::fs::File;
use std::io::BufReader;
use std::path::Path;

use image::codecs::jpeg::JpegEncoder;
use image::{DynamicImage, ImageDecoder, ImageReader, Limits};

use crate::model::MediaKind;

/// The longer side of the small picture, in pixels, as WhatsApp Web makes it.
const SIDE: u32 = 100;
/// JPEG quality of the small picture.
const QUALITY: u8 = 60;
/// The most memory that decoding may take.
const MEMORY: u64 = 96 << 20;
/// The longest side that is decoded, in pixels.
const LONGEST_SIDE: u32 = 12_000;

/// Width and height as people see it, turned as the camera says. Blocks.
pub(super) fn size_of(path: &Path) -> Option<(u32, u32)> {
    let mut decoder = reader(path)?.into_decoder().ok()?;
    let (width, height) = decoder.dimensions();
    let is_turned = decoder.orientation().is_ok_and(|orientation| {
        use image::metadata::Orientation as O;
        matches!(orientation, O::Rotate90 | O::Rotate270 | O::Rotate90FlipH | O::Rotate270FlipH)
    });
    Some(if is_turned { (height, width) } else { (width, height) })
}

/// A small picture as JPEG. Blocks.
pub(super) fn thumbnail_of(path: &Path, kind: MediaKind) -> Option<Vec<u8>> {
    if kind != MediaKind::Image {
        return None;
    }
    small(reader(path)?.into_decoder().ok()?)
}

/// The same of a picture in memory. Blocks.
pub(super) fn thumbnail(bytes: &[u8]) -> Option<Vec<u8>> {
    let mut reader = ImageReader::new(std::io::Cursor::new(bytes)).with_guessed_format().ok()?;
    reader.limits(limits());
    small(reader.into_decoder().ok()?)
}

fn small(mut decoder: impl ImageDecoder) -> Option<Vec<u8>> {
    let orientation = decoder.orientation().ok();
    let mut picture = DynamicImage::from_decoder(decoder).ok()?.thumbnail(SIDE, SIDE);
    if let Some(orientation) = orientation {
        picture.apply_orientation(orientation);
    }
    let mut jpeg = Vec::new();
    // What one can see through is black in JPEG otherwise.
    let flat = DynamicImage::ImageRgb8(on_white(&picture));
    flat.write_with_encoder(JpegEncoder::new_with_quality(&mut jpeg, QUALITY)).ok()?;
    Some(jpeg)
}

fn reader(path: &Path) -> Option<ImageReader<BufReader<File>>> {
    let mut reader = ImageReader::open(path).ok()?.with_guessed_format().ok()?;
    reader.limits(limits());
    Some(reader)
}

fn limits() -> Limits {
    let mut limits = Limits::default();
    limits.max_alloc = Some(MEMORY);
    (limits.max_image_width, limits.max_image_height) = (Some(LONGEST_SIDE), Some(LONGEST_SIDE));
    limits
}

fn on_white(picture: &DynamicImage) -> image::RgbImage {
    let rgba = picture.to_rgba8();
    image::RgbImage::from_fn(rgba.width(), rgba.height(), |x, y| {
        let [red, green, blue, alpha] = rgba.get_pixel(x, y).0;
        let blend = |colour: u8| ((u16::from(colour) * u16::from(alpha) + 255 * (255 - u16::from(alpha))) / 255) as u8;
        image::Rgb([blend(red), blend(green), blend(blue)])
    })
}

#[cfg(test)]
mod tests {
    use image::{ImageFormat, Rgba, RgbaImage};

    use super::*;

    #[test]
    fn a_picture_has_a_size_and_a_small_one() {
        let dir = tempfile::tempdir().unwrap();
        for (name, format) in [("a.png", ImageFormat::Png), ("b.jpg", ImageFormat::Jpeg), ("c.webp", ImageFormat::WebP)]
        {
            let path = dir.path().join(name);
            let picture = DynamicImage::ImageRgba8(RgbaImage::from_pixel(640, 320, Rgba([200, 0, 0, 255])));
            let flat = DynamicImage::ImageRgb8(picture.to_rgb8());
            if format == ImageFormat::Jpeg { &flat } else { &picture }.save_with_format(&path, format).unwrap();
            assert_eq!(size_of(&path), Some((640, 320)), "{name}");
            let small = thumbnail_of(&path, MediaKind::Image).unwrap();
            assert!(small.starts_with(&[0xff, 0xd8]) && small.len() < 8 * 1024, "{name}: {}", small.len());
            let small = image::load_from_memory(&small).unwrap();
            assert_eq!((small.width(), small.height()), (SIDE, SIDE / 2), "{name}");
        }
    }

    #[test]
    fn what_cannot_be_decoded_goes_without() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x");
        std::fs::write(&path, b"\x89PNG\r\n\x1a\nbroken").unwrap();
        assert_eq!((size_of(&path), thumbnail_of(&path, MediaKind::Image)), (None, None));
    }
}
