//! `network.proxy`: what it may say, and what of it may be shown.
//!
//! User and password leave this module in [`Credentials`] only, for whoever speaks to the proxy; `Debug`, `Display`
//! and every refusal leave them out.

use std::fmt;
use std::net::IpAddr;

use percent_encoding::percent_decode_str;
use reqwest::Url;

/// What SOCKS5 has room for.
const LONGEST: usize = 255;

/// How the proxy is spoken to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ProxyKind {
    /// `http://`: `CONNECT`, with Basic authentication. The proxy resolves names.
    Http,
    /// `socks5://`: names are resolved here.
    Socks5,
    /// `socks5h://`: the proxy resolves names.
    Socks5h,
}

impl ProxyKind {
    /// The scheme in front of the address.
    #[must_use]
    pub const fn scheme(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Socks5 => "socks5",
            Self::Socks5h => "socks5h",
        }
    }
}

/// Who we are to the proxy; decoded. Has no `Debug`, so that nothing prints it by mistake.
#[derive(Clone, PartialEq, Eq)]
pub struct Credentials {
    /// Never empty.
    pub user: String,
    /// May be empty for an HTTP proxy.
    pub password: String,
}

/// The one proxy that everything goes through. Shown without user and password: `proxy 127.0.0.1:8080`.
#[derive(Clone, PartialEq, Eq)]
pub struct Proxy {
    kind: ProxyKind,
    host: String,
    port: u16,
    credentials: Option<Credentials>,
}

/// The value is no proxy. None of these repeats what was written: it may hold a password.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BadProxy {
    /// No `…://`.
    #[error("it has no scheme in front")]
    NoScheme,
    /// `https://`, `socks4://` …
    #[error("its scheme is none of http, socks5 and socks5h")]
    OtherScheme,
    /// The URL parser refuses it.
    #[error("it cannot be read; in user and password, write anything but letters and digits as %XX")]
    Unreadable,
    /// Nothing, or something that is no name, between scheme and port.
    #[error("its host is neither a name nor an IP address")]
    Host,
    /// No port, or 0.
    #[error("its port is missing")]
    NoPort,
    /// A path, a query or a fragment.
    #[error("something follows the port; in user and password, write / ? and # as %2F %3F and %23")]
    Trailing,
    /// What is escaped is no text, or has line breaks and the like.
    #[error("its user or password is no printable text")]
    Unprintable,
    /// A password without a user.
    #[error("it has a password and no user")]
    NoUser,
    /// Basic authentication ends the user at the first colon.
    #[error("its user has a colon, which an HTTP proxy cannot be told")]
    Colon,
    /// SOCKS5 has room for 1 to 255 bytes.
    #[error("its user or password has not 1 to 255 bytes, which is what SOCKS5 has room for")]
    Length,
}

impl Proxy {
    /// What would fit.
    pub const EXPECTED: &str = "http://[USER:PASSWORD@]HOST:PORT, or the same with socks5:// (names are resolved \
                                here) or socks5h:// (by the proxy)";

    /// Reads `SCHEME://[USER[:PASSWORD]@]HOST:PORT`.
    ///
    /// # Errors
    /// [`BadProxy`], without any part of the text.
    pub fn parse(text: &str) -> Result<Self, BadProxy> {
        let (scheme, rest) = text.trim().split_once("://").ok_or(BadProxy::NoScheme)?;
        let kind = [ProxyKind::Http, ProxyKind::Socks5, ProxyKind::Socks5h]
            .into_iter()
            .find(|kind| kind.scheme().eq_ignore_ascii_case(scheme))
            .ok_or(BadProxy::OtherScheme)?;
        // By a scheme that the parser has no opinion of: for http it would drop port 80 and guess at addresses.
        let url = Url::parse(&format!("socks5://{rest}")).map_err(|_| BadProxy::Unreadable)?;
        if !matches!(url.path(), "" | "/") || url.query().is_some() || url.fragment().is_some() {
            return Err(BadProxy::Trailing);
        }
        let host = url.host_str().and_then(host).ok_or(BadProxy::Host)?;
        let port = url.port().filter(|port| *port != 0).ok_or(BadProxy::NoPort)?;
        let credentials = credentials(kind, url.username(), url.password())?;
        Ok(Self { kind, host, port, credentials })
    }

    /// How it is spoken to.
    #[must_use]
    pub const fn kind(&self) -> ProxyKind {
        self.kind
    }

    /// A name or an IP address, the latter without brackets.
    #[must_use]
    pub fn host(&self) -> &str {
        &self.host
    }

    /// Its port.
    #[must_use]
    pub const fn port(&self) -> u16 {
        self.port
    }

    /// Who we are to it.
    #[must_use]
    pub const fn credentials(&self) -> Option<&Credentials> {
        self.credentials.as_ref()
    }

    /// As a URL, without user and password.
    #[must_use]
    pub fn url(&self) -> String {
        format!("{}://{}", self.kind.scheme(), self.address())
    }

    /// For reqwest, to send everything through.
    ///
    /// # Errors
    /// What reqwest says; it repeats neither user nor password.
    pub fn for_every_request(&self) -> reqwest::Result<reqwest::Proxy> {
        let through = reqwest::Proxy::all(self.url())?;
        Ok(match &self.credentials {
            Some(Credentials { user, password }) => through.basic_auth(user, password),
            None => through,
        })
    }

    fn address(&self) -> String {
        super::tunnel::authority(&self.host, self.port)
    }
}

impl fmt::Display for Proxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "proxy {}", self.address())
    }
}

impl fmt::Debug for Proxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let masked = if self.credentials.is_some() { "***@" } else { "" };
        write!(f, "Proxy({}://{masked}{})", self.kind.scheme(), self.address())
    }
}

