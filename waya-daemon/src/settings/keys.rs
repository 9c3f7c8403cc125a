//! The table of settings, one row each.

use super::{SettingsError, Snapshot, http, parse};
use crate::net::HostPattern;

/// Writes a value's meaning into the snapshot; `None` when it does not fit.
type Apply = fn(&mut Snapshot, &str) -> Option<()>;

/// One known setting.
#[derive(Debug)]
pub(super) struct Key {
    pub(super) name: &'static str,
    /// As a user would write what [`Snapshot::default`] has; empty when there is none.
    pub(super) default: &'static str,
    pub(super) description: &'static str,
    /// What would fit, for refusals.
    expected: &'static str,
    pub(super) apply: Apply,
}

impl Key {
    /// Whether the value fits.
    pub(super) fn check(&'static self, value: &str) -> Result<(), SettingsError> {
        (self.apply)(&mut Snapshot::default(), value).ok_or_else(|| SettingsError::Invalid {
            key: self.name,
            value: value.to_owned(),
            expected: self.expected.to_owned(),
        })
    }
}

const SIZE: &str = "a size from 1 to 2GiB: 500KiB, 16MiB";
const RATE: &str = "0, requests a minute such as 60, or 60:10 for at most 10 at once; up to 1000000";
const DURATION: &str = "a duration: 0, 500ms, 5s, 10m, 2h or 1d";

