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

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::{QUIET, SCALE, png_base64};
    use base64::Engine as _;

    #[test]
    fn the_picture_is_the_code_with_white_around_it() {
        let text = "2@abc,def,ghi";
        let picture = super::STANDARD.decode(png_base64(text).unwrap()).unwrap();
        let mut reader = png::Decoder::new(std::io::Cursor::new(picture)).read_info().unwrap();
        let mut rows = vec![0; reader.output_buffer_size().unwrap()];
        let info = reader.next_frame(&mut rows).unwrap();
        let code = qrcode::QrCode::new(text).unwrap();
        assert_eq!(info.width as usize, (code.width() + 2 * QUIET) * SCALE);
        let dark = |x: usize, y: usize| rows[y * info.line_size + x / 8] & (0x80 >> (x % 8)) == 0;
        let middle = |module: usize| (module + QUIET) * SCALE + SCALE / 2;
        for (x, y) in (0..code.width()).flat_map(|x| (0..code.width()).map(move |y| (x, y))) {
            assert_eq!(dark(middle(x), middle(y)), code[(x, y)] == qrcode::Color::Dark, "{x} {y}");
        }
        assert!((0..info.width as usize).all(|at| !dark(at, 0) && !dark(0, at)));
    }
}
