//! Dialling: straight and through proxies, good and bad ones.
#![allow(clippy::unwrap_used)]

use std::time::Instant;

use tokio::net::TcpListener;

use super::*;
use crate::net::testing::{Scripted, Then};
use crate::session::whatsapp_rs::Forbidden;

/// Long before this, every limit in here has come.
const NEVER: Duration = Duration::from_secs(10);
const SOCKS_TAKES_IT: [u8; 10] = [5, 0, 0, 1, 127, 0, 0, 1, 0, 9];

fn dialer() -> Dialer {
    let url = Url::parse("ws://127.0.0.1:9/ws/chat").unwrap();
    Dialer::new(url, None, Guard::probe(), Arc::default())
}

fn through(scheme: &str, proxy: SocketAddr) -> Dialer {
    let proxy = Proxy::parse(&format!("{scheme}{proxy}")).unwrap();
    Dialer { proxy: Some(proxy), ..dialer() }
}

/// The error of a dial, which is also what the user is told.
async fn failure(dialer: &Dialer) -> anyhow::Error {
    let dialled = tokio::time::timeout(NEVER, dialer.create_transport()).await.expect("a limit of its own");
    let error = dialled.err().expect("no connection");
    assert_eq!(dialer.progress.trouble(), Some(error.to_string()));
    error
}

#[tokio::test]
async fn the_next_address_is_tried_when_one_is_dead() {
    let dead = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let alive = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addresses = [dead, alive.local_addr().unwrap()];
    let stream = dialer().first_that_answers("example", addresses.into_iter()).await.unwrap();
    assert_eq!(stream.peer_addr().unwrap(), addresses[1]);

    let error = dialer().first_that_answers("example", [dead].into_iter()).await.unwrap_err().to_string();
    assert!(error.contains("example") && error.contains(&dead.to_string()), "{error}");
}

/// The address is checked again when it is dialled: a name may come to mean another machine.
#[tokio::test]
async fn another_machine_is_not_dialled_by_a_build_that_may_not() {
    let dialer = Dialer { guard: Guard::shut_in(), ..dialer() };
    let elsewhere = SocketAddr::from(([192, 0, 2, 1], 443));
    let error = dialer.first_that_answers("example", [elsewhere].into_iter()).await.unwrap_err();
    assert!(error.is::<Forbidden>(), "{error}");
}

#[tokio::test]
async fn neither_proxy_nor_target_is_another_machine_for_a_build_that_may_not() {
    let willing = Scripted::start(&[b"HTTP/1.1 200 OK\r\n\r\n"], Then::IsSilent).await;
    for scheme in ["http://", "socks5://", "socks5h://"] {
        let elsewhere = Dialer { guard: Guard::shut_in(), ..through(scheme, ([192, 0, 2, 1], 8080).into()) };
        assert!(failure(&elsewhere).await.is::<Forbidden>());
        let named = Proxy::parse(&format!("{scheme}localhost:{}", willing.address.port())).unwrap();
        let named = Dialer { guard: Guard::shut_in(), proxy: Some(named), ..dialer() };
        assert!(failure(&named).await.is::<Forbidden>());
        for target in ["ws://192.0.2.1/ws/chat", "wss://web.whatsapp.com/ws/chat", "ws://localhost/ws/chat"] {
            let url = Url::parse(target).unwrap();
            let beyond = Dialer { guard: Guard::shut_in(), url, ..through(scheme, willing.address) };
            assert!(failure(&beyond).await.is::<Forbidden>(), "{target}");
        }
    }
    assert!(willing.told().is_empty(), "nobody was asked for anything");
}

#[tokio::test]
async fn a_proxy_that_is_not_there_is_named() {
    let dead = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let error = failure(&through("http://", dead)).await.to_string();
    assert!(error.starts_with(&format!("cannot connect to proxy 127.0.0.1 ({dead})")), "{error}");
}

