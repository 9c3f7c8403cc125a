//! Where a message's text comes from: the command line, or standard input.

use std::io::{self, IsTerminal as _, Read};

use crate::error::CliError;
use crate::exit_code::ExitCode;

/// More bytes than any text that WhatsApp takes.
const MAX_INPUT: u64 = 1 << 20;

/// The text given, or standard input for `-` and for no text when nobody types there.
pub fn resolve(given: Option<String>) -> Result<String, CliError> {
    match given {
        Some(text) if text != "-" => Ok(text),
        None if io::stdin().is_terminal() => {
            Err(CliError::usage("there is no text", "give it after the recipient: waya send TO \"TEXT\""))
        }
        _ => read(io::stdin().lock()),
    }
}

/// Byte for byte, but for one line end at the very end: `echo Halo | waya send …` means `Halo`.
fn read(input: impl Read) -> Result<String, CliError> {
    let mut bytes = Vec::new();
    input.take(MAX_INPUT + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > MAX_INPUT {
        return Err(refused("standard input is longer than 1 MiB", "WhatsApp takes at most 65,536 characters"));
    }
    let mut text = String::from_utf8(bytes).map_err(|error| {
        refused(
            format!("standard input is not valid UTF-8 (byte {})", error.utf8_error().valid_up_to()),
            "convert it first, e.g. with `iconv -t UTF-8`",
        )
    })?;
    if text.ends_with('\n') {
        text.pop();
        if text.ends_with('\r') {
            text.pop();
        }
    }
    Ok(text)
}

fn refused(message: impl Into<String>, hint: &str) -> CliError {
    CliError::new(ExitCode::Refused, message, hint)
}

/// Words after the text: it was not quoted.
pub fn no_stray(rest: &[String], command: &str, text: Option<&str>) -> Result<(), CliError> {
    let Some(stray) = rest.first() else { return Ok(()) };
    let words: Vec<&str> = text.into_iter().chain(rest.iter().map(String::as_str)).collect();
    Err(CliError::usage(
        format!("unexpected argument {stray:?}"),
        format!("put the text in quotes: {command} {:?}", words.join(" ")),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn input_is_the_text_but_for_one_line_end() {
        for (input, text) in [
            ("Halo\n", "Halo"),
            ("Halo\r\n", "Halo"),
            ("Halo", "Halo"),
            (" a \n\n", " a \n"),
            ("\n", ""),
            ("", ""),
            ("a\nb\n", "a\nb"),
            ("a\0b\u{200b}\t", "a\0b\u{200b}\t"),
        ] {
            assert_eq!(read(input.as_bytes()).unwrap(), text, "{input:?}");
        }
    }

    #[test]
    fn input_that_cannot_go_out_is_refused() {
        let error = read(&b"ab\xff"[..]).unwrap_err();
        assert_eq!(error.exit_code(), ExitCode::Refused);
        assert_eq!(error.to_string(), "standard input is not valid UTF-8 (byte 2)");
        assert_eq!(read(io::repeat(b'x')).unwrap_err().exit_code(), ExitCode::Refused);
    }

    #[test]
    fn stray_words_suggest_quotes() {
        let rest = ["dunia".to_owned(), "ini".to_owned()];
        let error = no_stray(&rest, "waya send 628", Some("Halo")).unwrap_err();
        assert_eq!(error.exit_code(), ExitCode::Usage);
        assert_eq!(error.to_string(), "unexpected argument \"dunia\"");
        assert_eq!(error.hint(), Some("put the text in quotes: waya send 628 \"Halo dunia ini\""));
        assert!(no_stray(&[], "waya send 628", Some("Halo")).is_ok());
    }
}
