//! Proxies that answer what they should not: each has its own reason, and none is waited for or read without end.
#![allow(clippy::unwrap_used)]

use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::*;
use crate::net::testing::{Scripted, Then};

async fn reason(scheme: &str, answers: &[&[u8]]) -> (String, bool) {
    let target = Target::Name("wa.example".to_owned(), 443);
    let bad = Scripted::start(answers, Then::HangsUp).await;
    let proxy = Proxy::parse(&format!("{scheme}{}", bad.address)).unwrap();
    let stream = TcpStream::connect(bad.address).await.unwrap();
    let opened = tokio::time::timeout(Duration::from_secs(20), open_tunnel(stream, &proxy, &target)).await.unwrap();
    let error = opened.unwrap_err();
    let text = error.to_string();
    assert!(text.starts_with("proxy 127.0.0.1:"), "{text}");
    assert!(!text.contains("rahasia") && !text.contains("budi"), "{text}");
    (text.splitn(3, ' ').last().unwrap().to_owned(), error.is_about_the_target())
}

#[tokio::test]
async fn every_bad_http_proxy_has_its_own_reason() {
    let endless = [b"HTTP/1.1 200 OK\r\n".as_slice(), "X: y\r\n".repeat(100_000).as_bytes()].concat();
    let one_line = [b"HTTP/1.1 200 OK\r\nX: ".as_slice(), &vec![b'y'; 1_000_000]].concat();
    // These two do end, and are more than anybody has to say here.
    let large = [b"HTTP/1.1 200 OK\r\nX: ".as_slice(), &vec![b'y'; 60_000], b"\r\n\r\n"].concat();
    let many = [b"HTTP/1.1 200 OK\r\n".as_slice(), "X: y\r\n".repeat(80).as_bytes(), b"\r\n"].concat();
    let with_body = b"HTTP/1.1 407 Proxy Authentication Required\r\ncontent-length: 1000000\r\n\r\nx";
    let (none, some) = ("http://", "http://budi:rahasia@");
    let cases: [(&str, &[u8], &str, bool); 16] = [
        (none, b"HTTP/1.1 407 Go Away\r\ncontent-length: 0\r\n\r\n", "407, it wants a user and password", false),
        (none, with_body, "407, it wants a user and password", false),
        (some, b"HTTP/1.0 407 No\r\n\r\n", "407, it does not take the user and password", false),
        (none, b"HTTP/1.1 403 Forbidden\r\n\r\n", "403, it does not let this machine connect to wa.example:443", true),
        (none, b"HTTP/1.1 502 Bad Gateway\r\n\r\n", "502, it cannot reach wa.example:443", true),
        (none, b"HTTP/1.1 405 Nope\r\n\r\n", "405 Method Not Allowed; does it allow CONNECT to wa.example:443", false),
        (none, b"HTTP/1.1 301 Moved\r\nlocation: /\r\n\r\n", "301 Moved Permanently", false),
        (none, b"SSH-2.0-OpenSSH_9.6\r\n", "is not an HTTP proxy", false),
        (none, b"\x05\x00\x00\x01\x00\x00\x00\x00\x00\x00\r\n\r\n", "is not an HTTP proxy", false),
        (none, &endless, "sent far too long an answer", false),
        (none, &large, "sent far too long an answer", false),
        (none, &many, "sent far too long an answer", false),
        (none, &one_line, "sent far too long an answer", false),
        (none, b"", "closed the connection without an answer", false),
        (none, b"HTTP/1.1 200 OK\r\nX: ", "closed the connection without an answer", false),
        (none, b"HTTP/1.1 200 OK\r\n\r\nhello", "sent more than it was asked for", false),
    ];
    for (scheme, answer, expected, about_the_target) in cases {
        let (what, about) = reason(scheme, &[answer]).await;
        assert!(what.contains(expected), "{expected:?}, not {what:?}");
        assert_eq!(about, about_the_target, "{what}");
    }
}

