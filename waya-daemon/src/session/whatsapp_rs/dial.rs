//! The way to WhatsApp's server: every address of the name is tried, the connection is kept alive, and what goes
//! wrong is kept as a reason for the user (the client library would only log it).

use std::fmt::Display;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use async_trait::async_trait;
use reqwest::Url;
use reqwest::header::{HeaderValue, ORIGIN};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_websockets::ClientBuilder;
use whatsapp_rust::async_channel::Receiver;
use whatsapp_rust::transport::{
    Connector, Transport, TransportEvent, TransportFactory, default_tls_connector, from_websocket,
};
use whatsapp_rust::wacore::net::WHATSAPP_WEB_ORIGIN;

use super::guard::Guard;

/// One address may take this long; the library gives up on all of it after 20 s.
const ADDRESS_TAKES: Duration = Duration::from_secs(6);
/// A silent peer is asked for a sign of life after this long, and given up after three unanswered questions.
const KEEP_ALIVE_AFTER: Duration = Duration::from_mins(1);

/// How far a connection got, and what went wrong with it.
#[derive(Debug, Default)]
pub struct Progress(Mutex<Steps>);

#[derive(Debug, Default, Clone)]
struct Steps {
    trouble: Option<String>,
    open: bool,
    answered: bool,
    closed_by_peer: bool,
    through: bool,
}

impl Progress {
    fn steps(&self) -> std::sync::MutexGuard<'_, Steps> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A new connection begins.
    pub fn begin(&self) {
        *self.steps() = Steps::default();
    }

    /// What went wrong, in words; the first word counts, what follows is its consequence.
    pub fn blame(&self, trouble: impl Into<String>) {
        self.steps().trouble.get_or_insert_with(|| trouble.into());
    }

    /// The handshake is behind it: WhatsApp spoke to us.
    pub fn through(&self) {
        self.steps().through = true;
    }

    /// Logged in: what went wrong on the way there is of no interest any more.
    pub fn logged_in(&self) {
        let mut steps = self.steps();
        steps.through = true;
        steps.trouble = None;
    }

    /// Why the connection ended; `None` when somebody wanted it to.
    #[must_use]
    pub fn trouble(&self) -> Option<String> {
        let steps = self.steps().clone();
        match steps {
            Steps { trouble: Some(trouble), .. } => Some(trouble),
            Steps { through: true, .. } => None,
            Steps { open: false, .. } => Some("the connection to WhatsApp could not be made".to_owned()),
            Steps { closed_by_peer: true, .. } => {
                Some("WhatsApp closed the connection during the handshake".to_owned())
            }
            Steps { answered: true, .. } => Some(
                "WhatsApp's answer in the handshake was not accepted; something in between may be reading along"
                    .to_owned(),
            ),
            Steps { .. } => Some("WhatsApp did not answer the handshake".to_owned()),
        }
    }

    /// The step that is under way when the library gives up on dialling.
    fn attempt(&self, step: String) {
        self.steps().trouble = Some(step);
    }

    fn opened(&self) {
        *self.steps() = Steps { open: true, ..Steps::default() };
    }
}

/// Makes connections to one URL.
#[derive(Debug)]
pub struct Dialer {
    url: Url,
    guard: Guard,
    progress: Arc<Progress>,
}

impl Dialer {
    /// A dialer for `url`, which was checked by [`super::check_url`].
    #[must_use]
    pub const fn new(url: Url, guard: Guard, progress: Arc<Progress>) -> Self {
        Self { url, guard, progress }
    }

