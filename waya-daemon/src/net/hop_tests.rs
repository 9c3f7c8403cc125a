#![allow(clippy::unwrap_used)]

use proptest::prelude::*;

use super::*;

fn request(method: Method, url: &str) -> Request {
    let mut request = Request::new(method, url, Trust::Administrator);
    let mut key = HeaderValue::from_static("rahasia");
    key.set_sensitive(true);
    request.headers.insert("x-key", key);
    request.headers.insert(AUTHORIZATION, HeaderValue::from_static("Bearer rahasia"));
    request.headers.insert(COOKIE, HeaderValue::from_static("a=rahasia"));
    request.headers.insert("x-open", HeaderValue::from_static("hi"));
    request
}

fn plain(method: Method, url: &str) -> Hop {
    Hop::first(&Request::new(method, url, Trust::Caller)).unwrap_or_else(|error| panic!("{url}: {error}"))
}

fn redirect(hop: &Hop, status: u16, location: &str) -> Result<Option<Hop>, FetchError> {
    let headers = HeaderMap::from_iter([(LOCATION, HeaderValue::from_bytes(location.as_bytes()).unwrap())]);
    hop.next(StatusCode::from_u16(status).unwrap(), &headers)
}

fn followed(hop: &Hop, status: u16, location: &str) -> Hop {
    redirect(hop, status, location).unwrap().unwrap()
}

fn bad(url: &str) -> BadUrl {
    match Hop::first(&Request::get(url, Trust::Caller)) {
        Err(FetchError::BadUrl(bad)) => bad,
        other => panic!("{url}: {:?}", other.map(|hop| hop.url)),
    }
}

#[test]
fn what_is_no_url_for_us_says_why() {
    for url in ["file:///etc/passwd", "ftp://example.com/", "data:text/plain,hi", "gopher://example.com", "unix:/x"] {
        assert_eq!(bad(url), BadUrl::Scheme, "{url}");
    }
    for url in
        ["", "example.com/x", "//example.com", "http://", "https://exa mple.com", "http://[::1", "http://h:99999"]
    {
        assert_eq!(bad(url), BadUrl::Unreadable, "{url}");
    }
    assert_eq!(bad(&format!("http://example.com/{}", "a".repeat(8192))), BadUrl::TooLong);
}

#[test]
fn a_host_is_who_would_be_asked() {
    for (url, host) in [
        ("http://EXAMPLE.com./x", "example.com"),
        ("https://bücher.example", "xn--bcher-kva.example"),
        ("http://0x7f.1/", "127.0.0.1"),
        ("http://2130706433", "127.0.0.1"),
        ("http://0177.0.0.01", "127.0.0.1"),
        ("http://127.1", "127.0.0.1"),
        ("http://127.0.0.1.", "127.0.0.1"),
        ("http://１２７.０.０.１/", "127.0.0.1"),
        ("http://127。0。0。1/", "127.0.0.1"),
        ("http://[::ffff:127.0.0.1]/", "::ffff:127.0.0.1"),
        ("http://example.com\\@10.0.0.1/", "example.com"),
        ("http://example.com#@10.0.0.1/", "example.com"),
        ("http://example.com@10.0.0.1/", "10.0.0.1"),
        (" http:/10.0.0.1/\n", "10.0.0.1"),
    ] {
        assert_eq!(plain(Method::GET, url).host.to_string(), host, "{url}");
    }
}

#[test]
fn user_and_password_leave_the_url_and_become_a_header() {
    let hop = plain(Method::GET, "https://budi:r%40h%3A@example.com/x#part");
    assert_eq!(hop.url.as_str(), "https://example.com/x");
    assert_eq!(hop.headers[AUTHORIZATION], format!("Basic {}", STANDARD.encode("budi:r@h:")));
    assert!(hop.headers[AUTHORIZATION].is_sensitive());
    // What the caller says aloud counts more.
    let hop = Hop::first(&request(Method::GET, "https://budi:x@example.com/")).unwrap();
    assert_eq!(hop.headers[AUTHORIZATION], "Bearer rahasia");
}

#[test]
fn headers_of_the_connection_are_not_the_callers() {
    let mut request = request(Method::POST, "https://example.com/");
    for name in OURS {
        request.headers.insert(name, HeaderValue::from_static("x"));
    }
    let hop = Hop::first(&request).unwrap();
    let names: Vec<_> = hop.headers.keys().map(HeaderName::as_str).collect();
    assert_eq!(hop.headers[ACCEPT_ENCODING], "identity");
    assert_eq!(names.len(), 5, "{names:?}");
}