/// A host that can be handed to name servers and proxies as it is.
fn host(written: &str) -> Option<String> {
    let bare = written.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
    if let Some(v6) = bare {
        return v6.parse::<IpAddr>().ok().map(|address| address.to_string());
    }
    let fits = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_');
    let is_host = (1..=253).contains(&written.len()) && written.chars().all(fits);
    is_host.then(|| written.to_ascii_lowercase())
}

fn credentials(kind: ProxyKind, user: &str, password: Option<&str>) -> Result<Option<Credentials>, BadProxy> {
    let (user, password) = (decoded(user)?, decoded(password.unwrap_or_default())?);
    match kind {
        _ if user.is_empty() && password.is_empty() => return Ok(None),
        _ if user.is_empty() => return Err(BadProxy::NoUser),
        ProxyKind::Http if user.contains(':') => return Err(BadProxy::Colon),
        ProxyKind::Http => {}
        ProxyKind::Socks5 | ProxyKind::Socks5h => {
            let fits = |text: &str| (1..=LONGEST).contains(&text.len());
            if !fits(&user) || !fits(&password) {
                return Err(BadProxy::Length);
            }
        }
    }
    Ok(Some(Credentials { user, password }))
}

fn decoded(text: &str) -> Result<String, BadProxy> {
    let text = percent_decode_str(text).decode_utf8().map_err(|_| BadProxy::Unprintable)?;
    if text.chars().any(char::is_control) { Err(BadProxy::Unprintable) } else { Ok(text.into_owned()) }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn parts(text: &str) -> (ProxyKind, String, u16, Option<(String, String)>) {
        let proxy = Proxy::parse(text).unwrap();
        let credentials = proxy.credentials.map(|Credentials { user, password }| (user, password));
        (proxy.kind, proxy.host, proxy.port, credentials)
    }

    #[test]
    fn three_kinds_with_and_without_credentials() {
        let pair = |user: &str, password: &str| Some((user.to_owned(), password.to_owned()));
        let host = |host: &str| host.to_owned();
        let cases = [
            ("http://127.0.0.1:8080", (ProxyKind::Http, host("127.0.0.1"), 8080, None)),
            ("HTTP://Proxy.Example:80/", (ProxyKind::Http, host("proxy.example"), 80, None)),
            ("http://[::1]:3128", (ProxyKind::Http, host("::1"), 3128, None)),
            ("http://budi@h:1", (ProxyKind::Http, host("h"), 1, pair("budi", ""))),
            ("http://@h:1", (ProxyKind::Http, host("h"), 1, None)),
            (" socks5://h:1080\n", (ProxyKind::Socks5, host("h"), 1080, None)),
            ("socks5h://budi:p%40ss%3A%2f@h:1", (ProxyKind::Socks5h, host("h"), 1, pair("budi", "p@ss:/"))),
            ("http://budi:p@ss:w@h:1", (ProxyKind::Http, host("h"), 1, pair("budi", "p@ss:w"))),
        ];
        for (text, expected) in cases {
            assert_eq!(parts(text), expected, "{text:?}");
        }
    }

    #[test]
    fn what_is_no_proxy_has_its_own_reason() {
        let long = format!("socks5://u:{}@h:1", "p".repeat(256));
        let cases = [
            ("", BadProxy::NoScheme),
            ("127.0.0.1:8080", BadProxy::NoScheme),
            ("h:8080:budi:rahasia", BadProxy::NoScheme),
            ("https://h:1", BadProxy::OtherScheme),
            ("socks4://h:1", BadProxy::OtherScheme),
            ("socks://h:1", BadProxy::OtherScheme),
            ("http://h:99999", BadProxy::Unreadable),
            ("http://[::1:80", BadProxy::Unreadable),
            ("http://budi:rahasia/@h:1", BadProxy::Unreadable),
            ("http://", BadProxy::Host),
            ("http://pröxy:1", BadProxy::Host),
            ("http://a%20b:1", BadProxy::Host),
            ("http://h", BadProxy::NoPort),
            ("http://h:0", BadProxy::NoPort),
            ("http://budi:rahasia@h", BadProxy::NoPort),
            ("http://h:1/path", BadProxy::Trailing),
            ("http://h:1?x", BadProxy::Trailing),
            ("http://budi:1#rahasia@h:1", BadProxy::Trailing),
            ("http://budi:%ff@h:1", BadProxy::Unprintable),
            ("http://budi:a%0d%0ab@h:1", BadProxy::Unprintable),
            ("http://:rahasia@h:1", BadProxy::NoUser),
            ("http://bu%3adi:rahasia@h:1", BadProxy::Colon),
            ("socks5://budi@h:1", BadProxy::Length),
            (long.as_str(), BadProxy::Length),
        ];
        for (text, expected) in cases {
            let refusal = Proxy::parse(text).unwrap_err();
            assert_eq!(refusal, expected, "{text:?}");
            assert!(!refusal.to_string().contains("rahasia") && !refusal.to_string().contains("budi"));
        }
    }

    #[test]
    fn credentials_are_shown_nowhere() {
        let proxy = Proxy::parse("socks5h://budi:rahasia@[::1]:1080").unwrap();
        assert_eq!(format!("{proxy:?}"), "Proxy(socks5h://***@[::1]:1080)");
        assert_eq!(proxy.to_string(), "proxy [::1]:1080");
        assert_eq!(proxy.url(), "socks5h://[::1]:1080");
        let open = Proxy::parse("http://h:8080").unwrap();
        assert_eq!(format!("{open:?}"), "Proxy(http://h:8080)");
    }
}
