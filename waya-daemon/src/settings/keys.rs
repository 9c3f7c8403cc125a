//! The table of settings, one row each.

use super::{SettingsError, Snapshot, http, parse};

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
        name: "presence.online",
        default: "false",
        description: "show the account as online; the owner's phone gets fewer notifications then",
        expected: "true or false",
        apply: |snapshot, text| parse::boolean(text).map(|value| snapshot.presence_online = value),
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
