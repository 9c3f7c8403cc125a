//! Against servers on this machine, by names that only the test knows.
#![allow(clippy::unwrap_used)]

mod inside;
mod limits;
mod proxies;
mod redirects;
mod tls;

use std::time::Duration;

use reqwest::StatusCode;
use reqwest::header::HeaderValue;

use super::*;
use crate::net::testing::{Names, Scripted, Then};
use crate::net::{HostPattern, Limits, Trust};

const OK: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-type: Text/HTML; charset=utf-8\r\ncontent-length: 5\r\n\r\nhello";

fn patterns(texts: &[&str]) -> Vec<HostPattern> {
    texts.iter().map(|text| text.parse().unwrap()).collect()
}

/// `*.test` may be on this machine, whatever else may not.
fn policy() -> Policy {
    Policy { allow_hosts: patterns(&["*.test"]), ..Policy::default() }
}

fn fetcher(policy: Policy, names: Arc<Names>) -> Fetcher {
    Fetcher::new(watch::Sender::new(policy).subscribe(), None).resolving_by(names)
}

fn here() -> Arc<Names> {
    Names::new(&[("a.test", "127.0.0.1"), ("b.test", "127.0.0.1"), ("inner.example", "127.0.0.1")])
}

fn redirect_to(location: &str) -> Vec<u8> {
    format!("HTTP/1.1 302 Found\r\nlocation: {location}\r\ncontent-length: 0\r\n\r\n").into_bytes()
}

fn brisk() -> Limits {
    Limits {
        connect: Duration::from_secs(10),
        idle: Duration::from_millis(200),
        total: Duration::from_millis(700),
        size: 1000,
    }
}

fn lines(told: &[Vec<u8>]) -> Vec<String> {
    told.iter().map(|told| String::from_utf8_lossy(told).to_ascii_lowercase()).collect()
}

/// Also run by `proxies`, in a process whose environment names proxies.
#[tokio::test]
async fn a_page_comes_whole_from_where_its_name_is() {
    let (server, names) = (Scripted::start(&[OK], Then::HangsUp).await, here());
    let url = format!("http://A.test:{}/x?y=1#z", server.address.port());
    let answer = fetcher(policy(), names.clone()).fetch(Request::get(url, Trust::Caller)).await.unwrap();
    assert_eq!((answer.status(), answer.length()), (StatusCode::OK, Some(5)));
    assert_eq!(answer.media_type().as_deref(), Some("text/html"));
    assert_eq!(answer.url().as_str(), format!("http://a.test:{}/x?y=1", server.address.port()));
    assert_eq!(answer.bytes().await.unwrap(), b"hello");
    assert_eq!(names.asked(), ["a.test"]);
    let told = lines(&server.told()).concat();
    assert!(told.starts_with("get /x?y=1 http/1.1\r\n"), "{told}");
    for header in
        ["host: a.test:", "accept-encoding: identity\r\n", concat!("user-agent: waya/", env!("CARGO_PKG_VERSION"))]
    {
        assert!(told.contains(header), "{told}");
    }
}

#[tokio::test]
async fn what_is_posted_arrives_with_its_headers_and_any_status_is_an_answer() {
    let server = Scripted::start(&[b"HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n"], Then::HangsUp).await;
    let url = format!("http://budi:rahasia@a.test:{}/hook", server.address.port());
    let mut request = Request::post(url, Trust::Administrator, "{\"a\":1}");
    request.headers.insert("host", HeaderValue::from_static("inner.example"));
    request.headers.insert("content-length", HeaderValue::from_static("99"));
    request.headers.insert("x-open", HeaderValue::from_static("hi"));
    let answer = fetcher(policy(), here()).fetch(request).await.unwrap();
    assert_eq!(answer.status(), StatusCode::NOT_FOUND);
    assert!(!format!("{answer:?}{}", answer.url()).contains("rahasia"));
    let told = lines(&server.told()).concat();
    assert!(told.starts_with("post /hook http/1.1\r\n") && told.ends_with("\r\n\r\n{\"a\":1}"), "{told}");
    assert!(told.contains("content-length: 7\r\n") && told.contains("x-open: hi\r\n"), "{told}");
    assert!(told.contains("authorization: basic ") && !told.contains("inner.example"), "{told}");
}

#[tokio::test]
async fn what_goes_wrong_names_the_host_and_nothing_of_the_url() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let closed = listener.local_addr().unwrap();
    drop(listener);
    let fetcher = fetcher(policy(), here());
    let ask = |url: String| fetcher.fetch(Request::get(url, Trust::Caller));
    let error = ask(format!("http://budi:rahasia@a.test:{}/rahasia?k=rahasia", closed.port())).await.unwrap_err();
    assert!(error.to_string().starts_with("cannot connect to a.test: ") && error.is_passing(), "{error}");
    assert!(!error.to_string().contains("rahasia") && !format!("{error:?}").contains("rahasia"), "{error:?}");
    let error = ask("http://nowhere.test/rahasia".to_owned()).await.unwrap_err();
    assert_eq!(error.to_string(), "cannot find the address of nowhere.test: no such name");
    let error = ask("budi:rahasia@a.test".to_owned()).await.unwrap_err();
    assert_eq!(error.to_string(), "not a URL to fetch: it does not start with http:// or https://");
    assert!(!error.is_passing());

    let mumbles = Scripted::start(&[b"220 mail.example ESMTP\r\n"], Then::HangsUp).await;
    let error = ask(format!("http://a.test:{}/rahasia", mumbles.address.port())).await.unwrap_err();
    assert!(matches!(error, FetchError::Broken { .. }) && !error.to_string().contains("rahasia"), "{error}");
}
