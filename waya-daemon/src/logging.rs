//! Logs: to standard error, with every long number masked.
//!
//! Our own types mask themselves; this also covers what the libraries write, and can be turned off by nobody.

use std::io::{self, IsTerminal as _, Write};

use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::MakeWriter;

use crate::config::{DEFAULT_LOG_FILTER, LogFormat};

/// A run of at least so many digits is taken for somebody's number.
const LONG_NUMBER: usize = 8;

/// Values that the WhatsApp library writes as WhatsApp sent them: who has an account's appeal token speaks for it.
const SECRETS: [&[u8]; 1] = [b"appeal_token"];

/// Starts logging for the whole process, also of what libraries tell the `log` crate; a second call does nothing.
pub fn start(filter: &str, format: LogFormat) {
    let filter = EnvFilter::try_new(filter).unwrap_or_else(|_| EnvFilter::new(DEFAULT_LOG_FILTER));
    let colours = io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none();
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(Masked).with_ansi(colours);
    let _ = match format {
        LogFormat::Text => builder.with_target(false).try_init(),
        LogFormat::Json => builder.json().flatten_event(true).try_init(),
    };
}

/// Standard error behind the mask.
#[derive(Debug, Clone, Copy)]
struct Masked;

impl<'a> MakeWriter<'a> for Masked {
    type Writer = Masked;

    fn make_writer(&'a self) -> Self::Writer {
        Masked
    }
}

impl Write for Masked {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        io::stderr().lock().write_all(&mask(line))?;
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        io::stderr().flush()
    }
}

/// Leaves out what nobody else may know.
fn mask(line: &[u8]) -> Vec<u8> {
    let mut line = mask_numbers(line);
    for secret in SECRETS {
        hide(&mut line, secret);
    }
    line
}

/// Puts `***` for each value that follows `name=`, quoted or not.
fn hide(line: &mut Vec<u8>, name: &[u8]) {
    let mut from = 0;
    while let Some(found) = line[from..].windows(name.len()).position(|some| some == name) {
        let after = from + found + name.len();
        let skip = |start: usize, skips: &dyn Fn(&u8) -> bool| {
            start + line[start..].iter().take_while(|byte| skips(byte)).count()
        };
        let value = skip(after, &|byte| b"=:\\\"' ".contains(byte));
        let end = skip(value, &|byte| !b"\\\"',<>/ \n".contains(byte) || *byte == b'/');
        line.splice(value..end, *b"***");
        from = value + 3;
    }
}

/// Keeps the first four and the last two digits of every long number.
fn mask_numbers(line: &[u8]) -> Vec<u8> {
    let mut masked = Vec::with_capacity(line.len());
    let mut rest = line;
    while !rest.is_empty() {
        let digits = rest.iter().take_while(|b| b.is_ascii_digit()).count();
        if digits >= LONG_NUMBER {
            masked.extend_from_slice(&rest[..4]);
            masked.extend_from_slice("…".as_bytes());
            masked.extend_from_slice(&rest[digits - 2..digits]);
            rest = &rest[digits..];
        } else {
            let step = digits.max(1);
            masked.extend_from_slice(&rest[..step]);
            rest = &rest[step..];
        }
    }
    masked
}

#[cfg(test)]
mod tests {
    use super::mask;

    #[test]
    fn a_token_is_left_out_however_it_is_written() {
        for (written, quote) in
            [("appeal_token=", "\""), ("appeal_token=", "\\\""), ("appeal_token: ", "'"), ("appeal_token=", "")]
        {
            let line =
                format!("<failure reason={quote}403{quote} {written}{quote}AbC/+d9=_x{quote} b={quote}1{quote}/>\n");
            let expected =
                format!("<failure reason={quote}403{quote} {written}{quote}***{quote} b={quote}1{quote}/>\n");
            assert_eq!(String::from_utf8_lossy(&mask(line.as_bytes())), expected);
        }
    }

    #[test]
    fn numbers_are_masked_and_times_are_not() {
        let line = "2026-11-23T01:50:12.123456Z sent to 6281200000002@c.us in 1234567 ms";
        let masked = String::from_utf8_lossy(&mask(line.as_bytes())).into_owned();
        assert_eq!(masked, "2026-11-23T01:50:12.123456Z sent to 6281…02@c.us in 1234567 ms");
    }
}
