//! One step of a request: what is sent where, and where a redirect leads from there. Pure.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use percent_encoding::percent_decode_str;
use reqwest::header::{
    ACCEPT_ENCODING, AUTHORIZATION, CONNECTION, CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE, COOKIE, EXPECT, HOST,
    HeaderMap, HeaderName, HeaderValue, LOCATION, PROXY_AUTHORIZATION, TE, TRAILER, TRANSFER_ENCODING, UPGRADE,
};
use reqwest::{Method, StatusCode, Url};

use super::error::{BadRedirect, BadUrl, FetchError};
use super::guard::Trust;
use super::pattern::Host;
use super::request::Request;

/// No server takes more than this.
const LONGEST_URL: usize = 8192;
/// What the connection is about, and so ours to say.
const OURS: [HeaderName; 11] = [
    ACCEPT_ENCODING,
    CONNECTION,
    CONTENT_LENGTH,
    EXPECT,
    HOST,
    PROXY_AUTHORIZATION,
    TE,
    TRAILER,
    TRANSFER_ENCODING,
    UPGRADE,
    HeaderName::from_static("keep-alive"),
];

/// What is sent to one host.
#[derive(Clone)]
pub(super) struct Hop {
    /// Without user, password and fragment.
    pub(super) url: Url,
    pub(super) host: Host,
    pub(super) method: Method,
    pub(super) headers: HeaderMap,
    pub(super) body: Option<Bytes>,
    pub(super) trust: Trust,
}

impl Hop {
    /// What the request says.
    pub(super) fn first(request: &Request) -> Result<Self, FetchError> {
        let (url, host, credentials) = url(request.url.trim(), None)?;
        let mut headers = request.headers.clone();
        for name in OURS {
            headers.remove(name);
        }
        // Compressed, an answer could be made to outgrow every limit.
        headers.insert(ACCEPT_ENCODING, HeaderValue::from_static("identity"));
        if let Some(credentials) = credentials {
            headers.entry(AUTHORIZATION).or_insert(credentials);
        }
        let (method, body) = (request.method.clone(), request.body.clone());
        Ok(Self { url, host, method, headers, body, trust: request.trust })
    }

    /// Where an answer leads; nowhere when it is the answer.
    pub(super) fn next(&self, status: StatusCode, answer: &HeaderMap) -> Result<Option<Self>, FetchError> {
        let redirects = matches!(status.as_u16(), 301 | 302 | 303 | 307 | 308);
        let Some(location) = answer.get(LOCATION).filter(|_| redirects) else { return Ok(None) };
        let refused = |why: BadRedirect| FetchError::BadRedirect { host: self.host.to_string(), why };
        let location = std::str::from_utf8(location.as_bytes()).map_err(|_| refused(BadUrl::Unreadable.into()))?;
        let (url, host, credentials) = url(location, Some(&self.url)).map_err(|bad| refused(bad.into()))?;

        let mut next = Self { url, host, ..self.clone() };
        if becomes_get(status, &self.method) {
            next.method = Method::GET;
            next.body = None;
            for name in [CONTENT_TYPE, CONTENT_ENCODING] {
                next.headers.remove(name);
            }
        }
        let downgrade = self.url.scheme() == "https" && next.url.scheme() == "http";
        if downgrade && (next.body.is_some() || self.headers.iter().any(|header| is_secret(&header))) {
            return Err(refused(BadRedirect::Downgrade));
        }
        if !same_party(&self.url, &next.url) {
            next.headers = next.headers.iter().filter(|header| !is_secret(header)).map(owned).collect();
        }
        if next.host != self.host {
            next.trust = Trust::Caller;
        }
        if let Some(credentials) = credentials {
            next.headers.insert(AUTHORIZATION, credentials);
        }
        Ok(Some(next))
    }
}

/// A URL that can be fetched, who is there, and what its user and password are as a header.
fn url(text: &str, base: Option<&Url>) -> Result<(Url, Host, Option<HeaderValue>), BadUrl> {
    if text.len() > LONGEST_URL {
        return Err(BadUrl::TooLong);
    }
    let mut url = Url::options().base_url(base).parse(text).map_err(|_| BadUrl::Unreadable)?;
    if !matches!(url.scheme(), "http" | "https") {
        return Err(BadUrl::Scheme);
    }
    let credentials = basic(url.username(), url.password());
    let stripped = url.set_username("").and_then(|()| url.set_password(None));
    url.set_fragment(None);
    match (stripped, Host::of(&url)) {
        (Ok(()), Some(host)) => Ok((url, host, credentials)),
        _ => Err(BadUrl::Unreadable),
    }
}

fn basic(user: &str, password: Option<&str>) -> Option<HeaderValue> {
    if user.is_empty() && password.is_none() {
        return None;
    }
    let decoded = |text: &str| percent_decode_str(text).collect::<Vec<u8>>();
    let pair = [decoded(user), b":".to_vec(), decoded(password.unwrap_or_default())].concat();
    let mut value = HeaderValue::try_from(format!("Basic {}", STANDARD.encode(pair))).ok()?;
    value.set_sensitive(true);
    Some(value)
}

/// As browsers do: what was handed in is not handed in twice, unless the other side insists.
fn becomes_get(status: StatusCode, method: &Method) -> bool {
    match status.as_u16() {
        303 => !matches!(*method, Method::GET | Method::HEAD),
        301 | 302 => *method == Method::POST,
        _ => false,
    }
}

/// The same host and port; also when it only asks to be spoken to in private.
fn same_party(from: &Url, to: &Url) -> bool {
    let ports = (from.port_or_known_default(), to.port_or_known_default());
    let upgrade = (from.scheme(), to.scheme()) == ("http", "https") && ports == (Some(80), Some(443));
    from.host_str() == to.host_str() && (upgrade || (from.scheme() == to.scheme() && ports.0 == ports.1))
}

fn is_secret((name, value): &(&HeaderName, &HeaderValue)) -> bool {
    value.is_sensitive() || *name == AUTHORIZATION || *name == COOKIE
}

fn owned((name, value): (&HeaderName, &HeaderValue)) -> (HeaderName, HeaderValue) {
    (name.clone(), value.clone())
}

#[cfg(test)]
#[path = "hop_tests.rs"]
mod tests;