pub(super) const KEYS: &[Key] = &[
    Key {
        name: "main_number",
        default: "",
        description: "the number that the recipient `main` stands for",
        expected: "a number with country code such as 6282146727409, or a chat id; empty for none",
        apply: |snapshot, text| {
            snapshot.main_number = if text.is_empty() { None } else { Some(parse::chat(text)?) };
            Some(())
        },
    },
    Key {
        name: "allowed_numbers",
        default: "*",
        description: "whom messages may go to: * for anyone, or a list of numbers and group ids",
        expected: "*, or numbers with country code and group ids (…@g.us), comma-separated",
        apply: |snapshot, text| {
            snapshot.allowed = parse::allow_list(text)?;
            Some(())
        },
    },
    Key {
        name: "default_country",
        default: "",
        description: "country code for numbers written the national way: with 62, 0821… becomes 62821…",
        expected: "a country code of 1 to 3 digits such as 62; empty for none",
        apply: |snapshot, text| {
            snapshot.default_country = if text.is_empty() { None } else { Some(parse::country(text)?) };
            Some(())
        },
    },
    Key {
        name: "queue.delay",
        default: "5s",
        description: "the pause from one message to the next",
        expected: DURATION,
        apply: |snapshot, text| parse::duration(text).map(|value| snapshot.delay = value),
    },
    Key {
        name: "queue.jitter",
        default: "1s",
        description: "a random part of up to this is added to queue.delay",
        expected: DURATION,
        apply: |snapshot, text| parse::duration(text).map(|value| snapshot.jitter = value),
    },
    Key {
        name: "queue.reply_delay",
        default: "500ms",
        description: "the pause before an automatic reply, instead of queue.delay",
        expected: DURATION,
        apply: |snapshot, text| parse::duration(text).map(|value| snapshot.reply_delay = value),
    },
    Key {
        name: "queue.max_attempts",
        default: "5",
        description: "attempts before a message fails; waiting offline spends none",
        expected: "a number from 1 to 100",
        apply: |snapshot, text| {
            snapshot.max_attempts = text.parse().ok().filter(|attempts| (1..=100).contains(attempts))?;
            Some(())
        },
    },
    Key {
        name: "queue.max_age",
        default: "24h",
        description: "a message that waited longer than this offline or backing off fails; 0 = never",
        expected: DURATION,
        apply: |snapshot, text| parse::duration(text).map(|value| snapshot.max_age = value),
    },
    Key {
        name: "queue.daily_cap",
        default: "0",
        description: "the most messages a day that you start, answers excepted; 0 = any number",
        expected: "a number from 0 to 1000000",
        apply: |snapshot, text| {
            snapshot.daily_cap = text.parse().ok().filter(|most| *most <= parse::MOST_A_DAY)?;
            Some(())
        },
    },
    Key {
        name: "queue.warm_up",
        default: "",
        description: "the most of them on the first, second, … day since the account was linked: 20,40,80",
        expected: "numbers from 1 to 1000000, at most 90, comma-separated; empty for none",
        apply: |snapshot, text| parse::warm_up(text).map(|value| snapshot.warm_up = value),
    },
    Key {
        name: "queue.quiet_hours",
        default: "",
        description: "when nothing leaves but answers: 22:00-07:00",
        expected: "HH:MM-HH:MM such as 22:00-07:00, of two different times; empty for none",
        apply: |snapshot, text| {
            snapshot.quiet_hours = if text.is_empty() { None } else { Some(parse::quiet_hours(text)?) };
            Some(())
        },
    },
    Key {
        name: "queue.recipient_gap",
        default: "0",
        description: "the least time between two messages to the same person, answers excepted",
        expected: DURATION,
        apply: |snapshot, text| parse::duration(text).map(|value| snapshot.recipient_gap = value),
    },
    Key {
        name: "timezone",
        default: "",
        description: "where days begin and hours count, such as Asia/Jakarta; empty = where this machine is",
        expected: "the name of a time zone such as Asia/Jakarta; empty for this machine's",
        apply: |snapshot, text| {
            snapshot.timezone = if text.is_empty() { None } else { Some(parse::timezone(text)?) };
            Some(())
        },
    },
    Key {
        name: "automation.opt_out_words",
        default: "",
        description: "who writes one of these gets nothing any more that you start: STOP,BERHENTI",
        expected: "words with commas between, at most 50 of 100 bytes; empty for none",
        apply: |snapshot, text| parse::words(text).map(|value| snapshot.opt_out_words = value),
    },
    Key {
        name: "automation.opt_in_words",
        default: "MULAI",
        description: "who writes one of these takes that back, while automation.opt_out_words has any",
        expected: "words with commas between, at most 50 of 100 bytes; empty for none",
        apply: |snapshot, text| parse::words(text).map(|value| snapshot.opt_in_words = value),
    },
    Key {
        name: "queue.ack_timeout",
        default: "20s",
        description: "how long WhatsApp's server may take to acknowledge a message before it is sent again",
        expected: "a duration from 1s to 10m",
        apply: |snapshot, text| {
            let value = parse::duration(text)?;
            (1..=600).contains(&value.as_secs()).then(|| snapshot.ack_timeout = value)
        },
    },
    Key {
        name: "queue.keep_days",
        default: "30",
        description: "finished messages are kept for so many days …",
        expected: "a number of days from 0 to 3650",
        apply: |snapshot, text| {
            let days: u64 = text.parse().ok().filter(|days| *days <= 3650)?;
            snapshot.keep_age = std::time::Duration::from_hours(days * 24);
            Some(())
        },
    },
    Key {
        name: "queue.keep_newest",
        default: "100000",
        description: "… and the newest so many, whichever keeps more",
        expected: "a number from 0 to 10000000",
        apply: |snapshot, text| {
            snapshot.keep_newest = text.parse().ok().filter(|newest| *newest <= 10_000_000)?;
            Some(())
        },
    },
    Key {
        name: "queue.typing",
        default: "false",
        description: "let the chat see that somebody types, or records, for a few seconds before an answer leaves",
        expected: "true or false",
        apply: |snapshot, text| parse::boolean(text).map(|value| snapshot.typing = value),
    },
    Key {
        name: "queue.previews",
        default: "true",
        description: "fetch a preview of the first link in a text; in a sandbox only when network.allow_hosts names a host",
        expected: "true or false",
        apply: |snapshot, text| parse::boolean(text).map(|value| snapshot.previews = value),
    },
    Key {
        name: "media.max_size",
        default: "16MiB",
        description: "the largest picture, video or sound that is sent as such",
        expected: SIZE,
        apply: |snapshot, text| parse::size(text).map(|value| snapshot.max_media = value),
    },
    Key {
        name: "media.max_document_size",
        default: "100MiB",
        description: "the largest document that is sent",
        expected: SIZE,
        apply: |snapshot, text| parse::size(text).map(|value| snapshot.max_document = value),
    },
    Key {
        name: "media.max_download",
        default: "100MiB",
        description: "the largest file of an incoming message that is loaded",
        expected: SIZE,
        apply: |snapshot, text| parse::size(text).map(|value| snapshot.max_download = value),
    },
    Key {
        name: "media.auto_download",
        default: "off",
        description: "fetch files of incoming messages without being asked: off, all, or kinds such as image,ptt,document",
        expected: "off, all, or some of image, video, audio, ptt (voice notes), document, sticker, comma-separated",
        apply: |snapshot, text| parse::media_kinds(text).map(|value| snapshot.auto_download = value),
    },
    Key {
        name: "media.auto_download_size",
        default: "16MiB",
        description: "the largest file that is fetched without being asked",
        expected: SIZE,
        apply: |snapshot, text| parse::size(text).map(|value| snapshot.auto_download_size = value),
    },
    Key {
        name: "media.keep_days",
        default: "30",
        description: "files are kept for so many days after their last use",
        expected: "a number of days from 0 to 3650",
        apply: |snapshot, text| {
            let days: u64 = text.parse().ok().filter(|days| *days <= 3650)?;
            snapshot.keep_media = std::time::Duration::from_hours(days * 24);
            Some(())
        },
    },
    Key {
        name: "presence.online",
        default: "false",
        description: "show the account as online; the owner's phone gets fewer notifications then",
        expected: "true or false",
        apply: |snapshot, text| parse::boolean(text).map(|value| snapshot.presence_online = value),
    },
    Key {
        name: "network.allow_private",
        default: "false",
        description: "let URLs of callers, pages and scripts lead to loopback, private and other inner addresses",
        expected: "true or false",
        apply: |snapshot, text| parse::boolean(text).map(|value| snapshot.network.allow_private = value),
    },
    Key {
        name: "network.allow_hosts",
        default: "",
        description: "hosts that such URLs may lead to though their addresses are inner ones",
        expected: HostPattern::EXPECTED,
        apply: |snapshot, text| parse::hosts(text).map(|hosts| snapshot.network.allow_hosts = hosts),
    },
    Key {
        name: "network.deny_hosts",
        default: "",
        description: "hosts that nothing is fetched from or sent to, whatever else is allowed; webhooks too",
        expected: HostPattern::EXPECTED,
        apply: |snapshot, text| parse::hosts(text).map(|hosts| snapshot.network.deny_hosts = hosts),
    },
    Key {
        name: "alerts.command",
        default: "",
        description: "a command line that is run when something needs you, with the event as JSON on standard input",
        expected: "a command line for sh of at most 4096 bytes; empty for none",
        apply: |snapshot, text| {
            snapshot.alerts_command = Some(text.to_owned()).filter(|text| !text.is_empty());
            (text.len() <= 4096 && !text.contains('\0')).then_some(())
        },
    },
    Key {
        name: "alerts.webhook",
        default: "",
        description: "a URL that the same event is posted to",
        expected: "an http:// or https:// URL of at most 2048 bytes; empty for none",
        apply: |snapshot, text| {
            snapshot.alerts_webhook = if text.is_empty() { None } else { Some(parse::url(text)?) };
            Some(())
        },
    },
    Key {
        name: "http.cors_origins",
        default: "",
        description: "web pages that may call the API from a browser: their origins, or * for all; empty for none",
        expected: "*, or origins such as https://shop.example, comma-separated; empty for none",
        apply: |snapshot, text| http::CorsOrigins::parse(text).map(|value| snapshot.http.cors = value),
    },
    Key {
        name: "http.rate_limit_per_key",
        default: "0",
        description: "requests a minute of one API key, 60:10 for at most 10 of them at once; 0 = no limit",
        expected: RATE,
        apply: |snapshot, text| {
            snapshot.http.per_key = if text == "0" { None } else { Some(http::RateLimit::parse(text)?) };
            Some(())
        },
    },
    Key {
        name: "alerts.offline_after",
        default: "10m",
        description: "no connection to WhatsApp for so long is an alert; 0 = never",
        expected: DURATION,
        apply: |snapshot, text| parse::duration(text).map(|value| snapshot.alerts_offline_after = value),
    },
    Key {
        name: "alerts.queue_age",
        default: "1h",
        description: "a message that could have left so long ago is an alert; 0 = never",
        expected: DURATION,
        apply: |snapshot, text| parse::duration(text).map(|value| snapshot.alerts_queue_age = value),
    },
    Key {
        name: "http.rate_limit_per_address",
        default: "0",
        description: "requests a minute from one address, 60:10 for at most 10 of them at once; 0 = no limit",
        expected: RATE,
        apply: |snapshot, text| {
            snapshot.http.per_address = if text == "0" { None } else { Some(http::RateLimit::parse(text)?) };
            Some(())
        },
    },
    Key {
        name: "http.trusted_proxies",
        default: "",
        description: "proxies whose X-Forwarded-For tells the caller's address: addresses and networks",
        expected: "addresses and networks such as 127.0.0.1, 10.0.0.0/8, comma-separated; empty for none",
        apply: |snapshot, text| http::networks(text).map(|value| snapshot.http.trusted_proxies = value),
    },
];

pub(super) fn find(name: &str) -> Option<&'static Key> {
    KEYS.iter().find(|key| key.name == name)
}

/// The keys of all settings, for whoever reads config files and the environment.
pub fn keys() -> impl Iterator<Item = &'static str> {
    KEYS.iter().map(|key| key.name)
}

/// Whether there is such a setting.
#[must_use]
pub fn is_known(key: &str) -> bool {
    find(key).is_some()
}

/// Whether a value fits its key.
///
/// # Errors
/// What was expected instead, as a fragment to follow "expected".
pub fn validate(key: &str, value: &str) -> Result<(), String> {
    let Some(found) = find(key) else {
        return Err(format!("one of the keys {}", keys().collect::<Vec<_>>().join(", ")));
    };
    found.check(value).map_err(|_| found.expected.to_owned())
}
