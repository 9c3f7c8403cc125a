//! What may not be reached is not reached, not even for a connection.

use super::*;

/// All spellings of this machine, and how it can be called.
fn spellings(port: u16) -> Vec<String> {
    let hosts = [
        "127.0.0.1",
        "127.1",
        "2130706433",
        "0x7f.0.0.1",
        "0177.0.0.1",
        "127.0.0.1.",
        "0.0.0.0",
        "[::ffff:127.0.0.1]",
        "[::ffff:7f00:1]",
        "inner.example",
        "user@inner.example",
        "INNER.example.",
    ];
    hosts.iter().map(|host| format!("http://{host}:{port}/")).collect()
}

#[tokio::test]
async fn the_inside_is_refused_in_every_spelling_before_a_connection_is_made() {
    let server = Scripted::start(&[OK], Then::HangsUp).await;
    let fetcher = fetcher(policy(), here());
    for url in spellings(server.address.port()) {
        let refused = fetcher.fetch(Request::get(&url, Trust::Caller)).await.unwrap_err();
        assert!(matches!(refused, FetchError::Forbidden(_)), "{url}: {refused}");
        assert!(refused.to_string().contains("network.allow_private"), "{url}: {refused}");
    }
    assert!(server.saw_nobody().await);
    let refused = fetcher.fetch(Request::get("http://169.254.169.254/latest/meta-data/", Trust::Caller)).await;
    assert_eq!(
        refused.unwrap_err().to_string(),
        "refused: 169.254.169.254 is a link-local address; allow it with network.allow_hosts or network.allow_private"
    );
}

#[tokio::test]
async fn the_inside_is_refused_by_ipv6_too() {
    let server = Scripted::start_at("[::1]:0".parse().unwrap(), &[OK], Then::HangsUp).await;
    let names = Names::new(&[("inner.example", "::1"), ("six.test", "::1")]);
    let port = server.address.port();
    for host in ["[::1]", "[0:0:0:0:0:0:0:1]", "inner.example"] {
        let ask = Request::get(format!("http://{host}:{port}/"), Trust::Caller);
        let refused = fetcher(policy(), names.clone()).fetch(ask).await.unwrap_err();
        assert!(matches!(refused, FetchError::Forbidden(_)), "{host}: {refused}");
    }
    assert!(server.saw_nobody().await);
    let ask = Request::get(format!("http://six.test:{port}/"), Trust::Caller);
    assert_eq!(fetcher(policy(), names).fetch(ask).await.unwrap().bytes().await.unwrap(), b"hello");
}

#[tokio::test]
async fn a_redirect_does_not_lead_inside() {
    let victim = Scripted::start(&[OK], Then::HangsUp).await;
    let mut inside = spellings(victim.address.port());
    inside.push("http://169.254.169.254/latest/meta-data/".to_owned());
    inside.push(format!("//127.0.0.1:{}/", victim.address.port()));
    for location in inside {
        let front = Scripted::start(&[&redirect_to(&location)], Then::HangsUp).await;
        let url = format!("http://a.test:{}/", front.address.port());
        // An administrator's word for the first host is no word for the next.
        for trust in [Trust::Caller, Trust::Administrator] {
            let refused = fetcher(policy(), here()).fetch(Request::get(&url, trust)).await.unwrap_err();
            assert!(matches!(refused, FetchError::Forbidden(_)), "{location}: {refused}");
        }
        assert_eq!(front.told().len(), 2);
    }
    assert!(victim.saw_nobody().await);
}

/// The name is where it may be when it is looked at, and inside a moment later.
#[tokio::test]
async fn what_was_looked_at_is_what_is_dialled() {
    let victim = Scripted::start(&[OK], Then::HangsUp).await;
    let port = victim.address.port();
    let url = format!("http://rebinds.example:{port}/");
    let again = redirect_to(&url);
    let front = Scripted::start_at(([127, 0, 0, 2], port).into(), &[&again], Then::HangsUp).await;

    let names = Names::new(&[("rebinds.example", "127.0.0.2")]);
    names.then("rebinds.example", "127.0.0.1");
    let policy = Policy { allow_hosts: patterns(&["127.0.0.2"]), ..Policy::default() };
    let fetcher = fetcher(policy, names.clone());
    let once = Request { redirects: 0, ..Request::get(&url, Trust::Caller) };
    assert_eq!(fetcher.fetch(once).await.unwrap().status(), StatusCode::FOUND);
    assert_eq!((front.told().len(), names.asked().len()), (1, 1));

    // The answer has changed: the next request is refused, and so is a redirect to the same name.
    let refused = fetcher.fetch(Request::get(&url, Trust::Caller)).await.unwrap_err();
    assert!(matches!(refused, FetchError::Forbidden(_)), "{refused}");
    let names = Names::new(&[("rebinds.example", "127.0.0.2")]);
    names.then("rebinds.example", "127.0.0.1");
    let refused = fetcher.resolving_by(names).fetch(Request::get(&url, Trust::Caller)).await.unwrap_err();
    assert!(matches!(refused, FetchError::Forbidden(_)), "{refused}");
    assert_eq!(front.told().len(), 2);
    assert!(victim.saw_nobody().await);
}

#[tokio::test]
async fn one_inner_address_among_others_is_refused_without_trying_any() {
    let server = Scripted::start(&[OK], Then::HangsUp).await;
    let names = Names::new(&[("mixed.example", "127.0.0.2 127.0.0.1")]);
    let policy = Policy { allow_hosts: patterns(&["127.0.0.1"]), ..Policy::default() };
    let ask = Request::get(format!("http://mixed.example:{}/", server.address.port()), Trust::Caller);
    let refused = fetcher(policy, names).fetch(ask).await.unwrap_err();
    assert!(refused.to_string().contains("127.0.0.2"), "{refused}");
    assert!(server.saw_nobody().await);
}

#[tokio::test]
async fn settings_hold_from_the_next_request_on() {
    let server = Scripted::start(&[OK], Then::HangsUp).await;
    let settings = watch::Sender::new(Policy::default());
    let fetcher = Fetcher::new(settings.subscribe(), None).resolving_by(here());
    let url = format!("http://inner.example:{}/", server.address.port());
    let ask = |trust| fetcher.fetch(Request::get(&url, trust));
    assert!(ask(Trust::Caller).await.is_err());
    assert_eq!(server.told().len(), 0);

    settings.send_replace(Policy { allow_private: true, ..Policy::default() });
    assert!(ask(Trust::Caller).await.is_ok());
    settings.send_replace(Policy { allow_hosts: patterns(&["inner.example"]), ..Policy::default() });
    assert!(ask(Trust::Caller).await.is_ok());
    settings.send_replace(Policy::default());
    assert!(ask(Trust::Caller).await.is_err());
    assert!(ask(Trust::Administrator).await.is_ok());
    assert_eq!(server.told().len(), 3);

    for deny in ["inner.example", "*.example", "127.0.0.0/8"] {
        let deny_hosts = patterns(&[deny]);
        settings.send_replace(Policy { allow_private: true, allow_hosts: patterns(&["inner.example"]), deny_hosts });
        for trust in [Trust::Caller, Trust::Administrator] {
            let refused = ask(trust).await.unwrap_err();
            assert_eq!(refused.to_string(), "refused: inner.example is in network.deny_hosts", "{deny}");
        }
    }
    assert_eq!(server.told().len(), 3);
}
