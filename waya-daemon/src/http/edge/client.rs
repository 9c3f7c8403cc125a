//! Whose request it is: the connection's other end, or whom a trusted proxy names.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use axum::http::HeaderMap;

use crate::api::HttpSettings;

/// The other end of a request's connection.
#[derive(Debug, Clone, Copy)]
pub(in crate::http) struct Peer(pub(in crate::http) IpAddr);

/// Who is behind a request, as far as anybody trusted says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::http) struct Client(pub(in crate::http) IpAddr);

impl Client {
    /// The nearest address that is no trusted proxy: everything further away is that one's own word.
    pub(super) fn of(peer: IpAddr, headers: &HeaderMap, settings: &HttpSettings) -> Self {
        let peer = peer.to_canonical();
        if !settings.trusts(peer) {
            return Self(peer);
        }
        let mut nearest = peer;
        let hops = headers.get_all("x-forwarded-for").iter().rev();
        let hops = hops.flat_map(|hops| hops.to_str().unwrap_or_default().rsplit(','));
        for hop in hops {
            let Some(address) = address(hop.trim()) else { break };
            nearest = address;
            if !settings.trusts(address) {
                break;
            }
        }
        Self(nearest)
    }

    /// What is counted as one: a whole network where addresses come by the network.
    pub(super) fn network(self) -> IpAddr {
        match self.0 {
            IpAddr::V4(address) => address.into(),
            IpAddr::V6(address) => Ipv6Addr::from_bits(address.to_bits() & !u128::from(u64::MAX)).into(),
        }
    }
}

/// An address as proxies write it, with or without a port.
fn address(text: &str) -> Option<IpAddr> {
    let bare = text.strip_prefix('[').and_then(|text| text.strip_suffix(']')).unwrap_or(text);
    let address = bare.parse().ok().or_else(|| text.parse::<SocketAddr>().ok().map(|address| address.ip()))?;
    Some(IpAddr::to_canonical(&address))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn client(peer: &str, forwarded: &[&str]) -> String {
        let settings = HttpSettings {
            trusted_proxies: ["127.0.0.1/32", "10.0.0.0/8"].iter().map(|net| net.parse().unwrap()).collect(),
            ..HttpSettings::default()
        };
        let mut headers = HeaderMap::new();
        for &value in forwarded {
            headers.append("x-forwarded-for", value.parse().unwrap());
        }
        Client::of(peer.parse().unwrap(), &headers, &settings).0.to_string()
    }

    #[test]
    fn only_trusted_proxies_are_believed() {
        assert_eq!(client("198.51.100.7", &["203.0.113.1"]), "198.51.100.7");
        assert_eq!(client("127.0.0.1", &["203.0.113.1"]), "203.0.113.1");
        assert_eq!(client("::ffff:127.0.0.1", &["203.0.113.1"]), "203.0.113.1");
        assert_eq!(client("127.0.0.1", &[]), "127.0.0.1");
        // What the caller wrote itself stands further left.
        assert_eq!(client("127.0.0.1", &["1.1.1.1, 203.0.113.1, 10.0.0.9"]), "203.0.113.1");
        assert_eq!(client("127.0.0.1", &["1.1.1.1", "203.0.113.1"]), "203.0.113.1");
        assert_eq!(client("127.0.0.1", &["203.0.113.1, unknown, 10.0.0.9"]), "10.0.0.9");
        assert_eq!(client("127.0.0.1", &["10.0.0.8, 10.0.0.9"]), "10.0.0.8");
    }

    #[test]
    fn ports_and_brackets_are_read_over() {
        assert_eq!(client("127.0.0.1", &["203.0.113.1:4711"]), "203.0.113.1");
        assert_eq!(client("127.0.0.1", &["[2001:db8::1]:4711"]), "2001:db8::1");
        assert_eq!(client("127.0.0.1", &["[2001:db8::1]"]), "2001:db8::1");
    }

    #[test]
    fn a_home_network_counts_as_one() {
        let network = |text: &str| Client(text.parse().unwrap()).network().to_string();
        assert_eq!(network("2001:db8:1:2:3:4:5:6"), "2001:db8:1:2::");
        assert_eq!(network("203.0.113.1"), "203.0.113.1");
    }
}
