//! A tunnel through a proxy, on a connection that somebody else has made to it.
//!
//! What the proxy answers is bounded in size by the two libraries that read it, and in time by whoever calls.

use std::net::SocketAddr;
use std::pin::pin;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http_body_util::Empty;
use hyper::client::conn::http1;
use hyper::header::{HOST, HeaderValue, PROXY_AUTHORIZATION};
use hyper::{Method, Request, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio_socks::Error as Socks;
use tokio_socks::tcp::Socks5Stream;

use super::{Credentials, Proxy, ProxyKind};

/// A proxy that says more than this before the tunnel stands is none; in bytes.
const LONGEST_ANSWER: usize = 16 * 1024;
/// The same, in headers.
const MOST_HEADERS: usize = 64;

/// Where the tunnel ends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    /// The proxy finds out where that is.
    Name(String, u16),
    /// It is known already.
    Address(SocketAddr),
}

impl Target {
    /// `HOST:PORT`.
    #[must_use]
    pub fn authority(&self) -> String {
        match self {
            Self::Name(host, port) => authority(host, *port),
            Self::Address(address) => address.to_string(),
        }
    }
}

/// `HOST:PORT`, with brackets around an IPv6 address.
pub(super) fn authority(host: &str, port: u16) -> String {
    if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") }
}

/// There is no tunnel. Starts with which proxy; says nothing of user and password.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{proxy} {what}")]
pub struct TunnelError {
    proxy: String,
    what: String,
    about_the_target: bool,
}

impl TunnelError {
    /// The proxy itself works: another target may be reached through it.
    #[must_use]
    pub const fn is_about_the_target(&self) -> bool {
        self.about_the_target
    }
}

/// What went wrong, before it is known which proxy that was.
struct Refusal {
    what: String,
    about_the_target: bool,
}

impl Refusal {
    fn proxy(what: impl Into<String>) -> Self {
        Self { what: what.into(), about_the_target: false }
    }

    fn target(what: String) -> Self {
        Self { what, about_the_target: true }
    }
}

/// Has the proxy at the other end of `stream` connect it to `target`. Takes as long as the proxy does: give it a limit.
///
/// # Errors
/// [`TunnelError`] says what the proxy answered instead.
pub async fn open_tunnel(stream: TcpStream, proxy: &Proxy, target: &Target) -> Result<TcpStream, TunnelError> {
    let opened = match proxy.kind() {
        ProxyKind::Http => connect(stream, proxy, target).await,
        ProxyKind::Socks5 | ProxyKind::Socks5h => socks(stream, proxy, target).await,
    };
    opened.map_err(|Refusal { what, about_the_target }| TunnelError {
        proxy: proxy.to_string(),
        what,
        about_the_target,
    })
}

async fn connect(stream: TcpStream, proxy: &Proxy, target: &Target) -> Result<TcpStream, Refusal> {
    let (mut requests, connection) = http1::Builder::new()
        .max_buf_size(LONGEST_ANSWER)
        .max_headers(MOST_HEADERS)
        .handshake(TokioIo::new(stream))
        .await
        .map_err(|error| not_http(&error))?;
    let request = connect_request(proxy.credentials(), &target.authority())?;
    let mut answer = pin!(async move { requests.send_request(request).await.map(|answer| answer.status()) });
    // Ends when the tunnel stands, or with the connection.
    let mut connection = pin!(connection.without_shutdown());
    let mut ended = None;
    let status = tokio::select! {
        biased;
        status = &mut answer => status,
        parts = &mut connection => {
            ended = Some(parts);
            answer.await
        }
    };
    let status = status.map_err(|error| not_http(&error))?;
    if !status.is_success() {
        return Err(refused(status, proxy.credentials().is_some(), &target.authority()));
    }
    let parts = match ended {
        Some(parts) => parts,
        None => connection.await,
    };
    let parts = parts.map_err(|error| not_http(&error))?;
    if !parts.read_buf.is_empty() {
        return Err(Refusal::proxy("sent more than it was asked for; is it an HTTP proxy?"));
    }
    Ok(parts.io.into_inner())
}

