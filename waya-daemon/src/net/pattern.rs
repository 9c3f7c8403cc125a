//! What `network.allow_hosts` and `network.deny_hosts` are written with. Pure.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use ipnet::IpNet;
use reqwest::Url;

use super::address::wrapped;

/// Some hosts: a name, all names below one, or addresses.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HostPattern {
    /// This name and no other.
    Name(String),
    /// `*.example.com`: every name below, and not that name itself.
    Below(String),
    /// An address, or `10.0.0.0/8`: whatever is there, by whichever name.
    Net(IpNet),
}

/// The text names no hosts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("neither a host name, nor *.NAME, nor an address, nor a range such as 10.0.0.0/8")]
pub struct BadPattern;

impl HostPattern {
    /// What would fit.
    pub const EXPECTED: &str = "host names, *.example.com, addresses and ranges such as 10.0.0.0/8, comma-separated";

    /// Whether the host is meant by its name, or by the address that it is written as.
    #[must_use]
    pub fn names(&self, host: &Host) -> bool {
        match (self, host) {
            (Self::Name(name), Host::Name(host)) => name == host,
            (Self::Below(domain), Host::Name(host)) => {
                host.strip_suffix(domain.as_str()).is_some_and(|rest| rest.len() > 1 && rest.ends_with('.'))
            }
            (Self::Net(_), Host::Address(address)) => self.holds(*address),
            _ => false,
        }
    }

    /// Whether the address is meant, by whichever name it was found; an IPv4 address also when IPv6 is wrapped around.
    #[must_use]
    pub fn holds(&self, address: IpAddr) -> bool {
        let Self::Net(net) = self else { return false };
        let inner = match address {
            IpAddr::V6(address) => wrapped(address).map(IpAddr::V4),
            IpAddr::V4(_) => None,
        };
        net.contains(&address) || inner.is_some_and(|address| net.contains(&address))
    }
}

impl FromStr for HostPattern {
    type Err = BadPattern;

    fn from_str(text: &str) -> Result<Self, BadPattern> {
        let text = text.trim();
        if let Ok(net) = text.parse::<IpNet>() {
            return Ok(Self::Net(net.trunc()));
        }
        if let Some(domain) = text.strip_prefix("*.") {
            return match Host::parse(domain) {
                Some(Host::Name(domain)) => Ok(Self::Below(domain)),
                _ => Err(BadPattern),
            };
        }
        match Host::parse(text) {
            Some(Host::Name(name)) => Ok(Self::Name(name)),
            Some(Host::Address(address)) => Ok(Self::Net(address.into())),
            None => Err(BadPattern),
        }
    }
}

impl fmt::Display for HostPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Name(name) => f.write_str(name),
            Self::Below(domain) => write!(f, "*.{domain}"),
            Self::Net(net) if net.prefix_len() == net.max_prefix_len() => write!(f, "{}", net.addr()),
            Self::Net(net) => write!(f, "{net}"),
        }
    }
}

/// A host as URLs mean it: letters small, names beyond ASCII as `xn--…`, without the root's dot, and everything that
/// is a spelling of an IPv4 address (`0x7f.1`, `2130706433`) as that address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Host {
    /// Not yet known where it is.
    Name(String),
    /// There.
    Address(IpAddr),
}

impl Host {
    /// As people write it; an IPv6 address with or without brackets.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        if let Ok(address) = text.parse::<IpAddr>() {
            return Some(Self::Address(address));
        }
        let belongs_elsewhere = |c: char| c.is_whitespace() || matches!(c, '/' | '\\' | '?' | '#' | '@' | '%' | '*');
        let is_bare = text.starts_with('[') || !text.contains(':');
        if text.contains(belongs_elsewhere) || !is_bare {
            return None;
        }
        let url = Url::parse(&format!("http://{text}/")).ok().filter(|url| url.port().is_none())?;
        // Signs of other scripts may have become ones that belong elsewhere.
        Self::of(&url).filter(|host| match host {
            Self::Name(name) => name.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_')),
            Self::Address(_) => true,
        })
    }

    /// Of a URL; none where there is none.
    #[must_use]
    pub fn of(url: &Url) -> Option<Self> {
        let host = url.host_str()?;
        let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
        if let Ok(address) = bare.parse() {
            return Some(Self::Address(address));
        }
        let name = host.strip_suffix('.').unwrap_or(host);
        (!name.is_empty() && !name.ends_with('.')).then(|| Self::Name(name.to_ascii_lowercase()))
    }
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Name(name) => f.write_str(name),
            Self::Address(address) => write!(f, "{address}"),
        }
    }
}

#[cfg(test)]
#[path = "pattern_tests.rs"]
mod tests;
