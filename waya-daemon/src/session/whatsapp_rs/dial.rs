//! The way to WhatsApp's server, straight or through the proxy: every address of a name is tried, the connection is
//! kept alive, one limit holds for all of it, and what goes wrong is kept as a reason for the user.

use std::fmt::Display;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use reqwest::Url;
use reqwest::header::{HeaderValue, ORIGIN};
use tokio::net::TcpStream;
use tokio_websockets::ClientBuilder;
use whatsapp_rust::async_channel::Receiver;
use whatsapp_rust::transport::{
    Connector, Transport, TransportEvent, TransportFactory, default_tls_connector, from_websocket,
};
use whatsapp_rust::wacore::net::WHATSAPP_WEB_ORIGIN;

use super::guard::Guard;
use super::progress::{Progress, Watched};
use crate::net::{Proxy, ProxyKind, Target, open_tunnel};

/// One address may take this long, when there are others to try.
const ADDRESS_TAKES: Duration = Duration::from_secs(6);
/// All of it, from the name server's answer to the WebSocket; the library would give up after 20 s, without a word.
const DIAL_TAKES: Duration = Duration::from_secs(18);
/// A silent peer is asked for a sign of life after this long, and given up after three unanswered questions.
const KEEP_ALIVE_AFTER: Duration = Duration::from_mins(1);

/// Makes connections to one URL.
#[derive(Debug)]
pub struct Dialer {
    url: Url,
    proxy: Option<Proxy>,
    guard: Guard,
    progress: Arc<Progress>,
    takes: Duration,
}

impl Dialer {
    /// A dialer for `url`, which was checked by [`super::check_url`], through `proxy` if there is one.
    #[must_use]
    pub const fn new(url: Url, proxy: Option<Proxy>, guard: Guard, progress: Arc<Progress>) -> Self {
        Self { url, proxy, guard, progress, takes: DIAL_TAKES }
    }

    async fn dial(&self) -> anyhow::Result<(Arc<dyn Transport>, Receiver<TransportEvent>)> {
        let (host, port) = self.target()?;
        let (stream, way) = match &self.proxy {
            None => (self.connect(&host, &host, port).await?, String::new()),
            Some(proxy) => (self.through(proxy, &host, port).await?, format!(" (through {proxy})")),
        };

        self.progress.attempt(format!("{host}:{port} did not complete the connection{way}"));
        let secure = self.url.scheme() == "wss";
        let connector = if secure { default_tls_connector() } else { Connector::Plain };
        let stream = Watched { inner: stream, progress: Arc::clone(&self.progress) };
        let stream = connector.wrap(&host, stream).await.map_err(|error| refused(&host, port, &way, &error))?;
        let (socket, _) = ClientBuilder::new()
            .uri(self.url.as_str())?
            .add_header(ORIGIN, HeaderValue::from_static(WHATSAPP_WEB_ORIGIN))?
            .connect_on(stream)
            .await
            .map_err(|error| refused(&host, port, &way, &error))?;
        self.progress.opened();
        Ok(from_websocket(socket))
    }

    fn target(&self) -> anyhow::Result<(String, u16)> {
        let written = self.url.host_str().unwrap_or_default();
        self.guard.check_host(written)?;
        let host = written.trim_start_matches('[').trim_end_matches(']').to_owned();
        let port = self.url.port().unwrap_or(if self.url.scheme() == "wss" { 443 } else { 80 });
        Ok((host, port))
    }

    /// A tunnel. Where names are resolved here, every address of the target is tried like without a proxy.
    async fn through(&self, proxy: &Proxy, host: &str, port: u16) -> anyhow::Result<TcpStream> {
        self.guard.check_host(proxy.host())?;
        let targets = match proxy.kind() {
            ProxyKind::Http | ProxyKind::Socks5h => vec![Target::Name(host.to_owned(), port)],
            ProxyKind::Socks5 => self.resolve(host, host, port).await?.into_iter().map(Target::Address).collect(),
        };
        let takes = if targets.len() > 1 { ADDRESS_TAKES } else { self.takes };
        let mut trouble = anyhow::anyhow!("{host} has no address");
        for target in targets {
            if let Target::Address(address) = target {
                self.guard.check_address(address)?;
            }
            let stream = self.connect(&format!("proxy {}", proxy.host()), proxy.host(), proxy.port()).await?;
            let silent = format!("{proxy} did not answer in time when asked for {}", target.authority());
            self.progress.attempt(silent.clone());
            match tokio::time::timeout(takes, open_tunnel(stream, proxy, &target)).await {
                Ok(Ok(stream)) => return Ok(stream),
                Ok(Err(error)) if error.is_about_the_target() => trouble = error.into(),
                Ok(Err(error)) => return Err(error.into()),
                Err(_) => trouble = anyhow::anyhow!(silent),
            }
        }
        Err(trouble)
    }

    /// `name` is how the host is called in reasons.
    async fn connect(&self, name: &str, host: &str, port: u16) -> anyhow::Result<TcpStream> {
        let addresses = self.resolve(name, host, port).await?;
        self.first_that_answers(name, addresses.into_iter()).await
    }

    async fn resolve(&self, name: &str, host: &str, port: u16) -> anyhow::Result<Vec<SocketAddr>> {
        self.progress.attempt(format!("no answer from the name server for {name}"));
        let addresses = tokio::net::lookup_host((host, port)).await;
        Ok(addresses.map_err(|error| anyhow::anyhow!("cannot find {name}: {error}"))?.collect())
    }

    async fn first_that_answers(
        &self,
        name: &str,
        addresses: impl Iterator<Item = SocketAddr>,
    ) -> anyhow::Result<TcpStream> {
        let mut trouble = anyhow::anyhow!("{name} has no address");
        for address in addresses {
            self.guard.check_address(address)?;
            self.progress.attempt(format!("no answer from {name} ({address})"));
            match tokio::time::timeout(ADDRESS_TAKES, TcpStream::connect(address)).await {
                Ok(Ok(stream)) => {
                    keep_alive(&stream);
                    return Ok(stream);
                }
                Ok(Err(error)) => trouble = anyhow::anyhow!("cannot connect to {name} ({address}): {error}"),
                Err(_) => trouble = anyhow::anyhow!("no answer from {name} ({address})"),
            }
        }
        Err(trouble)
    }
}

fn refused(host: &str, port: u16, way: &str, error: &impl Display) -> anyhow::Error {
    anyhow::anyhow!("{host}:{port} refused the connection{way}: {error}")
}

/// Best effort: a connection without it only takes longer to be found dead.
fn keep_alive(stream: &TcpStream) {
    let settings = socket2::TcpKeepalive::new().with_time(KEEP_ALIVE_AFTER).with_interval(Duration::from_secs(20));
    let _ = socket2::SockRef::from(stream).set_tcp_keepalive(&settings.with_retries(3));
    let _ = stream.set_nodelay(true);
}

#[async_trait]
impl TransportFactory for Dialer {
    async fn create_transport(&self) -> anyhow::Result<(Arc<dyn Transport>, Receiver<TransportEvent>)> {
        match tokio::time::timeout(self.takes, self.dial()).await {
            Ok(dialled) => dialled.inspect_err(|error| self.progress.attempt(error.to_string())),
            // The step it was at is the reason.
            Err(_) => Err(anyhow::anyhow!(self.progress.trouble().unwrap_or_default())),
        }
    }
}

#[cfg(test)]
#[path = "dial_tests.rs"]
mod tests;
