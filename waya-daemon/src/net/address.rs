//! Which addresses are not of the public internet, and what they are instead. Pure.
//!
//! Follows IANA's registries of special-purpose addresses. An IPv6 address that only wraps an IPv4 one (mapped, NAT64,
//! 6to4, Teredo) is what it wraps: it is the IPv4 address that would answer.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{Ipv4Net, Ipv6Net};

/// What an address is that no stranger on the internet could have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum NotPublic {
    /// `0.0.0.0/8`, `::`: this machine, on most systems.
    Unspecified,
    /// `127.0.0.0/8`, `::1`.
    Loopback,
    /// `169.254.0.0/16`, `fe80::/10`; where clouds keep their machines' credentials.
    LinkLocal,
    /// `10.0.0.0/8`, `172.16.0.0/12`, `192.168.0.0/16`, `fc00::/7`, `fec0::/10`.
    Private,
    /// `100.64.0.0/10`: between a provider and its customers.
    CarrierNat,
    /// `168.63.129.16`: public by number, and inside of every machine of one cloud.
    CloudPlatform,
    /// `224.0.0.0/4`, `ff00::/8`.
    Multicast,
    /// `255.255.255.255`.
    Broadcast,
    /// What examples are written with.
    Documentation,
    /// `198.18.0.0/15`, `2001:2::/48`.
    Benchmark,
    /// All that is set aside or was never given out.
    Reserved,
}

impl fmt::Display for NotPublic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Unspecified => "an address that stands for this machine",
            Self::Loopback => "a loopback address",
            Self::LinkLocal => "a link-local address",
            Self::Private => "a private address",
            Self::CarrierNat => "a private address of a provider (CGNAT)",
            Self::CloudPlatform => "an inner address of a cloud platform",
            Self::Multicast => "a multicast address",
            Self::Broadcast => "a broadcast address",
            Self::Documentation => "an address for documentation",
            Self::Benchmark => "an address for benchmarks",
            Self::Reserved => "a reserved address",
        })
    }
}

const fn v4(a: u8, b: u8, c: u8, d: u8, prefix: u8) -> Ipv4Net {
    Ipv4Net::new_assert(Ipv4Addr::new(a, b, c, d), prefix)
}

const fn v6(a: u16, b: u16, c: u16, prefix: u8) -> Ipv6Net {
    Ipv6Net::new_assert(Ipv6Addr::new(a, b, c, 0, 0, 0, 0, 0), prefix)
}

/// The first that fits counts.
const V4: &[(Ipv4Net, NotPublic)] = &[
    (v4(0, 0, 0, 0, 8), NotPublic::Unspecified),
    (v4(10, 0, 0, 0, 8), NotPublic::Private),
    (v4(100, 64, 0, 0, 10), NotPublic::CarrierNat),
    (v4(127, 0, 0, 0, 8), NotPublic::Loopback),
    (v4(168, 63, 129, 16, 32), NotPublic::CloudPlatform),
    (v4(169, 254, 0, 0, 16), NotPublic::LinkLocal),
    (v4(172, 16, 0, 0, 12), NotPublic::Private),
    (v4(192, 0, 0, 0, 24), NotPublic::Reserved),
    (v4(192, 0, 2, 0, 24), NotPublic::Documentation),
    (v4(192, 88, 99, 0, 24), NotPublic::Reserved),
    (v4(192, 168, 0, 0, 16), NotPublic::Private),
    (v4(198, 18, 0, 0, 15), NotPublic::Benchmark),
    (v4(198, 51, 100, 0, 24), NotPublic::Documentation),
    (v4(203, 0, 113, 0, 24), NotPublic::Documentation),
    (v4(224, 0, 0, 0, 4), NotPublic::Multicast),
    (v4(255, 255, 255, 255, 32), NotPublic::Broadcast),
    (v4(240, 0, 0, 0, 4), NotPublic::Reserved),
];

/// The same; what is in none of them and not in [`GLOBAL`] either is reserved.
const V6: &[(Ipv6Net, NotPublic)] = &[
    (v6(0, 0, 0, 128), NotPublic::Unspecified),
    (Ipv6Net::new_assert(Ipv6Addr::LOCALHOST, 128), NotPublic::Loopback),
    (v6(0xfc00, 0, 0, 7), NotPublic::Private),
    (v6(0xfe80, 0, 0, 10), NotPublic::LinkLocal),
    (v6(0xfec0, 0, 0, 10), NotPublic::Private),
    (v6(0xff00, 0, 0, 8), NotPublic::Multicast),
    (v6(0x2001, 0x0db8, 0, 32), NotPublic::Documentation),
    (v6(0x3fff, 0, 0, 20), NotPublic::Documentation),
    (v6(0x2001, 0x0002, 0, 48), NotPublic::Benchmark),
    // Protocols' own, Teredo among them: no server has its address here.
    (v6(0x2001, 0, 0, 23), NotPublic::Reserved),
];

/// All of IPv6 that is given out to networks.
const GLOBAL: Ipv6Net = v6(0x2000, 0, 0, 3);
/// By which networks without IPv4 reach IPv4.
const NAT64: Ipv6Net = v6(0x0064, 0xff9b, 0, 96);

/// What the address is, unless anybody on the internet could have it.
#[must_use]
pub fn not_public(address: IpAddr) -> Option<NotPublic> {
    match address {
        IpAddr::V4(address) => not_public_v4(address),
        IpAddr::V6(address) => not_public_v6(address),
    }
}

/// The IPv4 address that an IPv6 one wraps, when it is the one that would answer.
#[must_use]
pub fn wrapped(address: Ipv6Addr) -> Option<Ipv4Addr> {
    let v4 = |high: u16, low: u16| Ipv4Addr::from_bits(u32::from(high) << 16 | u32::from(low));
    match address.segments() {
        [.., high, low] if is_mapped_or_nat64(address) => Some(v4(high, low)),
        [0x2002, high, low, ..] => Some(v4(high, low)),
        // Teredo: the client's address, written inside out.
        [0x2001, 0, .., high, low] => Some(v4(!high, !low)),
        _ => None,
    }
}

fn is_mapped_or_nat64(address: Ipv6Addr) -> bool {
    address.to_ipv4_mapped().is_some() || NAT64.contains(&address)
}

fn not_public_v4(address: Ipv4Addr) -> Option<NotPublic> {
    V4.iter().find(|(net, _)| net.contains(&address)).map(|(_, what)| *what)
}

fn not_public_v6(address: Ipv6Addr) -> Option<NotPublic> {
    if let Some(what) = wrapped(address).and_then(not_public_v4) {
        return Some(what);
    }
    if is_mapped_or_nat64(address) {
        return None;
    }
    let listed = V6.iter().find(|(net, _)| net.contains(&address)).map(|(_, what)| *what);
    // `::10.0.0.1` and the like were given up, and nothing answers there.
    listed.or_else(|| (!GLOBAL.contains(&address)).then_some(NotPublic::Reserved))
}

#[cfg(test)]
#[path = "address_tests.rs"]
mod tests;
