//! What the HTTP door is told while it runs.

use std::collections::HashSet;
use std::net::IpAddr;
use std::num::NonZeroU32;

use ipnet::IpNet;

/// The settings under `http.`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct HttpSettings {
    /// Which web pages may call the API from a browser.
    pub cors: CorsOrigins,
    /// How many requests one API key may make.
    pub per_key: Option<RateLimit>,
    /// How many requests one address may make.
    pub per_address: Option<RateLimit>,
    /// Whose word on the caller's address counts.
    pub trusted_proxies: Vec<IpNet>,
}

impl HttpSettings {
    /// Whether the proxy at this address is believed.
    #[must_use]
    pub fn trusts(&self, proxy: IpAddr) -> bool {
        self.trusted_proxies.iter().any(|net| net.contains(&proxy))
    }
}

/// Which web pages may call the API from a browser.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum CorsOrigins {
    /// None; the browser is told nothing.
    #[default]
    Off,
    /// All.
    Any,
    /// Those of these origins, in small letters.
    Only(HashSet<String>),
}

impl CorsOrigins {
    /// `*`, or origins divided by commas or line ends; nothing is off.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let mut only = HashSet::new();
        let mut any = false;
        for item in items(text) {
            match item {
                "*" => any = true,
                _ => drop(only.insert(origin(item)?)),
            }
        }
        Some(match (any, only.is_empty()) {
            (true, _) => Self::Any,
            (false, true) => Self::Off,
            (false, false) => Self::Only(only),
        })
    }
}

/// `https://example.com`, `http://localhost:3000`: what a browser writes as a page's origin.
fn origin(text: &str) -> Option<String> {
    let (scheme, host) = text.split_once("://")?;
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | '_' | ':' | '[' | ']');
    let fits = !host.is_empty() && host.chars().all(plain);
    (fits && !scheme.is_empty() && scheme.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '+' | '.')))
        .then(|| text.to_ascii_lowercase())
}

/// So many requests a minute, and so many of them at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RateLimit {
    /// In the long run.
    pub per_minute: NonZeroU32,
    /// At once, after a rest; at most `per_minute`.
    pub burst: NonZeroU32,
}

impl RateLimit {
    /// So many a minute, all of them at once after a rest.
    #[must_use]
    pub const fn per_minute(number: NonZeroU32) -> Self {
        Self { per_minute: number, burst: number }
    }

    /// `60`, or `60:10` for at most 10 at once.
    pub(super) fn parse(text: &str) -> Option<Self> {
        const MOST: u32 = 1_000_000;
        let (number, burst) = text.split_once(':').unwrap_or((text, text));
        let per_minute: NonZeroU32 = number.parse().ok().filter(|number: &NonZeroU32| number.get() <= MOST)?;
        let burst: NonZeroU32 = burst.parse().ok().filter(|burst| *burst <= per_minute)?;
        Some(Self { per_minute, burst })
    }
}

/// Addresses and networks such as `10.0.0.0/8`, divided by commas or line ends.
pub(super) fn networks(text: &str) -> Option<Vec<IpNet>> {
    items(text).map(|item| item.parse().ok().or_else(|| item.parse::<IpAddr>().ok().map(IpNet::from))).collect()
}

fn items(text: &str) -> impl Iterator<Item = &str> {
    text.split([',', '\n']).map(str::trim).filter(|item| !item.is_empty())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn origins_are_written_as_browsers_do() {
        assert_eq!(CorsOrigins::parse(" "), Some(CorsOrigins::Off));
        assert_eq!(CorsOrigins::parse("https://a.example,*"), Some(CorsOrigins::Any));
        let only = CorsOrigins::parse("https://Shop.example, http://localhost:3000\nchrome-extension://abc").unwrap();
        let CorsOrigins::Only(only) = only else { panic!("{only:?}") };
        assert!(only.contains("https://shop.example") && only.contains("http://localhost:3000") && only.len() == 3);
        for wrong in ["shop.example", "https://", "https://a/", "https://a/b", "https://a b", "null"] {
            assert_eq!(CorsOrigins::parse(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn rates_are_requests_a_minute() {
        let rate = |text| RateLimit::parse(text).map(|rate| (rate.per_minute.get(), rate.burst.get()));
        assert_eq!(rate("60"), Some((60, 60)));
        assert_eq!(rate("60:10"), Some((60, 10)));
        for wrong in ["", "0", "-1", "60:0", "60:61", "60:", ":", "1.5", "1000001", "60/10"] {
            assert_eq!(rate(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn proxies_are_addresses_and_networks() {
        let settings = HttpSettings {
            trusted_proxies: networks("127.0.0.1, 10.0.0.0/8, fd00::/8").unwrap(),
            ..HttpSettings::default()
        };
        for (address, trusted) in
            [("127.0.0.1", true), ("127.0.0.2", false), ("10.9.8.7", true), ("fd12::1", true), ("fe80::1", false)]
        {
            assert_eq!(settings.trusts(address.parse().unwrap()), trusted, "{address}");
        }
        assert!(networks("").unwrap().is_empty() && networks("proxy.example").is_none() && networks("10/8").is_none());
    }
}
