//! How values are written: addresses, sizes, modes, versions.

use std::net::SocketAddr;

/// Where HTTP is served.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HttpAddress {
    /// Nowhere.
    Off,
    /// On this address; port 0 picks one.
    At(SocketAddr),
}

/// How logs are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

pub(super) fn http_address(text: &str) -> Option<HttpAddress> {
    match text {
        "off" => Some(HttpAddress::Off),
        _ => text
            .strip_prefix("localhost:")
            .map_or_else(|| text.parse().ok(), |port| Some(SocketAddr::from(([127, 0, 0, 1], port.parse().ok()?))))
            .map(HttpAddress::At),
    }
}

pub(super) fn log_format(text: &str) -> Option<LogFormat> {
    match text {
        "text" => Some(LogFormat::Text),
        "json" => Some(LogFormat::Json),
        _ => None,
    }
}

/// `16MiB`, `64KiB`, `1GiB`, `4096`.
pub(super) fn size(text: &str) -> Option<u64> {
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let factor: u64 = match unit.trim() {
        "" | "B" => 1,
        "KiB" => 1 << 10,
        "MiB" => 1 << 20,
        "GiB" => 1 << 30,
        _ => return None,
    };
    number.parse::<u64>().ok()?.checked_mul(factor)
}

/// Octal permission bits that let the owner in: `0600`, `660`.
pub(super) fn mode(text: &str) -> Option<u32> {
    u32::from_str_radix(text.trim_start_matches("0o"), 8).ok().filter(|mode| *mode <= 0o777 && mode & 0o600 == 0o600)
}

/// `2.3000.1015901307`; a version without a revision is what WhatsApp turns away.
pub(super) fn version(text: &str) -> Option<(u32, u32, u32)> {
    let mut parts = text.split('.').map(|part| part.parse().ok());
    let version = (parts.next()??, parts.next()??, parts.next()??);
    (parts.next().is_none() && version.2 > 0).then_some(version)
}
