use super::*;
use crate::net::Answer;

/// What comes of reading it all.
async fn read(answers: &[&[u8]], then: Then, limits: Limits) -> Result<Vec<u8>, FetchError> {
    let server = Scripted::start(answers, then).await;
    let url = format!("http://a.test:{}/", server.address.port());
    fetcher(policy(), here()).fetch(Request { limits, ..Request::get(url, Trust::Caller) }).await?.bytes().await
}

fn late(limit: Duration) -> Result<Vec<u8>, FetchError> {
    Err(FetchError::Timeout { host: "a.test".to_owned(), limit })
}

const ENDLESS: &[u8] = b"HTTP/1.1 200 OK\r\nconnection: close\r\n\r\n";

#[tokio::test]
async fn who_trickles_is_left_in_the_end() {
    let limits = Limits { size: u64::MAX, idle: Duration::from_secs(30), ..brisk() };
    assert_eq!(read(&[ENDLESS], Then::Trickles, limits).await, late(limits.total));
    // The head of an answer can trickle as well.
    assert_eq!(read(&[b"HTTP/1.1 200 OK\r\nx: "], Then::Trickles, limits).await, late(limits.total));
}

#[tokio::test]
async fn who_says_nothing_is_left_sooner() {
    let limits = Limits { total: Duration::from_secs(60), ..brisk() };
    assert_eq!(read(&[&[ENDLESS, b"hel"].concat()], Then::IsSilent, limits).await, late(limits.idle));
    let limits = Limits { connect: Duration::from_secs(2), ..limits };
    assert_eq!(read(&[b""], Then::IsSilent, limits).await, late(limits.connect + limits.idle));
}

#[tokio::test]
async fn a_name_that_nobody_answers_for_is_left_too() {
    #[derive(Debug)]
    struct Silent;
    #[async_trait::async_trait]
    impl Resolver for Silent {
        async fn resolve(&self, _: &str) -> io::Result<Vec<IpAddr>> {
            std::future::pending().await
        }
    }
    let limits = Limits { connect: Duration::from_millis(50), ..brisk() };
    let request = Request { limits, ..Request::get("http://a.test/", Trust::Caller) };
    let error = fetcher(policy(), here()).resolving_by(Arc::new(Silent)).fetch(request).await.unwrap_err();
    assert_eq!(error.to_string(), "a.test took longer than 50ms");
}

#[tokio::test]
async fn a_body_that_stops_half_way_is_no_body() {
    for half in ["content-length: 10\r\n\r\nhello", "transfer-encoding: chunked\r\n\r\n5\r\nhello\r\n"] {
        let answer = format!("HTTP/1.1 200 OK\r\n{half}");
        let error = read(&[answer.as_bytes()], Then::HangsUp, Limits::default()).await.unwrap_err();
        assert!(matches!(error, FetchError::Broken { .. }) && error.is_passing(), "{half}: {error}");
    }
}

#[tokio::test]
async fn a_body_ends_at_the_limit_whatever_its_length_is_said_to_be() {
    let limits = Limits { size: 1000, ..Limits::default() };
    let (fits, over) = ("x".repeat(1000), "x".repeat(1001));
    let told = |body: &str| format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{body}", body.len());
    let untold = |body: &str| format!("HTTP/1.1 200 OK\r\nconnection: close\r\n\r\n{body}");
    let chunked = |body: &str| {
        format!("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n{:x}\r\n{body}\r\n0\r\n\r\n", body.len())
    };
    for (fits, over) in [(told(&fits), told(&over)), (untold(&fits), untold(&over)), (chunked(&fits), chunked(&over))] {
        assert_eq!(read(&[fits.as_bytes()], Then::HangsUp, limits).await.unwrap().len(), 1000);
        assert_eq!(read(&[over.as_bytes()], Then::HangsUp, limits).await, Err(FetchError::TooLarge { limit: 1000 }));
    }
    // Said to be short: nothing past that is read. Said to be long: refused before any of it comes.
    let short = format!("HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\n{over}");
    assert_eq!(read(&[short.as_bytes()], Then::HangsUp, limits).await.unwrap(), b"xxxxx");
    let long = b"HTTP/1.1 200 OK\r\ncontent-length: 1152921504606846976\r\n\r\n";
    assert_eq!(read(&[long], Then::IsSilent, limits).await, Err(FetchError::TooLarge { limit: 1000 }));
    assert_eq!(
        read(&[ENDLESS], Then::Trickles, Limits { size: 3, ..limits }).await,
        Err(FetchError::TooLarge { limit: 3 })
    );
}

#[tokio::test]
async fn a_compressed_body_is_not_read_and_its_head_is() {
    let zipped = b"HTTP/1.1 200 OK\r\ncontent-encoding: gzip\r\ncontent-length: 5\r\n\r\n\x1f\x8bxxx";
    let error = read(&[zipped], Then::HangsUp, Limits::default()).await.unwrap_err();
    assert_eq!(error.to_string(), "a.test sent its answer compressed, which it was not asked for");
    let plain = b"HTTP/1.1 200 OK\r\ncontent-encoding: identity\r\ncontent-length: 5\r\n\r\nhello";
    assert_eq!(read(&[plain], Then::HangsUp, Limits::default()).await.unwrap(), b"hello");
}

#[tokio::test]
async fn a_body_comes_in_pieces() {
    let body = vec![b'x'; 300_000];
    let answer = [format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n", body.len()).into_bytes(), body].concat();
    let server = Scripted::start(&[&answer], Then::HangsUp).await;
    let ask = Request::get(format!("http://a.test:{}/", server.address.port()), Trust::Caller);
    let mut answer: Answer = fetcher(policy(), here()).fetch(ask).await.unwrap();
    let (mut pieces, mut count) = (0, 0);
    while let Some(piece) = answer.chunk().await.unwrap() {
        pieces += 1;
        count += piece.len();
    }
    assert!(count == 300_000 && pieces > 1, "{count} in {pieces}");
    assert_eq!(answer.chunk().await, Ok(None));
}

#[tokio::test]
async fn asking_for_the_head_alone_is_not_about_the_size() {
    let server = Scripted::start(&[b"HTTP/1.1 200 OK\r\ncontent-length: 5000\r\n\r\n"], Then::HangsUp).await;
    let ask = Request::new(reqwest::Method::HEAD, format!("http://a.test:{}/", server.address.port()), Trust::Caller);
    let answer = fetcher(policy(), here()).fetch(Request { limits: brisk(), ..ask }).await.unwrap();
    assert_eq!(answer.headers()["content-length"], "5000");
    assert_eq!(answer.bytes().await.unwrap(), b"");
}
