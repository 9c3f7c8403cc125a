use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio_rustls::TlsAcceptor;

use super::*;

/// Gives one answer to everybody, in private, as `a.test`; and what to believe it by.
async fn private_server(answer: Vec<u8>) -> (u16, reqwest::Certificate, tokio_util::task::AbortOnDropHandle<()>) {
    let made = rcgen::generate_simple_self_signed(vec!["a.test".to_owned()]).unwrap();
    let root = reqwest::Certificate::from_der(made.cert.der()).unwrap();
    let key = rustls::pki_types::PrivateKeyDer::try_from(made.signing_key.serialize_der()).unwrap();
    let config = rustls::ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![made.cert.der().clone()], key)
        .unwrap();
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let task = tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let Ok(mut stream) = acceptor.accept(stream).await else { continue };
            let _ = stream.read(&mut [0; 4096]).await;
            let _ = stream.write_all(&answer).await;
            let _ = stream.shutdown().await;
        }
    });
    (port, root, tokio_util::task::AbortOnDropHandle::new(task))
}

#[tokio::test]
async fn a_certificate_is_believed_only_by_its_authority_and_name() {
    let (port, root, _server) = private_server(OK.to_vec()).await;
    let ask = |fetcher: Fetcher, host: &str| {
        let request = Request::get(format!("https://{host}:{port}/"), Trust::Caller);
        async move { fetcher.fetch(request).await?.bytes().await }
    };
    let stranger = ask(fetcher(policy(), here()), "a.test").await.unwrap_err();
    assert!(matches!(stranger, FetchError::Tls { .. }), "{stranger}");
    assert!(stranger.to_string().starts_with("no secure connection to a.test: invalid peer certificate"), "{stranger}");
    assert!(!stranger.is_passing());
    let believing = fetcher(policy(), here()).trusting(root);
    assert_eq!(ask(believing.clone(), "a.test").await.unwrap(), b"hello");
    let other_name = ask(believing, "b.test").await.unwrap_err();
    assert!(matches!(other_name, FetchError::Tls { .. }), "{other_name}");
}

#[tokio::test]
async fn a_redirect_out_of_tls_takes_no_secret_along() {
    let open = Scripted::start(&[OK], Then::HangsUp).await;
    let location = format!("http://a.test:{}/", open.address.port());
    let (port, root, _server) = private_server(redirect_to(&location)).await;
    let fetcher = fetcher(policy(), here()).trusting(root);
    let refused = fetcher.fetch(Request::get(format!("https://budi:rahasia@a.test:{port}/"), Trust::Caller)).await;
    assert!(matches!(refused, Err(FetchError::BadRedirect { .. })), "{refused:?}");
    assert_eq!(open.told().len(), 0);
    let answer = fetcher.fetch(Request::get(format!("https://a.test:{port}/"), Trust::Caller)).await.unwrap();
    assert_eq!(answer.bytes().await.unwrap(), b"hello");
}
