//! Writes answers: JSON for programs, aligned tables for people, colour only on a terminal.
//!
//! What came from others (texts, names) never reaches the terminal with its control characters.

use std::cell::OnceCell;
use std::fmt::{Display, Write as _};
use std::io::{self, IsTerminal as _, Write};

use jiff::tz::TimeZone;
use serde::Serialize;

/// A colour of the terminal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Colour {
    /// All is well.
    Green,
    /// Not yet.
    Yellow,
    /// Something is wrong.
    Red,
    /// Less important.
    Grey,
}

impl Colour {
    const fn code(self) -> &'static str {
        match self {
            Self::Green => "32",
            Self::Yellow => "33",
            Self::Red => "31",
            Self::Grey => "90",
        }
    }
}

/// One cell of a table.
#[derive(Debug, Clone)]
pub struct Cell {
    text: String,
    colour: Option<Colour>,
}

impl Cell {
    /// A cell in a colour.
    pub fn coloured(text: impl Display, colour: Colour) -> Self {
        Self { text: printable(&text.to_string()), colour: Some(colour) }
    }
}

impl<T: Display> From<T> for Cell {
    fn from(text: T) -> Self {
        Self { text: printable(&text.to_string()), colour: None }
    }
}

/// Where answers go, and in which dress.
pub struct Output {
    sink: Box<dyn Write>,
    /// JSON instead of tables.
    pub json: bool,
    /// No confirmations.
    pub quiet: bool,
    /// Colours may be used.
    pub colour: bool,
    /// Standard output is a terminal.
    pub terminal: bool,
    zone: OnceCell<TimeZone>,
}

impl Output {
    /// Standard output, buffered until the command or an event ends.
    pub fn stdout(json: bool, quiet: bool, no_colour: bool) -> Self {
        let stdout = io::stdout();
        let terminal = stdout.is_terminal();
        let forbidden = no_colour || std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        Self {
            sink: Box::new(io::BufWriter::new(stdout)),
            json,
            quiet,
            colour: terminal && !forbidden,
            terminal,
            zone: OnceCell::new(),
        }
    }

    /// One JSON document on a line of its own.
    pub fn json(&mut self, value: &impl Serialize) -> io::Result<()> {
        serde_json::to_writer(&mut self.sink, value).map_err(io::Error::from)?;
        self.sink.write_all(b"\n")?;
        self.sink.flush()
    }

    /// One line.
    pub fn line(&mut self, text: impl Display) -> io::Result<()> {
        writeln!(self.sink, "{text}")
    }

    /// A confirmation: left out when quiet.
    pub fn note(&mut self, text: impl Display) -> io::Result<()> {
        if self.quiet { Ok(()) } else { self.line(text) }
    }

    /// Text as it is, without an end of line.
    pub fn raw(&mut self, text: &str) -> io::Result<()> {
        self.sink.write_all(text.as_bytes())
    }

    /// Hands everything to the system.
    pub fn flush(&mut self) -> io::Result<()> {
        self.sink.flush()
    }

    /// Names and values, one pair a line.
    pub fn pairs(&mut self, pairs: Vec<(&str, Cell)>) -> io::Result<()> {
        let width = pairs.iter().map(|(name, _)| name.chars().count()).max().unwrap_or(0);
        for (name, cell) in pairs {
            let value = self.dressed(&cell);
            writeln!(self.sink, "{name:width$}  {value}")?;
        }
        Ok(())
    }

    /// Rows under headings; the last column is not padded.
    pub fn table(&mut self, headings: &[&str], rows: &[Vec<Cell>]) -> io::Result<()> {
        let mut widths: Vec<usize> = headings.iter().map(|heading| heading.chars().count()).collect();
        for row in rows {
            for (width, cell) in widths.iter_mut().zip(row) {
                *width = (*width).max(cell.text.chars().count());
            }
        }
        let head: Vec<Cell> = headings.iter().map(|heading| Cell::coloured(heading, Colour::Grey)).collect();
        for row in std::iter::once(&head).chain(rows) {
            let mut line = String::new();
            for (index, cell) in row.iter().enumerate() {
                line.push_str(&self.dressed(cell));
                if index + 1 < row.len() {
                    let missing = widths.get(index).copied().unwrap_or(0).saturating_sub(cell.text.chars().count());
                    let _ = write!(line, "{:missing$}  ", "");
                }
            }
            self.line(line.trim_end())?;
        }
        Ok(())
    }

