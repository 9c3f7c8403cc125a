use super::*;

fn through(proxy: &str, server: &Scripted, names: Arc<Names>) -> Fetcher {
    let proxy = Proxy::parse(&format!("{proxy}{}", server.address)).unwrap();
    Fetcher::new(watch::Sender::new(policy()).subscribe(), Some(proxy)).resolving_by(names)
}

/// Another process, for a test must not change its own environment.
#[tokio::test]
async fn the_proxies_of_the_environment_are_ignored() {
    let proxy = Scripted::start(&[OK], Then::HangsUp).await;
    let mut run = std::process::Command::new(std::env::current_exe().unwrap());
    let module = module_path!().split_once("::").unwrap().1.rsplit_once("::").unwrap().0;
    run.args(["--exact", &format!("{module}::a_page_comes_whole_from_where_its_name_is")]);
    for name in ["http_proxy", "HTTP_PROXY", "https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"] {
        run.env(name, format!("http://{}", proxy.address));
    }
    run.env_remove("no_proxy").env_remove("NO_PROXY").env_remove("REQUEST_METHOD");
    let output = tokio::task::spawn_blocking(move || run.output()).await.unwrap().unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && said.contains("1 passed"), "{said}");
    assert!(proxy.saw_nobody().await);
}

#[tokio::test]
async fn what_is_refused_is_not_asked_of_the_proxy_either() {
    for kind in ["http://", "socks5://", "socks5h://"] {
        let proxy = Scripted::start(&[OK], Then::HangsUp).await;
        let fetcher = through(kind, &proxy, here());
        for url in ["http://inner.example/", "http://127.0.0.1/", "https://[::1]/", "http://nowhere.example/"] {
            assert!(fetcher.fetch(Request::get(url, Trust::Caller)).await.is_err(), "{kind} {url}");
        }
        assert!(proxy.saw_nobody().await, "{kind}");
    }
}

#[tokio::test]
async fn an_http_proxy_is_told_the_name() {
    let proxy = Scripted::start(&[OK], Then::HangsUp).await;
    let fetcher = through("http://budi:rahasia@", &proxy, Names::new(&[("c.example", "93.184.216.34")]));
    let answer = fetcher.fetch(Request::get("http://c.example/x", Trust::Caller)).await.unwrap();
    assert_eq!(answer.bytes().await.unwrap(), b"hello");
    let told = lines(&proxy.told()).concat();
    assert!(told.starts_with("get http://c.example/x http/1.1\r\n"), "{told}");
    assert!(told.contains("proxy-authorization: basic "), "{told}");

    // What an administrator names may be known to the proxy alone.
    let answer = fetcher.fetch(Request::get("http://inner.corp/x", Trust::Administrator)).await.unwrap();
    assert_eq!(answer.bytes().await.unwrap(), b"hello");

    let proxy = Scripted::start(&[b"HTTP/1.1 403 Forbidden\r\n\r\n"], Then::HangsUp).await;
    let fetcher = through("http://budi:rahasia@", &proxy, Names::new(&[("c.example", "93.184.216.34")]));
    let error = fetcher.fetch(Request::get("https://c.example/x", Trust::Caller)).await.unwrap_err();
    assert!(error.to_string().starts_with(&format!("cannot connect to c.example: proxy {}", proxy.address)), "{error}");
    assert!(!format!("{error:?}").contains("rahasia"), "{error:?}");
    assert!(lines(&proxy.told()).concat().starts_with("connect c.example:443 http/1.1\r\n"));
}

/// Names are resolved here, so the proxy gets the very address that was looked at.
#[tokio::test]
async fn a_socks5_proxy_is_told_the_address_that_was_looked_at() {
    let takes_it: &[u8] = &[5, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    let proxy = Scripted::start(&[&[5, 0], takes_it, OK], Then::HangsUp).await;
    let names = Names::new(&[("c.example", "93.184.216.34")]);
    names.then("c.example", "127.0.0.1");
    let fetcher = through("socks5://", &proxy, names.clone());
    let answer = fetcher.fetch(Request::get("http://c.example/x", Trust::Caller)).await.unwrap();
    assert_eq!(answer.bytes().await.unwrap(), b"hello");
    let told = proxy.told().concat();
    let address = [5, 1, 0, 1, 93, 184, 216, 34, 0, 80];
    assert!(told.windows(address.len()).any(|part| part == address), "{told:?}");
    assert_eq!(names.asked(), ["c.example"]);
}

#[tokio::test]
async fn a_socks5h_proxy_is_told_the_name() {
    let takes_it: &[u8] = &[5, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    let proxy = Scripted::start(&[&[5, 0], takes_it, OK], Then::HangsUp).await;
    let fetcher = through("socks5h://", &proxy, Names::new(&[("c.example", "93.184.216.34")]));
    let answer = fetcher.fetch(Request::get("http://c.example/x", Trust::Caller)).await.unwrap();
    assert_eq!(answer.bytes().await.unwrap(), b"hello");
    let told = proxy.told().concat();
    assert!(told.windows(9).any(|part| part == b"c.example"), "{told:?}");
}
