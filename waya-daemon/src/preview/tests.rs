//! Against pages on this machine.
#![allow(clippy::unwrap_used)]

use tokio::sync::watch;

use super::*;
use crate::net::Policy;
use crate::net::testing::{Names, Scripted, Then};

const PNG: &[u8] = b"\x89PNG\r\n\x1a\nrest";

fn fetcher() -> Fetcher {
    let allow_hosts = vec!["*.test".parse().unwrap()];
    let policy = watch::Sender::new(Policy { allow_hosts, ..Policy::default() });
    let names = Names::new(&[("a.test", "127.0.0.1"), ("b.test", "127.0.0.1"), ("inner.example", "127.0.0.1")]);
    Fetcher::new(policy.subscribe(), None).resolving_by(names)
}

fn answer(content_type: &str, body: &[u8]) -> Vec<u8> {
    let head = format!("HTTP/1.1 200 OK\r\ncontent-type: {content_type}\r\ncontent-length: {}\r\n\r\n", body.len());
    [head.as_bytes(), body].concat()
}

fn html(body: &str) -> Vec<u8> {
    answer("text/html", body.as_bytes())
}

async fn of(page: &[u8], then: Then) -> Option<Preview> {
    let server = Scripted::start(&[page], then).await;
    preview(&fetcher(), &format!("lihat http://a.test:{}/x!", server.address.port())).await
}

#[tokio::test]
async fn a_page_tells_title_description_and_picture() {
    let pictures = Scripted::start(&[&answer("text/plain", PNG)], Then::HangsUp).await;
    let body = format!(
        "<title>x</title><meta property=og:title content='Toko Budi'><meta name=description content='Beras &amp; gula'>
         <meta property=og:image content='http://b.test:{}/a.png'>",
        pictures.address.port()
    );
    let pages = Scripted::start(&[&html(&body)], Then::HangsUp).await;
    let link = format!("http://A.test:{}/x?y", pages.address.port());
    let found = preview(&fetcher(), &format!("lihat {link}, murah")).await.unwrap();
    let picture = Some(Picture { bytes: PNG.to_vec(), mimetype: "image/png" });
    let (title, description) = ("Toko Budi".to_owned(), Some("Beras & gula".to_owned()));
    assert_eq!(found, Preview { url: link, title, description, picture });
    let told = String::from_utf8(pages.told().concat()).unwrap();
    assert!(told.starts_with("GET /x?y HTTP/1.1\r\n") && told.contains("like WhatsApp/2"), "{told}");
    assert!(!format!("{found:?}").contains("Budi"));
}

#[tokio::test]
async fn a_page_whose_picture_is_none_is_shown_without() {
    let small = [("image/png", &b"<svg/>"[..]), ("image/png", b"")].map(|(kind, body)| answer(kind, body));
    let large = answer("image/png", &[PNG, &vec![0; LARGEST_PICTURE as usize]].concat());
    let gone = b"HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n".to_vec();
    for picture in small.into_iter().chain([large, gone]) {
        let pictures = Scripted::start(&[&picture], Then::HangsUp).await;
        let image = format!("http://b.test:{}/a.png", pictures.address.port());
        let page = format!("<title>x</title><meta property=og:image content='{image}'>");
        let found = of(&html(&page), Then::HangsUp).await.unwrap();
        assert_eq!((found.title.as_str(), found.picture, pictures.told().len()), ("x", None, 1));
    }
    for image in ["http://inner.example/a.png", "data:image/png;base64,xxxx", "file:///etc/passwd", "http://"] {
        let page = format!("<title>x</title><meta property=og:image content='{image}'>");
        assert_eq!(of(&html(&page), Then::HangsUp).await.unwrap().picture, None, "{image}");
    }
}

#[tokio::test]
async fn no_page_no_preview() {
    let inner = Scripted::start(&[&html("<title>x</title>")], Then::HangsUp).await;
    assert_eq!(preview(&fetcher(), &format!("http://inner.example:{}/", inner.address.port())).await, None);
    assert!(inner.saw_nobody().await);
    assert_eq!(preview(&fetcher(), "no link").await, None);
    assert_eq!(preview(&fetcher(), "http://nowhere.example/").await, None);
    let wrong: [&[u8]; 5] = [
        b"HTTP/1.1 404 Not Found\r\ncontent-type: text/html\r\ncontent-length: 16\r\n\r\n<title>x</title>",
        &answer("application/pdf", b"<title>x</title>"),
        b"HTTP/1.1 200 OK\r\ncontent-length: 16\r\n\r\n<title>x</title>",
        &html("<p>nothing"),
        b"HTTP/1.1 200 OK\r\ncontent-type: text/html\r\ncontent-length: 99\r\n\r\n<title>x</title>",
    ];
    for page in wrong {
        assert_eq!(of(page, Then::HangsUp).await, None, "{page:?}");
    }
}

/// The rest of a page may be endless, or never come.
#[tokio::test]
async fn a_page_is_read_to_the_end_of_its_head() {
    let open = "HTTP/1.1 200 OK\r\ncontent-type: text/html\r\nconnection: close\r\n\r\n<title>x</title>";
    let silent = of(format!("{open}</HEAD><body>").as_bytes(), Then::IsSilent).await;
    assert_eq!(silent.unwrap().title, "x");
    let long = "y".repeat(LONGEST_PAGE);
    let endless = of(format!("{open}<script>{long}").as_bytes(), Then::Trickles).await;
    assert_eq!(endless.unwrap().title, "x");
    let late = of(html(&format!("<script>{long}</script><title>x</title>")).as_slice(), Then::HangsUp).await;
    assert_eq!(late, None);
}

#[tokio::test]
async fn a_page_that_takes_too_long_is_none_and_a_picture_that_does_is_left_out() {
    let within = Duration::from_millis(1500);
    let page = b"HTTP/1.1 200 OK\r\ncontent-type: text/html\r\nconnection: close\r\n\r\n<title>x";
    let slow = Scripted::start(&[page], Then::Trickles).await;
    let text = |port: u16| format!("http://a.test:{port}/");
    assert_eq!(preview_within(&fetcher(), &text(slow.address.port()), within).await, None);

    let body = format!("<title>x</title><meta property=og:image content='{}'>", text(slow.address.port()));
    let pages = Scripted::start(&[&html(&body)], Then::HangsUp).await;
    let found = preview_within(&fetcher(), &text(pages.address.port()), within).await.unwrap();
    assert_eq!((found.title.as_str(), found.picture), ("x", None));
}