    fn dressed(&self, cell: &Cell) -> String {
        match cell.colour {
            Some(colour) if self.colour => format!("\x1b[{}m{}\x1b[0m", colour.code(), cell.text),
            _ => cell.text.clone(),
        }
    }

    /// A time (milliseconds since the Unix epoch) on the user's clock.
    pub fn time(&self, millis: i64) -> String {
        let zone = self.zone.get_or_init(TimeZone::system);
        jiff::Timestamp::from_millisecond(millis).map_or_else(
            |_| millis.to_string(),
            |time| time.to_zoned(zone.clone()).strftime("%Y-%m-%d %H:%M:%S").to_string(),
        )
    }
}

/// The text with everything that would steer a terminal shown instead of obeyed, on one line.
pub fn printable(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '\n' => shown.push('⏎'),
            '\t' => shown.push(' '),
            // Direction overrides would reorder what stands after them.
            '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' => {}
            _ if c.is_control() => shown.extend(c.escape_default()),
            _ => shown.push(c),
        }
    }
    shown
}

#[cfg(test)]
pub mod testing {
    //! An output whose text can be looked at.

    use super::{OnceCell, Output, TimeZone, Write, io};
    use std::cell::RefCell;
    use std::rc::Rc;

    #[derive(Clone, Default)]
    pub struct Written(Rc<RefCell<Vec<u8>>>);

    impl Written {
        pub fn text(&self) -> String {
            String::from_utf8(self.0.borrow().clone()).unwrap()
        }
    }

    impl Write for Written {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.borrow_mut().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    /// Tables in UTC, without colour.
    pub fn output(json: bool) -> (Output, Written) {
        let written = Written::default();
        let zone = OnceCell::from(TimeZone::UTC);
        let sink = Box::new(written.clone());
        (Output { sink, json, quiet: false, colour: false, terminal: false, zone }, written)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_are_aligned_with_and_without_colour() {
        let rows = vec![
            vec![Cell::from("6281200000002"), Cell::coloured("sent", Colour::Green), Cell::from("Halo")],
            vec![Cell::from("Ü"), Cell::coloured("cancelled", Colour::Grey), Cell::from("")],
        ];
        let (mut output, written) = testing::output(false);
        output.table(&["TO", "STATUS", "TEXT"], &rows).unwrap();
        insta::assert_snapshot!(written.text(), @r"
        TO             STATUS     TEXT
        6281200000002  sent       Halo
        Ü              cancelled
        ");
        let (mut output, written) = testing::output(false);
        output.colour = true;
        output.table(&["TO", "STATUS"], &rows[..1].iter().map(|row| row[..2].to_vec()).collect::<Vec<_>>()).unwrap();
        assert_eq!(
            written.text(),
            "\x1b[90mTO\x1b[0m             \x1b[90mSTATUS\x1b[0m\n6281200000002  \x1b[32msent\x1b[0m\n"
        );
    }

    #[test]
    fn texts_of_others_do_not_steer_the_terminal() {
        assert_eq!(printable("a\x1b[2J\u{9b}b\r\nc\u{202e}d é 日本"), "a\\u{1b}[2J\\u{9b}b\\r⏎cd é 日本");
    }

    #[test]
    fn times_are_shown_on_the_clock() {
        let (output, _) = testing::output(false);
        assert_eq!(output.time(1_700_000_000_000), "2023-11-14 22:13:20");
        assert_eq!(output.time(i64::MAX), i64::MAX.to_string());
    }
}
