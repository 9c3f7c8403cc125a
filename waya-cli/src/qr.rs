//! Draws a QR code with half blocks: two rows of modules a line.

use qrcode::{Color, EcLevel, QrCode};

/// Light modules around the code; scanners want some.
const QUIET: usize = 2;

/// The lines of the code. In colour it is black on white, whatever the terminal's theme; without colour light modules
/// are drawn, as if the terminal was dark. `None` when the text does not fit into a code.
pub fn lines(text: &str, colour: bool) -> Option<Vec<String>> {
    let code = QrCode::with_error_correction_level(text, EcLevel::L).ok()?;
    let (width, modules) = (code.width(), code.to_colors());
    let dark = |row: usize, column: usize| {
        let inside = |at: usize| at.checked_sub(QUIET).filter(|at| *at < width);
        inside(row)
            .zip(inside(column))
            .and_then(|(row, column)| modules.get(row * width + column))
            .is_some_and(|module| *module == Color::Dark)
    };
    let size = width + 2 * QUIET;
    let line = |row: usize| {
        let blocks: String = (0..size)
            .map(|column| match (dark(row, column) == colour, dark(row + 1, column) == colour) {
                (true, true) => '█',
                (true, false) => '▀',
                (false, true) => '▄',
                (false, false) => ' ',
            })
            .collect();
        if colour { format!("\x1b[30;107m{blocks}\x1b[0m") } else { blocks }
    };
    Some((0..size).step_by(2).map(line).collect())
}

#[cfg(test)]
mod tests {
    use super::lines;

    /// Reads the modules back from the drawing: `true` is dark.
    fn modules(drawn: &[String], block_is_dark: bool) -> Vec<Vec<bool>> {
        let mut rows = Vec::new();
        for line in drawn {
            let line = line.trim_start_matches("\x1b[30;107m").trim_end_matches("\x1b[0m");
            for full in [['█', '▀'], ['█', '▄']] {
                rows.push(line.chars().map(|c| full.contains(&c) == block_is_dark).collect());
            }
        }
        rows
    }

    #[test]
    fn the_drawing_holds_the_code_in_both_dresses() {
        let text = format!("2@{}", "abcDEF0123+/=".repeat(18));
        let plain = modules(&lines(&text, false).unwrap(), false);
        let coloured = modules(&lines(&text, true).unwrap(), true);
        let code = qrcode::QrCode::with_error_correction_level(&text, qrcode::EcLevel::L).unwrap();
        assert!(code.width() + 4 <= 80, "does not fit a terminal of 80 columns");
        for drawn in [plain, coloured] {
            for (y, row) in drawn.iter().enumerate().take(code.width() + 4) {
                for (x, dark) in row.iter().enumerate() {
                    let inside = (2..code.width() + 2).contains(&x) && (2..code.width() + 2).contains(&y);
                    let expected = inside && code[(x - 2, y - 2)] == qrcode::Color::Dark;
                    assert_eq!(*dark, expected, "{x},{y}");
                }
            }
        }
    }

    #[test]
    fn what_is_too_long_is_no_code() {
        assert!(lines(&"x".repeat(5_000), false).is_none());
    }
}
