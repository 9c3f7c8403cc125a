#![allow(clippy::unwrap_used)]

use std::net::{Ipv4Addr, Ipv6Addr};

use proptest::prelude::*;

use super::*;

fn patterns(texts: &[&str]) -> Vec<HostPattern> {
    texts.iter().map(|text| text.parse().unwrap()).collect()
}

fn policy(allow_private: bool, allow: &[&str], deny: &[&str]) -> Policy {
    Policy { allow_private, allow_hosts: patterns(allow), deny_hosts: patterns(deny) }
}

/// As a request would be judged whose host has these addresses.
fn judge(policy: &Policy, host: &str, addresses: &[&str], trust: Trust) -> Result<(), Forbidden> {
    let host = Host::parse(host).unwrap();
    policy.check_host(&host)?;
    addresses.iter().try_for_each(|address| policy.check_address(&host, address.parse().unwrap(), trust))
}

#[test]
fn by_default_the_internet_is_open_and_the_inside_is_not() {
    let policy = Policy::default();
    assert_eq!(judge(&policy, "example.com", &["8.8.8.8", "2606:4700::1"], Trust::Caller), Ok(()));
    let cases = [
        (
            "127.0.0.1",
            "127.0.0.1",
            "refused: 127.0.0.1 is a loopback address; allow it with network.allow_hosts or network.allow_private",
        ),
        (
            "intern.example",
            "10.0.0.7",
            "refused: intern.example is at 10.0.0.7, a private address; allow it with network.allow_hosts or \
             network.allow_private",
        ),
        (
            "::ffff:169.254.169.254",
            "::ffff:169.254.169.254",
            "refused: ::ffff:169.254.169.254 is a link-local address; allow it with network.allow_hosts or \
             network.allow_private",
        ),
    ];
    for (host, address, text) in cases {
        assert_eq!(judge(&policy, host, &[address], Trust::Caller).unwrap_err().to_string(), text);
        assert_eq!(judge(&policy, host, &[address], Trust::Administrator), Ok(()), "{host}");
    }
}

#[test]
fn one_inner_address_among_others_is_enough() {
    let refused = judge(&Policy::default(), "mixed.example", &["8.8.8.8", "10.0.0.1"], Trust::Caller);
    assert!(matches!(refused, Err(Forbidden::LeadsInside { .. })), "{refused:?}");
}

#[test]
fn the_settings_let_inside_whom_they_name() {
    let inside = &["10.0.0.1"];
    assert_eq!(judge(&policy(true, &[], &[]), "a.example", inside, Trust::Caller), Ok(()));
    for allow in ["a.example", "*.example", "10.0.0.1", "10.0.0.0/8"] {
        assert_eq!(judge(&policy(false, &[allow], &[]), "a.example", inside, Trust::Caller), Ok(()), "{allow}");
    }
    for allow in ["b.example", "*.a.example", "10.0.0.2", "192.168.0.0/16"] {
        assert!(judge(&policy(false, &[allow], &[]), "a.example", inside, Trust::Caller).is_err(), "{allow}");
    }
    // A range lets in its own addresses only, also of a host that has more.
    let range = policy(false, &["10.0.0.0/24"], &[]);
    assert!(judge(&range, "a.example", &["10.0.0.1", "10.0.1.1"], Trust::Caller).is_err());
}

#[test]
fn who_is_denied_is_denied_whatever_else_holds() {
    for deny in ["a.example", "*.example", "10.0.0.1", "10.0.0.0/8"] {
        for trust in [Trust::Caller, Trust::Administrator] {
            let policy = policy(true, &["a.example", "10.0.0.1"], &[deny]);
            let refused = judge(&policy, "a.example", &["10.0.0.1"], trust).unwrap_err();
            assert_eq!(refused.to_string(), "refused: a.example is in network.deny_hosts", "{deny}");
        }
    }
    let loopback = policy(true, &[], &["127.0.0.0/8"]);
    assert!(judge(&loopback, "::ffff:127.0.0.1", &["::ffff:127.0.0.1"], Trust::Administrator).is_err());
}

#[test]
fn where_a_host_is_matters_only_when_it_can_be_refused_for_it() {
    let host = Host::parse("a.example").unwrap();
    assert!(Policy::default().needs_addresses(&host, Trust::Caller));
    assert!(!Policy::default().needs_addresses(&host, Trust::Administrator));
    assert!(!policy(true, &[], &["b.example"]).needs_addresses(&host, Trust::Caller));
    assert!(!policy(false, &["*.example"], &[]).needs_addresses(&host, Trust::Caller));
    assert!(policy(false, &["10.0.0.0/8"], &[]).needs_addresses(&host, Trust::Caller));
    assert!(policy(true, &[], &["10.0.0.0/8"]).needs_addresses(&host, Trust::Administrator));
}

proptest! {
    #[test]
    fn a_caller_never_gets_inside_by_default(v4: u32, v6: u128, by_name: bool) {
        for address in [IpAddr::V4(Ipv4Addr::from_bits(v4)), IpAddr::V6(Ipv6Addr::from_bits(v6))] {
            let host = if by_name { Host::Name("a.example".to_owned()) } else { Host::Address(address) };
            let allowed = Policy::default().check_address(&host, address, Trust::Caller).is_ok();
            prop_assert_eq!(allowed, not_public(address).is_none());
        }
    }

    #[test]
    fn what_is_denied_stays_denied(v4: u32, prefix in 0u8..=32, allow_private: bool, administrator: bool) {
        let address = Ipv4Addr::from_bits(v4);
        let trust = if administrator { Trust::Administrator } else { Trust::Caller };
        let mut policy = policy(allow_private, &["0.0.0.0/0", "a.example"], &[]);
        policy.deny_hosts.push(format!("{address}/{prefix}").parse().unwrap());
        let host = Host::Name("a.example".to_owned());
        for address in [IpAddr::V4(address), address.to_ipv6_mapped().into()] {
            prop_assert!(policy.needs_addresses(&host, trust));
            prop_assert!(policy.check_address(&host, address, trust).is_err());
        }
    }
}