#[test]
fn only_a_redirect_leads_on() {
    let hop = plain(Method::GET, "https://example.com/a/b");
    for status in [200, 201, 300, 304, 305, 306, 404, 500] {
        assert!(redirect(&hop, status, "/c").unwrap().is_none(), "{status}");
    }
    assert!(hop.next(StatusCode::FOUND, &HeaderMap::new()).unwrap().is_none());
    for (location, url) in [
        ("/c", "https://example.com/c"),
        ("c?d#e", "https://example.com/a/c?d"),
        ("//10.0.0.1/x", "https://10.0.0.1/x"),
        ("HTTPS://other.example", "https://other.example/"),
        ("/späti", "https://example.com/sp%C3%A4ti"),
    ] {
        assert_eq!(followed(&hop, 302, location).url.as_str(), url, "{location}");
    }
    for location in ["file:///etc/passwd", "ftp://example.com", "javascript:alert(1)", "http://", "https://h:99999"] {
        assert!(matches!(redirect(&hop, 302, location), Err(FetchError::BadRedirect { .. })), "{location}");
    }
}

#[test]
fn what_was_handed_in_is_handed_in_again_only_on_demand() {
    let post = Hop { body: Some(Bytes::from_static(b"x")), ..plain(Method::POST, "https://example.com/") };
    for (status, method, keeps_body) in [
        (301, Method::GET, false),
        (302, Method::GET, false),
        (303, Method::GET, false),
        (307, Method::POST, true),
        (308, Method::POST, true),
    ] {
        let next = followed(&post, status, "/b");
        assert_eq!((next.method, next.body.is_some()), (method, keeps_body), "{status}");
    }
    for method in [Method::HEAD, Method::GET] {
        assert_eq!(followed(&plain(method.clone(), "https://example.com/"), 303, "/b").method, method);
    }
    let put = Hop { method: Method::PUT, ..post };
    assert_eq!(followed(&put, 302, "/b").method, Method::PUT);
}

#[test]
fn secrets_stay_with_the_host_they_were_given_for() {
    let hop = Hop::first(&request(Method::GET, "https://example.com/")).unwrap();
    let secrets = |hop: &Hop| hop.headers.iter().filter(is_secret).count();
    for location in ["/b", "https://example.com:443/b", "https://EXAMPLE.com/b"] {
        let next = followed(&hop, 302, location);
        assert_eq!((secrets(&next), next.trust), (3, Trust::Administrator), "{location}");
    }
    for location in ["https://other.example/", "https://a.example.com/", "https://93.184.216.34/"] {
        let next = followed(&hop, 302, location);
        assert_eq!((secrets(&next), next.trust), (0, Trust::Caller), "{location}");
        assert_eq!(next.headers["x-open"], "hi");
        // Nor do they come back with who comes back.
        let back = followed(&next, 302, "https://example.com/");
        assert_eq!((secrets(&back), back.trust), (0, Trust::Caller), "{location}");
    }
    assert_eq!(secrets(&followed(&hop, 302, "https://example.com:8443/")), 0);
    let open = Hop::first(&request(Method::GET, "http://example.com/")).unwrap();
    assert_eq!(secrets(&followed(&open, 301, "https://example.com/")), 3);
    assert_eq!(secrets(&followed(&open, 301, "https://example.com:8443/")), 0);
}

#[test]
fn what_was_said_in_private_is_not_repeated_aloud() {
    let with_secrets = Hop::first(&request(Method::GET, "https://example.com/")).unwrap();
    let refused = redirect(&with_secrets, 302, "http://example.com/").err().unwrap();
    assert_eq!(
        refused.to_string(),
        "example.com redirects to where no request goes: from https to http, with a password or a body to be sent again"
    );
    let with_body = Hop { body: Some(Bytes::from_static(b"x")), ..plain(Method::POST, "https://example.com/") };
    assert!(redirect(&with_body, 307, "http://example.com/").is_err());
    assert!(redirect(&with_body, 302, "http://example.com/").is_ok());
    assert!(redirect(&plain(Method::GET, "https://example.com/"), 302, "http://example.com/").is_ok());
}

proptest! {
    #[test]
    fn any_text_is_a_url_or_refused(text in "(http://|https://|)\\PC{0,60}") {
        if let Ok(hop) = Hop::first(&Request::get(text, Trust::Caller)) {
            prop_assert!(hop.url.username().is_empty() && hop.url.password().is_none());
            prop_assert_eq!(Host::of(&hop.url), Some(hop.host));
        }
    }

    #[test]
    fn any_location_is_followed_or_refused(location in proptest::collection::vec(any::<u8>(), 0..60)) {
        let hop = plain(Method::GET, "https://example.com/a");
        if let Ok(value) = HeaderValue::from_bytes(&location) {
            let next = hop.next(StatusCode::FOUND, &HeaderMap::from_iter([(LOCATION, value)]));
            if let Ok(Some(next)) = next {
                prop_assert!(next.url.has_host());
            }
        }
    }
}
