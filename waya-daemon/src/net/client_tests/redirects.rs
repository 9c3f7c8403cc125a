use super::*;

#[tokio::test]
async fn redirects_are_followed_to_the_answer() {
    let last = Scripted::start(&[OK], Then::HangsUp).await;
    let location = format!("http://b.test:{}/last", last.address.port());
    let first = Scripted::start(&[&redirect_to(&location)], Then::HangsUp).await;
    let mut request = Request::get(format!("http://budi:rahasia@a.test:{}/", first.address.port()), Trust::Caller);
    request.headers.insert("cookie", HeaderValue::from_static("a=rahasia"));
    request.headers.insert("x-open", HeaderValue::from_static("hi"));
    let answer = fetcher(policy(), here()).fetch(request.clone()).await.unwrap();
    assert_eq!(answer.url().as_str(), location);
    assert_eq!(answer.bytes().await.unwrap(), b"hello");
    let told = lines(&last.told()).concat();
    assert!(told.contains("x-open: hi\r\n") && told.contains("host: b.test:"), "{told}");
    for secret in ["authorization", "cookie", "rahasia", "referer"] {
        assert!(!told.contains(secret), "{told}");
    }

    request.redirects = 0;
    let answer = fetcher(policy(), here()).fetch(request).await.unwrap();
    assert_eq!(answer.status(), StatusCode::FOUND);
    assert_eq!(last.told().len(), 1);
}

#[tokio::test]
async fn a_circle_is_left_after_five_rounds() {
    let round = Scripted::start(&[&redirect_to("/round")], Then::HangsUp).await;
    let url = format!("http://a.test:{}/round", round.address.port());
    let error = fetcher(policy(), here()).fetch(Request::get(url, Trust::Caller)).await.unwrap_err();
    assert_eq!(error.to_string(), "a.test redirects for the 6th time, which is too often");
    assert_eq!(round.told().len(), 6);
}

#[tokio::test]
async fn a_redirect_to_something_else_is_refused() {
    for location in ["file:///etc/passwd", "ftp://a.test/", "http://"] {
        let server = Scripted::start(&[&redirect_to(location)], Then::HangsUp).await;
        let ask = Request::get(format!("http://a.test:{}/", server.address.port()), Trust::Caller);
        let error = fetcher(policy(), here()).fetch(ask).await.unwrap_err();
        assert!(matches!(error, FetchError::BadRedirect { .. }), "{location}: {error}");
    }
}
