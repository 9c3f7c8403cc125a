//! How values are written.

use std::collections::HashSet;
use std::time::Duration;

use super::AllowList;
use crate::model::{ChatId, Recipient};
use crate::net::HostPattern;

/// `0`, `500ms`, `5s`, `10m`, `2h`, `1d`, up to ten years.
pub(super) fn duration(text: &str) -> Option<Duration> {
    const LONGEST: Duration = Duration::from_hours(10 * 366 * 24);
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let number: u64 = number.parse().ok()?;
    let millis: u64 = match unit {
        "" if number == 0 => 0,
        "ms" => 1,
        "s" => 1_000,
        "m" => 60_000,
        "h" => 3_600_000,
        "d" => 86_400_000,
        _ => return None,
    };
    Some(Duration::from_millis(number.checked_mul(millis)?)).filter(|duration| *duration <= LONGEST)
}

/// `true` or `false`.
pub(super) fn boolean(text: &str) -> Option<bool> {
    match text {
        "true" | "on" | "yes" | "1" => Some(true),
        "false" | "off" | "no" | "0" => Some(false),
        _ => None,
    }
}

/// One chat, with its country code written out: what `default_country` says may change.
pub(super) fn chat(text: &str) -> Option<ChatId> {
    match Recipient::parse(text, None) {
        Ok(Recipient::Chat(chat)) => Some(chat),
        _ => None,
    }
}

/// `*`, or chats divided by commas or line ends.
pub(super) fn allow_list(text: &str) -> Option<AllowList> {
    let mut chats = HashSet::new();
    let mut anyone = false;
    for item in text.split([',', '\n']).map(str::trim).filter(|item| !item.is_empty()) {
        if item == "*" {
            anyone = true;
        } else {
            chats.insert(chat(item)?);
        }
    }
    match (anyone, chats.is_empty()) {
        (true, _) => Some(AllowList::Anyone),
        (false, false) => Some(AllowList::Only(chats)),
        (false, true) => None,
    }
}

/// Hosts divided by commas or white space; none is fine.
pub(super) fn hosts(text: &str) -> Option<Vec<HostPattern>> {
    let items = text.split(|c: char| c == ',' || c.is_whitespace()).filter(|item| !item.is_empty());
    items.map(|item| item.parse().ok()).collect()
}

/// Country code digits: `62`, `+62`.
pub(super) fn country(text: &str) -> Option<String> {
    let digits = text.strip_prefix('+').unwrap_or(text);
    let fits =
        (1..=3).contains(&digits.len()) && digits.bytes().all(|b| b.is_ascii_digit()) && !digits.starts_with('0');
    fits.then(|| digits.to_owned())
}

/// An absolute URL of HTTP.
pub(super) fn url(text: &str) -> Option<String> {
    let parsed = reqwest::Url::parse(text).ok().filter(|_| text.len() <= 2048)?;
    (matches!(parsed.scheme(), "http" | "https") && parsed.has_host()).then(|| text.to_owned())
}