#[tokio::test]
async fn every_bad_socks_proxy_has_its_own_reason() {
    let (none, some) = ("socks5h://", "socks5h://budi:rahasia@");
    let refusing = |code: u8| [5, code, 0, 1, 0, 0, 0, 0, 0, 0];
    let cases: [(&str, &[&[u8]], &str, bool); 14] = [
        (none, &[b"HTTP/1.1 400 Bad Request\r\n\r\n"], "is not a SOCKS5 proxy", false),
        (none, &[&[4, 90]], "is not a SOCKS5 proxy", false),
        (none, &[&[5, 7]], "is not a SOCKS5 proxy", false),
        (none, &[b""], "closed the connection without a whole answer", false),
        (none, &[&[5, 0], &[5, 0, 0]], "closed the connection without a whole answer", false),
        (none, &[&[5, 0xff]], "it wants a user and password", false),
        (none, &[&[5, 2]], "it wants a user and password", false),
        (some, &[&[5, 0xff]], "does not let in by user and password", false),
        (some, &[&[5, 2], &[1, 1]], "does not take the user and password", false),
        (none, &[&[5, 0], &refusing(2)], "its rules do not allow a connection to wa.example:443", true),
        (none, &[&[5, 0], &refusing(4)], "the host is unreachable for a connection to wa.example:443", true),
        (none, &[&[5, 0], &refusing(5)], "the other side refused a connection to wa.example:443", true),
        (none, &[&[5, 0], &refusing(99)], "is not a SOCKS5 proxy", false),
        (none, &[&[5, 0], &[5, 0, 0, 9, 0, 0, 0, 0, 0, 0]], "is not a SOCKS5 proxy", false),
    ];
    for (scheme, answers, expected, about_the_target) in cases {
        let (what, about) = reason(scheme, answers).await;
        assert!(what.contains(expected), "{expected:?}, not {what:?}");
        assert_eq!(about, about_the_target, "{what}");
    }
}

/// Old proxies speak HTTP/1.0, and some send headers that mean nothing here.
#[tokio::test]
async fn what_is_a_yes_becomes_a_tunnel() {
    let cases: [(&str, &[&[u8]]); 7] = [
        ("http://", &[b"HTTP/1.1 200 OK\r\n\r\n", b"pong"]),
        ("http://", &[b"HTTP/1.0 200 Connection established\r\nProxy-agent: x\r\n\r\n", b"pong"]),
        ("http://", &[b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 7\r\n\r\n", b"pong"]),
        ("http://", &[b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", b"pong"]),
        ("socks5h://", &[&[5, 0], &[5, 0, 0, 1, 0, 0, 0, 0, 0, 0], b"pong"]),
        ("socks5h://", &[&[5, 0], b"\x05\x00\x00\x03\x01h\x00\x00", b"pong"]),
        ("socks5h://a:b@", &[&[5, 0], &[5, 0, 0, 1, 0, 0, 0, 0, 0, 0], b"pong"]),
    ];
    for (scheme, answers) in cases {
        let good = Scripted::start(answers, Then::IsSilent).await;
        let proxy = Proxy::parse(&format!("{scheme}{}", good.address)).unwrap();
        let stream = TcpStream::connect(good.address).await.unwrap();
        let target = Target::Name("wa.example".to_owned(), 443);
        let opening = open_tunnel(stream, &proxy, &target);
        let mut tunnel = tokio::time::timeout(Duration::from_secs(20), opening).await.unwrap().unwrap();
        tunnel.write_all(b"ping").await.unwrap();
        let mut answer = [0; 4];
        tokio::time::timeout(Duration::from_secs(20), tunnel.read_exact(&mut answer)).await.unwrap().unwrap();
        assert_eq!(&answer, b"pong", "{scheme} {answers:?}");
        assert!(good.told().concat().ends_with(b"ping"), "{scheme} {answers:?}");
    }
}