#[tokio::test]
async fn nothing_outlasts_the_limit_of_the_whole_dial() {
    let connected: &[u8] = b"HTTP/1.1 200 OK\r\n\r\n";
    let header: &[u8] = b"HTTP/1.1 200 OK\r\nX: ";
    let target = "127.0.0.1:9 did not complete the connection (through proxy 127.0.0.1:";
    let silent = "did not answer in time when asked for 127.0.0.1:9";
    let cases: [(&str, &[&[u8]], Then, &str); 7] = [
        ("http://", &[], Then::IsSilent, silent),
        ("socks5://", &[], Then::IsSilent, silent),
        ("socks5h://", &[&[5, 0]], Then::IsSilent, silent),
        ("http://", &[header], Then::Trickles, silent),
        ("socks5://", &[&[5]], Then::IsSilent, silent),
        ("http://", &[connected], Then::IsSilent, target),
        ("socks5://", &[&[5, 0], &SOCKS_TAKES_IT], Then::IsSilent, target),
    ];
    for (scheme, answers, then, expected) in cases {
        let proxy = Scripted::start(answers, then).await;
        let dialer = Dialer { takes: Duration::from_millis(300), ..through(scheme, proxy.address) };
        let start = Instant::now();
        let error = failure(&dialer).await.to_string();
        assert!(error.contains(expected), "{scheme} {answers:?}: {error}");
        assert!(start.elapsed() >= dialer.takes, "{scheme} {answers:?}: it was waited for");
        assert!(error.contains(&proxy.address.to_string()), "{error}");
    }
}

#[tokio::test]
async fn what_the_proxy_says_is_the_reason() {
    let refuses = Scripted::start(&[b"HTTP/1.1 407 No\r\n\r\n"], Then::HangsUp).await;
    let error = failure(&through("http://budi:rahasia@", refuses.address)).await.to_string();
    let expected = format!("proxy {} refused: 407, it does not take the user and password", refuses.address);
    assert_eq!(error, expected);
    let told = String::from_utf8(refuses.told().concat()).unwrap();
    assert!(told.starts_with("CONNECT 127.0.0.1:9 HTTP/1.1\r\n"), "{told}");
    assert!(told.to_ascii_lowercase().contains("\r\nhost: 127.0.0.1:9\r\n"), "{told}");
    assert!(told.contains("Basic YnVkaTpyYWhhc2lh\r\n"), "{told}");

    let error = failure(&through("socks5h://", refuses.address)).await.to_string();
    assert_eq!(error, format!("proxy {} is not a SOCKS5 proxy: what it answers is no SOCKS5", refuses.address));
}

/// Like a straight connection, so that a silent one is found dead and nothing waits to be sent.
#[tokio::test]
async fn a_tunnel_is_kept_alive_and_sends_at_once() {
    let connected: &[u8] = b"HTTP/1.1 200 OK\r\n\r\n";
    let cases: [(&str, &[&[u8]]); 2] = [("http://", &[connected]), ("socks5://", &[&[5, 0], &SOCKS_TAKES_IT])];
    for (scheme, answers) in cases {
        let proxy = Scripted::start(answers, Then::IsSilent).await;
        let dialer = through(scheme, proxy.address);
        let stream = dialer.through(dialer.proxy.as_ref().unwrap(), "127.0.0.1", 9).await.unwrap();
        assert!(stream.nodelay().unwrap(), "{scheme}");
        assert!(socket2::SockRef::from(&stream).keepalive().unwrap(), "{scheme}");
    }
}

/// `socks5` asks for each address of the name until one can be reached; `socks5h` hands the name over.
#[tokio::test]
async fn names_are_resolved_here_or_by_the_proxy() {
    let unreachable: [u8; 10] = [5, 4, 0, 1, 0, 0, 0, 0, 0, 0];
    let url = Url::parse("ws://localhost:9/ws/chat").unwrap();
    for (scheme, resolved) in [("socks5://", true), ("socks5h://", false)] {
        let proxy = Scripted::start(&[&[5, 0], &unreachable], Then::HangsUp).await;
        let dialer = Dialer { guard: Guard::open(), url: url.clone(), ..through(scheme, proxy.address) };
        let error = failure(&dialer).await.to_string();
        assert!(error.contains("refused: the host is unreachable for a connection to "), "{error}");
        let asked: Vec<Vec<u8>> = proxy.told().iter().map(|told| told[3..].to_vec()).collect();
        let expected = if resolved {
            let addresses = tokio::net::lookup_host("localhost:9").await.unwrap();
            addresses.map(request_for).collect()
        } else {
            vec![[b"\x05\x01\x00\x03\x09localhost".as_slice(), &[0, 9]].concat()]
        };
        assert_eq!(asked, expected, "{scheme}");
    }
}

fn request_for(address: SocketAddr) -> Vec<u8> {
    let (kind, octets) = match address {
        SocketAddr::V4(v4) => (1, v4.ip().octets().to_vec()),
        SocketAddr::V6(v6) => (4, v6.ip().octets().to_vec()),
    };
    [[5, 1, 0, kind].as_slice(), &octets, &address.port().to_be_bytes()].concat()
}
