//! The keys of the config file, one row each.

use super::{Config, ConfigError, Found, values};
use crate::net::Proxy;
use crate::settings;

/// Writes a value's meaning into the config; `None` when it does not fit.
type Apply = fn(&mut Config, &str) -> Option<()>;

struct Key {
    name: &'static str,
    expected: &'static str,
    apply: Apply,
}

const KEYS: &[Key] = &[
    Key {
        name: "http.addr",
        expected: "an ADDRESS:PORT such as 127.0.0.1:7200, or off",
        apply: |config, text| values::http_address(text).map(|address| config.http = address),
    },
    Key {
        name: "http.body_limit",
        expected: "a size from 1KiB to 1GiB, such as 4MiB",
        apply: |config, text| {
            let size = values::size(text).filter(|size| (1 << 10..=1 << 30).contains(size))?;
            config.http_body_limit = usize::try_from(size).ok()?;
            Some(())
        },
    },
    Key {
        name: "http.max_connections",
        expected: "a number from 1 to 65536",
        apply: |config, text| {
            let number = text.parse().ok().filter(|number| (1..=65_536).contains(number))?;
            config.http_max_connections = number;
            Some(())
        },
    },
    Key {
        name: "socket.path",
        expected: "a path",
        apply: |config, text| {
            // The flag and WAYA_SOCKET were read before and win.
            if config.socket.is_none() && !text.is_empty() {
                config.socket = Some(text.into());
            }
            (!text.is_empty()).then_some(())
        },
    },
    Key {
        name: "socket.mode",
        expected: "octal permission bits that let the owner in, such as \"0600\" or \"0660\"",
        apply: |config, text| values::mode(text).map(|mode| config.socket_mode = mode),
    },
    Key {
        name: "socket.group",
        expected: "a group's name or number",
        apply: |config, text| (!text.is_empty()).then(|| config.socket_group = Some(text.to_owned())),
    },
    Key {
        name: "log.format",
        expected: "text or json",
        apply: |config, text| values::log_format(text).map(|format| config.log_format = format),
    },
    Key {
        name: "log.filter",
        expected: "a filter such as info, or info,waya_daemon=debug",
        apply: |config, text| {
            tracing_subscriber::EnvFilter::try_new(text).ok()?;
            text.clone_into(&mut config.log_filter);
            Some(())
        },
    },
    Key {
        name: "whatsapp.version",
        expected: "three numbers such as 2.3000.1015901307",
        apply: |config, text| values::version(text).map(|version| config.whatsapp_version = Some(version)),
    },
    Key {
        name: "store.cache",
        expected: "a size from 1MiB to 16GiB, such as 16MiB",
        apply: |config, text| {
            config.store_cache = values::size(text).filter(|size| (1 << 20..=16 << 30).contains(size))?;
            Some(())
        },
    },
    Key {
        name: "store.min_free",
        expected: "a size, such as 64MiB",
        apply: |config, text| values::size(text).map(|size| config.store_min_free = size),
    },
];

/// The one key whose value may hold a password: refusals say what is wrong and do not repeat it.
const PROXY: &str = "network.proxy";

/// All keys a config file may hold: the process's own and the live settings.
pub(super) fn names() -> impl Iterator<Item = &'static str> {
    KEYS.iter().map(|key| key.name).chain([PROXY]).chain(settings::keys())
}

/// Takes one value over.
pub(super) fn apply(config: &mut Config, found: Found) -> Result<(), ConfigError> {
    let wrong = |found: Found, expected: String| ConfigError::Value {
        place: found.origin,
        key: found.key,
        value: found.value,
        expected,
    };
    if let Some(key) = KEYS.iter().find(|key| key.name == found.key) {
        return match (key.apply)(config, &found.value) {
            Some(()) => Ok(()),
            None => Err(wrong(found, key.expected.to_owned())),
        };
    }
    if found.key == PROXY {
        let proxy = Proxy::parse(&found.value);
        config.network_proxy =
            Some(proxy.map_err(|cause| ConfigError::Proxy { place: found.origin, key: found.key, cause })?);
        return Ok(());
    }
    if settings::is_known(&found.key) {
        if let Err(expected) = settings::validate(&found.key, &found.value) {
            return Err(wrong(found, expected));
        }
        config.pins.retain(|pin| pin.key != found.key);
        config.pins.push(settings::Pin { key: found.key, value: found.value, origin: found.origin });
        return Ok(());
    }
    let hint = hint(&found.key);
    Err(ConfigError::UnknownKey { place: found.origin, key: found.key, hint })
}

/// The nearest known key, for a slip of the fingers; else all keys of the section.
fn hint(key: &str) -> String {
    let near = names().map(|name| (distance(name, key), name)).min().filter(|(distance, _)| *distance <= 2);
    if let Some((_, name)) = near {
        return format!("; did you mean {name}?");
    }
    let section = key.split_once('.').map(|(section, _)| section);
    let of_section: Vec<_> =
        names().filter(|name| name.split_once('.').map(|(section, _)| section) == section).collect();
    let known = if of_section.is_empty() { names().collect() } else { of_section };
    format!("; known keys: {}", known.join(", "))
}

/// Levenshtein's distance, over bytes: keys are short and ASCII.
fn distance(a: &str, b: &str) -> usize {
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.bytes().enumerate() {
        let mut diagonal = i;
        row[0] = i + 1;
        for (j, y) in b.bytes().enumerate() {
            let next = (diagonal + usize::from(x != y)).min(row[j] + 1).min(row[j + 1] + 1);
            diagonal = row[j + 1];
            row[j + 1] = next;
        }
    }
    row[b.len()]
}
