//! How values are written.

use std::collections::HashSet;
use std::time::Duration;

use jiff::civil::Time;
use jiff::tz::TimeZone;

use super::{AllowList, QuietHours, folded};
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

/// `1000`, `500KiB`, `16MiB`, from one byte to 2 GiB.
pub(super) fn size(text: &str) -> Option<u64> {
    const LARGEST: u64 = 2 << 30;
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let number: u64 = number.parse().ok()?;
    let shift = match unit.trim() {
        "" | "B" => 0,
        "KiB" => 10,
        "MiB" => 20,
        "GiB" => 30,
        _ => return None,
    };
    number.checked_mul(1 << shift).filter(|size| (1..=LARGEST).contains(size))
}

/// What messages with a file are called in the journal.
const MEDIA_KINDS: [&str; 6] = ["image", "video", "audio", "ptt", "document", "sticker"];

/// `off`, `all`, or kinds divided by commas.
pub(super) fn media_kinds(text: &str) -> Option<Vec<&'static str>> {
    match text {
        "off" | "false" => return Some(Vec::new()),
        "all" | "true" => return Some(MEDIA_KINDS.to_vec()),
        _ => {}
    }
    let mut kinds = Vec::new();
    for word in text.split(',').map(str::trim).filter(|word| !word.is_empty()) {
        let kind = MEDIA_KINDS.into_iter().find(|kind| *kind == word)?;
        if !kinds.contains(&kind) {
            kinds.push(kind);
        }
    }
    (!kinds.is_empty()).then_some(kinds)
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

/// Numbers of messages a day, divided by commas; nothing means none.
pub(super) fn warm_up(text: &str) -> Option<Vec<u64>> {
    const MOST_DAYS: usize = 90;
    let days = text.split(',').map(str::trim).filter(|day| !day.is_empty());
    let days: Option<Vec<u64>> =
        days.map(|day| day.parse().ok().filter(|most| (1..=MOST_A_DAY).contains(most))).collect();
    days.filter(|days| days.len() <= MOST_DAYS)
}

/// More messages a day than any account sends.
pub(super) const MOST_A_DAY: u64 = 1_000_000;

/// `22:00-07:00`.
pub(super) fn quiet_hours(text: &str) -> Option<QuietHours> {
    let (start, end) = text.split_once('-')?;
    let hours = QuietHours { start: time(start.trim())?, end: time(end.trim())? };
    (hours.start != hours.end).then_some(hours)
}

/// `07:00`.
fn time(text: &str) -> Option<Time> {
    let (hour, minute) = text.split_once(':')?;
    let is_two_digits = |part: &str| part.len() == 2 && part.bytes().all(|b| b.is_ascii_digit());
    let two_digits = |part: &str| part.parse::<i8>().ok().filter(|_| is_two_digits(part));
    Time::new(two_digits(hour)?, two_digits(minute)?, 0, 0).ok()
}

/// `Asia/Jakarta`.
pub(super) fn timezone(text: &str) -> Option<TimeZone> {
    TimeZone::get(text).ok()
}

/// Words divided by commas; nothing means none.
pub(super) fn words(text: &str) -> Option<Vec<String>> {
    const MOST: usize = 50;
    const LONGEST: usize = 100;
    let words: Vec<String> = text.split(',').map(folded).filter(|word| !word.is_empty()).collect();
    (words.len() <= MOST && words.iter().all(|word| word.len() <= LONGEST)).then_some(words)
}

/// An absolute URL of HTTP.
pub(super) fn url(text: &str) -> Option<String> {
    let parsed = reqwest::Url::parse(text).ok().filter(|_| text.len() <= 2048)?;
    (matches!(parsed.scheme(), "http" | "https") && parsed.has_host()).then(|| text.to_owned())
}