    async fn dial(&self) -> anyhow::Result<(Arc<dyn Transport>, Receiver<TransportEvent>)> {
        let (host, port) = self.target()?;
        self.progress.attempt(format!("no answer from the name server for {host}"));
        let addresses = tokio::net::lookup_host((host.as_str(), port))
            .await
            .map_err(|error| anyhow::anyhow!("cannot find {host}: {error}"))?;
        let stream = self.first_that_answers(&host, addresses).await?;

        self.progress.attempt(format!("{host}:{port} did not complete the connection"));
        let secure = self.url.scheme() == "wss";
        let connector = if secure { default_tls_connector() } else { Connector::Plain };
        let stream = Watched { inner: stream, progress: Arc::clone(&self.progress) };
        let stream = connector.wrap(&host, stream).await.map_err(|error| refused(&host, port, &error))?;
        let (socket, _) = ClientBuilder::new()
            .uri(self.url.as_str())?
            .add_header(ORIGIN, HeaderValue::from_static(WHATSAPP_WEB_ORIGIN))?
            .connect_on(stream)
            .await
            .map_err(|error| refused(&host, port, &error))?;
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

    async fn first_that_answers(
        &self,
        host: &str,
        addresses: impl Iterator<Item = SocketAddr>,
    ) -> anyhow::Result<TcpStream> {
        let mut trouble = anyhow::anyhow!("{host} has no address");
        for address in addresses {
            self.guard.check_address(address)?;
            self.progress.attempt(format!("no answer from {host} ({address})"));
            match tokio::time::timeout(ADDRESS_TAKES, TcpStream::connect(address)).await {
                Ok(Ok(stream)) => {
                    keep_alive(&stream);
                    return Ok(stream);
                }
                Ok(Err(error)) => trouble = anyhow::anyhow!("cannot connect to {host} ({address}): {error}"),
                Err(_) => trouble = anyhow::anyhow!("no answer from {host} ({address})"),
            }
        }
        Err(trouble)
    }
}

fn refused(host: &str, port: u16, error: &impl Display) -> anyhow::Error {
    anyhow::anyhow!("{host}:{port} refused the connection: {error}")
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
        self.dial().await.inspect_err(|error| self.progress.attempt(error.to_string()))
    }
}

/// Notes how far the peer came.
struct Watched {
    inner: TcpStream,
    progress: Arc<Progress>,
}

impl AsyncRead for Watched {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let polled = Pin::new(&mut self.inner).poll_read(cx, buf);
        if let Poll::Ready(result) = &polled {
            let mut steps = self.progress.steps();
            let nothing = result.is_err() || buf.filled().len() == before;
            steps.closed_by_peer |= nothing;
            steps.answered |= !nothing && steps.open;
        }
        polled
    }
}

impl AsyncWrite for Watched {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use tokio::net::TcpListener;

    use super::*;

    fn dialer() -> Dialer {
        let url = Url::parse("ws://127.0.0.1:9/ws/chat").unwrap();
        Dialer::new(url, Guard::probe(), Arc::default())
    }

    #[tokio::test]
    async fn the_next_address_is_tried_when_one_is_dead() {
        let dead = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
        let alive = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addresses = [dead, alive.local_addr().unwrap()];
        let stream = dialer().first_that_answers("example", addresses.into_iter()).await.unwrap();
        assert_eq!(stream.peer_addr().unwrap(), addresses[1]);

        let error = dialer().first_that_answers("example", [dead].into_iter()).await.unwrap_err().to_string();
        assert!(error.contains("example") && error.contains(&dead.to_string()), "{error}");
    }

    /// The address is checked again when it is dialled: a name may come to mean another machine.
    #[tokio::test]
    async fn another_machine_is_not_dialled_by_a_build_that_may_not() {
        let dialer = Dialer { guard: Guard::shut_in(), ..dialer() };
        let elsewhere = SocketAddr::from(([192, 0, 2, 1], 443));
        let error = dialer.first_that_answers("example", [elsewhere].into_iter()).await.unwrap_err();
        assert!(error.is::<crate::session::whatsapp_rs::Forbidden>(), "{error}");
    }

    #[test]
    fn the_reason_says_how_far_it_got() {
        let progress = Progress::default();
        let said = || progress.trouble().unwrap_or_default();
        assert!(said().contains("could not be made"));
        progress.attempt("no answer from example".to_owned());
        assert!(said().contains("no answer from example"));
        progress.opened();
        assert!(said().contains("did not answer the handshake"));
        progress.steps().answered = true;
        assert!(said().contains("was not accepted"));
        progress.steps().closed_by_peer = true;
        assert!(said().contains("closed the connection during the handshake"));
        progress.through();
        assert_eq!(progress.trouble(), None);
        progress.blame("first");
        progress.blame("second");
        assert_eq!(said(), "first");
        progress.logged_in();
        assert_eq!(progress.trouble(), None);
    }
}
