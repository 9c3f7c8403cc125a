#![allow(clippy::unwrap_used)]

use proptest::prelude::*;

use super::*;

fn names(pattern: &str, host: &str) -> bool {
    pattern.parse::<HostPattern>().unwrap().names(&Host::parse(host).unwrap())
}

#[test]
fn a_name_is_the_same_in_every_spelling() {
    for host in ["files.example.com", "FILES.Example.COM", "files.example.com."] {
        assert!(names("Files.example.com", host) && names("files.example.com.", host), "{host}");
    }
    assert!(names("bücher.example", "xn--bcher-kva.example"));
    assert!(names("XN--BCHER-KVA.example", "BÜCHER.example"));
    for host in ["example.com", "a.files.example.com", "files.example.com.evil.example", "xfiles.example.com"] {
        assert!(!names("files.example.com", host), "{host}");
    }
}

#[test]
fn a_star_stands_for_what_is_below() {
    for host in ["a.example.com", "a.b.example.com", "A.EXAMPLE.com."] {
        assert!(names("*.example.com", host), "{host}");
    }
    for host in ["example.com", "badexample.com", "example.com.evil.example", "10.0.0.1"] {
        assert!(!names("*.example.com", host), "{host}");
    }
}

#[test]
fn an_address_is_meant_in_every_spelling() {
    for host in ["10.1.2.3", "0xa.1.2.3", "012.1.2.3", "167838211", "10.1.515", "::ffff:10.1.2.3", "[::ffff:a01:203]"] {
        assert!(names("10.1.2.3", host), "{host}");
        assert!(names("10.0.0.0/8", host), "{host}");
        assert!(!names("10.1.2.4", host) && !names("11.0.0.0/8", host), "{host}");
    }
    assert!(names("[fd00::1]", "fd00:0:0::1") && names("fd00::/8", "[fd12::9]"));
    assert!("64:ff9b::/96".parse::<HostPattern>().unwrap().holds("64:ff9b::1".parse().unwrap()));
    assert!(!"example.com".parse::<HostPattern>().unwrap().holds("10.0.0.1".parse().unwrap()));
}

#[test]
fn what_is_written_is_shown_in_its_one_spelling() {
    for (text, shown) in [
        (" Example.COM. ", "example.com"),
        ("*.Bücher.example", "*.xn--bcher-kva.example"),
        ("0x7f.1", "127.0.0.1"),
        ("[::1]", "::1"),
        ("10.9.8.7/8", "10.0.0.0/8"),
        ("printer_2", "printer_2"),
    ] {
        assert_eq!(text.parse::<HostPattern>().unwrap().to_string(), shown, "{text:?}");
    }
}

#[test]
fn what_names_no_hosts_is_refused() {
    for text in [
        "",
        " ",
        "*",
        "*.",
        "*.*.com",
        "a*.example.com",
        "*.10.0.0.1",
        "http://example.com",
        "example.com/path",
        "example.com:8080",
        "user@example.com",
        "exa mple.com",
        "10.0.0.0/33",
        "1.2.3.4.5",
        "999.1.1.1",
        "[::1",
        "::1]",
        "a\\b",
        "..",
        "%31.example",
        "﹡",
        "a(b)",
    ] {
        assert_eq!(text.parse::<HostPattern>(), Err(BadPattern), "{text:?}");
    }
}

proptest! {
    #[test]
    fn any_text_is_read_or_refused(text in "\\PC{0,40}") {
        if let Ok(pattern) = text.parse::<HostPattern>() {
            prop_assert_eq!(pattern.to_string().parse::<HostPattern>(), Ok(pattern));
        }
    }

    #[test]
    fn a_name_and_what_is_below_it_never_overlap(below in "[a-z]{1,9}", domain in "[a-z]{1,9}\\.[a-z]{2,5}") {
        let host = format!("{below}.{domain}");
        let star = format!("*.{domain}");
        prop_assert!(names(&star, &host) && !names(&domain, &host));
        prop_assert!(names(&domain, &domain) && !names(&star, &domain));
    }
}