fn connect_request(credentials: Option<&Credentials>, authority: &str) -> Result<Request<Empty<Bytes>>, Refusal> {
    let mut request = Request::builder().method(Method::CONNECT).uri(authority).header(HOST, authority);
    if let Some(Credentials { user, password }) = credentials {
        let basic = format!("Basic {}", STANDARD.encode(format!("{user}:{password}")));
        let mut basic = HeaderValue::try_from(basic).map_err(|_| Refusal::proxy("cannot be told the password"))?;
        basic.set_sensitive(true);
        request = request.header(PROXY_AUTHORIZATION, basic);
    }
    request.body(Empty::new()).map_err(|error| Refusal::target(format!("cannot be asked for {authority}: {error}")))
}

fn refused(status: StatusCode, has_credentials: bool, authority: &str) -> Refusal {
    let code = status.as_u16();
    match code {
        407 if has_credentials => Refusal::proxy("refused: 407, it does not take the user and password"),
        407 => Refusal::proxy("refused: 407, it wants a user and password"),
        401 | 403 => Refusal::target(format!("refused: {code}, it does not let this machine connect to {authority}")),
        502..=504 => Refusal::target(format!("refused: {code}, it cannot reach {authority}")),
        _ => {
            let words = status.canonical_reason().map(|words| format!(" {words}")).unwrap_or_default();
            Refusal::proxy(format!("refused: {code}{words}; does it allow CONNECT to {authority}?"))
        }
    }
}

/// What hyper makes of an answer that is none.
fn not_http(error: &hyper::Error) -> Refusal {
    if error.is_parse_too_large() {
        return Refusal::proxy("sent far too long an answer; is it an HTTP proxy?");
    }
    if error.is_incomplete_message() || error.is_closed() || error.is_canceled() {
        return Refusal::proxy("closed the connection without an answer");
    }
    match std::error::Error::source(error).and_then(|cause| cause.downcast_ref::<std::io::Error>()) {
        Some(cause) => Refusal::proxy(format!("broke the connection: {cause}")),
        None => Refusal::proxy("is not an HTTP proxy: what it answers is no HTTP"),
    }
}

async fn socks(stream: TcpStream, proxy: &Proxy, target: &Target) -> Result<TcpStream, Refusal> {
    let authority = target.authority();
    let target = match target {
        Target::Name(host, port) => host.parse().map_or_else(
            |_| tokio_socks::TargetAddr::Domain(host.as_str().into(), *port),
            |ip| tokio_socks::TargetAddr::Ip(SocketAddr::new(ip, *port)),
        ),
        Target::Address(address) => tokio_socks::TargetAddr::Ip(*address),
    };
    let opened = match proxy.credentials() {
        Some(Credentials { user, password }) => {
            Socks5Stream::connect_with_password_and_socket(stream, target, user, password).await
        }
        None => Socks5Stream::connect_with_socket(stream, target).await,
    };
    let has_credentials = proxy.credentials().is_some();
    opened.map(Socks5Stream::into_inner).map_err(|error| socks_refusal(&error, has_credentials, &authority))
}

fn socks_refusal(error: &Socks, has_credentials: bool, authority: &str) -> Refusal {
    let words = match error {
        Socks::NoAcceptableAuthMethods | Socks::AuthorizationRequired if has_credentials => {
            return Refusal::proxy("refused: it does not let in by user and password");
        }
        Socks::NoAcceptableAuthMethods | Socks::AuthorizationRequired => {
            return Refusal::proxy("refused: it wants a user and password");
        }
        Socks::PasswordAuthFailure(_) => return Refusal::proxy("refused: it does not take the user and password"),
        Socks::Io(cause) if cause.kind() == std::io::ErrorKind::UnexpectedEof => {
            return Refusal::proxy("closed the connection without a whole answer");
        }
        Socks::Io(cause) => return Refusal::proxy(format!("broke the connection: {cause}")),
        Socks::ConnectionNotAllowedByRuleset => "its rules do not allow",
        Socks::CommandNotSupported => "it does not do",
        Socks::AddressTypeNotSupported => "it does not know that kind of address in",
        Socks::GeneralSocksServerFailure => "it failed at",
        Socks::NetworkUnreachable => "the network is unreachable for",
        Socks::HostUnreachable => "the host is unreachable for",
        Socks::ConnectionRefused => "the other side refused",
        Socks::TtlExpired => "the time ran out for",
        _ => return Refusal::proxy("is not a SOCKS5 proxy: what it answers is no SOCKS5"),
    };
    Refusal::target(format!("refused: {words} a connection to {authority}"))
}

#[cfg(test)]
#[path = "tunnel_tests.rs"]
mod tests;
