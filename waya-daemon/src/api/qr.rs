//! A QR code as a picture.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use qrcode::{Color, QrCode};

/// Pixels a module; phones read it from a screen at arm's length.
const SCALE: usize = 6;
/// Modules of white around it, as the standard asks.
const QUIET: usize = 4;

/// A black-and-white PNG in base64; `None` when the text does not fit into a QR code.
pub(super) fn png_base64(text: &str) -> Option<String> {
    let code = QrCode::new(text).ok()?;
    let modules = code.width();
    let side = (modules + 2 * QUIET) * SCALE;
    let dark = |x: usize, y: usize| {
        let (x, y) = ((x / SCALE).checked_sub(QUIET)?, (y / SCALE).checked_sub(QUIET)?);
        (x < modules && y < modules).then(|| code[(x, y)] == Color::Dark)
    };
    let mut rows = Vec::with_capacity(side * side.div_ceil(8));
    for y in 0..side {
        for byte in 0..side.div_ceil(8) {
            let light = |bit: usize| u8::from(dark(byte * 8 + bit, y) != Some(true));
            rows.push((0..8).fold(0, |bits, bit| bits << 1 | light(bit)));
        }
    }
    let mut picture = Vec::new();
    let pixels = u32::try_from(side).ok()?;
    let mut encoder = png::Encoder::new(&mut picture, pixels, pixels);
    encoder.set_color(png::ColorType::Grayscale);
    encoder.set_depth(png::BitDepth::One);
    encoder.write_header().ok()?.write_image_data(&rows).ok()?;
    Some(STANDARD.encode(picture))
}
