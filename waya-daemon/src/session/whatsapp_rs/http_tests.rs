//! The library's HTTP client against a server on this machine.
#![allow(clippy::unwrap_used)]

use std::io::Cursor;

use axum::body::Body as Answer;
use axum::http::{HeaderMap, StatusCode};
use axum::routing::{get, post};
use tokio::net::TcpListener;

use super::*;
use crate::net::testing::{Scripted, Then};

const LARGE: usize = 300_000;

async fn server() -> String {
    let upload = |headers: HeaderMap, body: Bytes| async move {
        let told = headers.get("content-length").and_then(|length| length.to_str().ok()).unwrap_or("none").to_owned();
        let chunked = headers.contains_key("transfer-encoding");
        format!("{told} {chunked} {}", body.iter().map(|byte| u64::from(*byte)).sum::<u64>())
    };
    let app = axum::Router::new()
        .route("/gone", get(|| async { (StatusCode::GONE, "gone") }))
        .route("/large", get(|| async { Answer::from(vec![7; LARGE]) }))
        .route("/upload", post(upload))
        .layer(axum::extract::DefaultBodyLimit::disable());
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move { axum::serve(listener, app).await });
    format!("127.0.0.1:{}", address.port())
}

#[tokio::test]
async fn an_answer_is_an_answer_whatever_its_status() {
    let host = server().await;
    let http = Http::new(Guard::probe(), None).unwrap();
    let answer = http.execute(HttpRequest::get(format!("http://{host}/gone"))).await.unwrap();
    assert_eq!((answer.status_code, answer.body.as_slice()), (410, b"gone".as_slice()));
    assert!(http.execute(HttpRequest::get("http://127.0.0.1:1/")).await.is_err());
}

#[tokio::test]
async fn a_large_body_comes_as_a_stream() {
    let host = server().await;
    let http = Http::new(Guard::probe(), None).unwrap();
    let body = tokio::task::spawn_blocking(move || {
        let mut answer = http.execute_streaming(HttpRequest::get(format!("http://{host}/large"))).unwrap();
        let mut body = Vec::new();
        answer.body.read_to_end(&mut body).unwrap();
        body
    });
    assert_eq!(body.await.unwrap(), vec![7; LARGE]);
}

/// WhatsApp's media servers refuse a body of unknown length.
#[tokio::test]
async fn an_upload_says_its_length_and_is_not_chunked() {
    let host = server().await;
    let http = Http::new(Guard::probe(), None).unwrap();
    let answer = tokio::task::spawn_blocking(move || {
        let body = Box::new(Cursor::new(vec![1; LARGE + 5]));
        http.execute_upload(HttpRequest::post(format!("http://{host}/upload")), body, LARGE as u64).unwrap()
    });
    assert_eq!(answer.await.unwrap().body_string().unwrap(), format!("{LARGE} false {LARGE}"));
}

#[tokio::test]
async fn a_shut_in_build_asks_this_machine_by_plain_http_and_nobody_else() {
    let host = server().await;
    let http = Http::new(Guard::shut_in(), None).unwrap();
    let answer = http.execute(HttpRequest::get(format!("https://{host}/gone"))).await.unwrap();
    assert_eq!(answer.status_code, 410);
    let error = http.execute(HttpRequest::get("https://web.whatsapp.com/sw.js")).await.unwrap_err();
    assert!(error.is::<crate::session::whatsapp_rs::Forbidden>(), "{error}");
}

const DONE: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";
/// A password that would not survive being taken for a part of a URL.
const CREDENTIALS: &str = "budi:r%40h%3A%2Fs%25@";

/// Nothing listens where the requests go: only by the proxy is there an answer.
async fn by(scheme: &str, proxy: &Scripted) -> anyhow::Result<HttpResponse> {
    let through = Proxy::parse(&format!("{scheme}{}", proxy.address)).unwrap();
    let http = Http::new(Guard::probe(), Some(&through)).unwrap();
    http.execute(HttpRequest::get("http://127.0.0.1:1/media")).await
}

#[tokio::test]
async fn every_request_goes_through_an_http_proxy() {
    let proxy = Scripted::start(&[DONE], Then::HangsUp).await;
    assert_eq!(by(&format!("http://{CREDENTIALS}"), &proxy).await.unwrap().body, b"ok");
    let told = String::from_utf8(proxy.told().concat()).unwrap();
    assert!(told.starts_with("GET http://127.0.0.1:1/media HTTP/1.1\r\n"), "{told}");
    let basic = base64::Engine::encode(&base64::engine::general_purpose::STANDARD, "budi:r@h:/s%");
    assert!(told.contains(&format!("Basic {basic}\r\n")), "{told}");
}

/// What is encrypted goes through a tunnel that is asked for by name.
#[tokio::test]
async fn an_encrypted_request_asks_an_http_proxy_for_a_tunnel() {
    let proxy = Scripted::start(&[b"HTTP/1.1 502 Bad Gateway\r\n\r\n"], Then::HangsUp).await;
    let through = Proxy::parse(&format!("http://{CREDENTIALS}{}", proxy.address)).unwrap();
    let http = Http::new(Guard::open(), Some(&through)).unwrap();
    let error = http.execute(HttpRequest::get("https://wa.invalid/media")).await.unwrap_err();
    assert!(!format!("{error:?}").contains("r@h"), "{error:?}");
    let told = String::from_utf8(proxy.told().concat()).unwrap();
    assert!(told.starts_with("CONNECT wa.invalid:443 HTTP/1.1\r\n"), "{told}");
}

#[tokio::test]
async fn every_request_goes_through_a_socks_proxy() {
    let takes_it: &[u8] = &[5, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    for scheme in ["socks5://", "socks5h://"] {
        let open = Scripted::start(&[&[5, 0], takes_it, DONE], Then::HangsUp).await;
        assert_eq!(by(scheme, &open).await.unwrap().body, b"ok", "{scheme}");

        let closed = Scripted::start(&[&[5, 2], &[1, 0], takes_it, DONE], Then::HangsUp).await;
        assert_eq!(by(&format!("{scheme}{CREDENTIALS}"), &closed).await.unwrap().body, b"ok", "{scheme}");
        let told = closed.told().concat();
        let signed_in = b"\x01\x04budi\x07r@h:/s%";
        assert!(told.windows(signed_in.len()).any(|part| part == signed_in), "{told:?}");
    }
}
