#![allow(clippy::unwrap_used)]

use proptest::prelude::*;

use super::*;

fn what(address: &str) -> Option<NotPublic> {
    not_public(address.parse().unwrap())
}

#[test]
fn both_ends_of_every_range_and_what_lies_beside_it() {
    use NotPublic::*;
    let cases = [
        ("0.0.0.0", "0.255.255.255", Unspecified, "1.0.0.0"),
        ("10.0.0.0", "10.255.255.255", Private, "11.0.0.0"),
        ("100.64.0.0", "100.127.255.255", CarrierNat, "100.128.0.0"),
        ("127.0.0.0", "127.255.255.255", Loopback, "128.0.0.0"),
        ("168.63.129.16", "168.63.129.16", CloudPlatform, "168.63.129.17"),
        ("169.254.0.0", "169.254.255.255", LinkLocal, "169.255.0.0"),
        ("172.16.0.0", "172.31.255.255", Private, "172.32.0.0"),
        ("192.0.0.0", "192.0.0.255", Reserved, "192.0.1.0"),
        ("192.0.2.0", "192.0.2.255", Documentation, "192.0.3.0"),
        ("192.168.0.0", "192.168.255.255", Private, "192.169.0.0"),
        ("198.18.0.0", "198.19.255.255", Benchmark, "198.20.0.0"),
        ("198.51.100.0", "198.51.100.255", Documentation, "198.51.101.0"),
        ("203.0.113.0", "203.0.113.255", Documentation, "203.0.114.0"),
        ("fc00::", "fdff:ffff:ffff:ffff:ffff:ffff:ffff:ffff", Private, "2606:4700::1"),
        ("fe80::", "febf::1", LinkLocal, "2a00:1450::1"),
        ("fec0::", "feff::1", Private, "2000::1"),
        ("2001:db8::", "2001:db8:ffff::1", Documentation, "2001:db9::1"),
        ("3fff::", "3fff:fff::1", Documentation, "3ffe::1"),
        ("2001:2::", "2001:2:0:ffff::", Benchmark, "2001:200::1"),
    ];
    for (first, last, expected, beside) in cases {
        assert_eq!(what(first), Some(expected), "{first}");
        assert_eq!(what(last), Some(expected), "{last}");
        assert_eq!(what(beside), None, "{beside}");
    }
    for (address, expected) in [
        ("224.0.0.1", Multicast),
        ("239.255.255.255", Multicast),
        ("240.0.0.1", Reserved),
        ("255.255.255.255", Broadcast),
        ("::", Unspecified),
        ("::1", Loopback),
        ("ff02::1", Multicast),
        ("100::1", Reserved),
        ("4000::1", Reserved),
        ("64:ff9b:1::a00:1", Reserved),
    ] {
        assert_eq!(what(address), Some(expected), "{address}");
    }
}

#[test]
fn the_classes_of_the_registries_on_real_hosts_are_none() {
    for address in ["8.8.8.8", "157.240.1.60", "2a03:2880:f11c::1", "2001:4860:4860::8888", "223.255.255.255"] {
        assert_eq!(what(address), None, "{address}");
    }
}

#[test]
fn an_ipv4_address_in_disguise_is_what_it_is() {
    use NotPublic::*;
    for (address, expected) in [
        ("::ffff:127.0.0.1", Some(Loopback)),
        ("::ffff:169.254.169.254", Some(LinkLocal)),
        ("::ffff:8.8.8.8", None),
        ("::127.0.0.1", Some(Reserved)),
        ("::8.8.8.8", Some(Reserved)),
        ("64:ff9b::10.0.0.1", Some(Private)),
        ("64:ff9b::8.8.8.8", None),
        ("2002:7f00:1::", Some(Loopback)),
        ("2002:c0a8:101::1", Some(Private)),
        ("2002:808:808::1", None),
        // 192.168.1.1, inside out.
        ("2001:0:808:808::3f57:fefe", Some(Private)),
        ("2001:0:808:808::f7f7:f7f7", Some(Reserved)),
    ] {
        assert_eq!(what(address), expected, "{address}");
    }
}

proptest! {
    /// The standard library knows some of the classes; whatever it calls so is not public here.
    #[test]
    fn nothing_that_the_standard_library_knows_is_public(bits: u32) {
        let address = Ipv4Addr::from_bits(bits);
        let known = address.is_private() || address.is_loopback() || address.is_link_local() || address.is_multicast()
            || address.is_broadcast() || address.is_documentation() || address.is_unspecified();
        prop_assert!(!known || not_public(address.into()).is_some());
    }

    #[test]
    fn a_wrapping_hides_nothing(bits: u32) {
        let inner = Ipv4Addr::from_bits(bits);
        let expected = not_public(inner.into());
        let [a, b, c, d] = inner.octets();
        let (high, low) = (u16::from_be_bytes([a, b]), u16::from_be_bytes([c, d]));
        prop_assert_eq!(not_public(inner.to_ipv6_mapped().into()), expected);
        prop_assert_eq!(not_public(Ipv6Addr::new(0x64, 0xff9b, 0, 0, 0, 0, high, low).into()), expected);
        prop_assert_eq!(not_public(Ipv6Addr::new(0x2002, high, low, 0, 0, 0, 0, 1).into()), expected);
        let teredo = not_public(Ipv6Addr::new(0x2001, 0, 0, 0, 0, 0, !high, !low).into());
        prop_assert_eq!(teredo, expected.or(Some(NotPublic::Reserved)));
        prop_assert!(not_public(inner.to_ipv6_compatible().into()).is_some());
    }

    #[test]
    fn outside_of_what_is_given_out_nothing_is_public(bits: u128) {
        let address = Ipv6Addr::from_bits(bits);
        let given_out = address.octets()[0] >> 5 == 1 || wrapped(address).is_some();
        prop_assert!(given_out || not_public(address.into()).is_some());
    }
}
