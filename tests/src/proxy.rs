//! Real proxies on loopback that count what goes through them.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context as _, Result, bail, ensure};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

/// The user that a closed proxy lets in.
pub const USER: &str = "budi";
/// Their password; it would not survive being taken for a part of a URL.
pub const PASSWORD: &str = "r@hasia:%";
/// The same in a URL.
pub const PASSWORD_IN_URL: &str = "r%40hasia%3A%25";
/// Both, as Basic authentication has them.
pub const BASIC: &str = "YnVkaTpyQGhhc2lhOiU=";

/// How a proxy is spoken to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Speaks {
    /// HTTP `CONNECT`.
    Http,
    /// SOCKS5.
    Socks5,
}

/// Whom it lets in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LetsIn {
    /// Everybody.
    All,
    /// Only [`USER`] with [`PASSWORD`].
    User,
}

/// A proxy; it and its tunnels are gone when this is dropped.
#[derive(Debug)]
pub struct Proxy {
    address: SocketAddr,
    tunnels: Arc<Mutex<Vec<String>>>,
    task: tokio::task::JoinHandle<()>,
}

impl Proxy {
    /// On a port of its own.
    ///
    /// # Errors
    /// What the system says.
    pub async fn start(speaks: Speaks, lets_in: LetsIn) -> Result<Self> {
        Self::start_at(SocketAddr::from(([127, 0, 0, 1], 0)), speaks, lets_in).await
    }

    /// At this address, for one that comes back.
    ///
    /// # Errors
    /// What the system says.
    pub async fn start_at(address: SocketAddr, speaks: Speaks, lets_in: LetsIn) -> Result<Self> {
        let listener = TcpListener::bind(address).await?;
        let address = listener.local_addr()?;
        let tunnels: Arc<Mutex<Vec<String>>> = Arc::default();
        let opened = Arc::clone(&tunnels);
        let task = tokio::spawn(async move {
            // Ends with the task, and all tunnels with it.
            let mut connections = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                connections.spawn(serve(stream, speaks, lets_in, Arc::clone(&opened)));
            }
        });
        Ok(Self { address, tunnels, task })
    }

    /// Where it is.
    #[must_use]
    pub const fn address(&self) -> SocketAddr {
        self.address
    }

    /// As `network.proxy` takes it, with or without user and password.
    #[must_use]
    pub fn url(&self, scheme: &str, lets_in: LetsIn) -> String {
        match lets_in {
            LetsIn::All => format!("{scheme}://{}", self.address),
            LetsIn::User => format!("{scheme}://{USER}:{PASSWORD_IN_URL}@{}", self.address),
        }
    }

    /// Where each tunnel so far went, `HOST:PORT`.
    #[must_use]
    pub fn tunnels(&self) -> Vec<String> {
        self.tunnels.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Takes no connections any more, and cuts those there are.
    pub async fn close(mut self) {
        self.task.abort();
        let _ = (&mut self.task).await;
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn serve(mut client: TcpStream, speaks: Speaks, lets_in: LetsIn, tunnels: Arc<Mutex<Vec<String>>>) -> Result<()> {
    let asked = match speaks {
        Speaks::Http => http(&mut client, lets_in).await?,
        Speaks::Socks5 => socks5(&mut client, lets_in).await?,
    };
    let mut target = TcpStream::connect(&asked).await?;
    tunnels.lock().unwrap_or_else(PoisonError::into_inner).push(asked);
    let taken: &[u8] = match speaks {
        Speaks::Http => b"HTTP/1.1 200 Connection established\r\nVia: 1.1 test\r\n\r\n",
        Speaks::Socks5 => &[5, 0, 0, 1, 127, 0, 0, 1, 0, 1],
    };
    client.write_all(taken).await?;
    tokio::io::copy_bidirectional(&mut client, &mut target).await?;
    Ok(())
}

/// Reads a `CONNECT`, byte by byte so that nothing of the tunnel is taken.
async fn http(client: &mut TcpStream, lets_in: LetsIn) -> Result<String> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        ensure!(head.len() < 8192, "too long");
        head.push(client.read_u8().await?);
    }
    let head = String::from_utf8(head)?;
    let authority = head.strip_prefix("CONNECT ").and_then(|rest| rest.split_once(" HTTP/1.1\r\n"));
    let Some((authority, headers)) = authority else {
        client.write_all(b"HTTP/1.1 405 Method Not Allowed\r\ncontent-length: 0\r\n\r\n").await?;
        bail!("no CONNECT: {head}");
    };
    let lets = headers.lines().any(|line| {
        let Some((name, value)) = line.split_once(": ") else { return false };
        name.eq_ignore_ascii_case("proxy-authorization") && value.strip_prefix("Basic ") == Some(BASIC)
    });
    if lets_in == LetsIn::User && !lets {
        let refusal = b"HTTP/1.1 407 Proxy Authentication Required\r\nproxy-authenticate: Basic realm=\"x\"\r\n\r\n";
        client.write_all(refusal).await?;
        bail!("not let in");
    }
    Ok(authority.to_owned())
}

async fn socks5(client: &mut TcpStream, lets_in: LetsIn) -> Result<String> {
    ensure!(client.read_u8().await? == 5, "no SOCKS5");
    let methods = counted(client).await?;
    let method = if lets_in == LetsIn::User { 2 } else { 0 };
    if !methods.contains(&method) {
        client.write_all(&[5, 0xff]).await?;
        bail!("not let in");
    }
    client.write_all(&[5, method]).await?;
    if lets_in == LetsIn::User {
        ensure!(client.read_u8().await? == 1, "no sign-in");
        let lets = (counted(client).await?, counted(client).await?) == (USER.into(), PASSWORD.into());
        client.write_all(&[1, u8::from(!lets)]).await?;
        ensure!(lets, "not let in");
    }
    let mut request = [0; 4];
    client.read_exact(&mut request).await?;
    ensure!(request[..3] == [5, 1, 0], "no CONNECT");
    let host = match request[3] {
        1 => std::net::Ipv4Addr::from(client.read_u32().await?).to_string(),
        3 => String::from_utf8(counted(client).await?)?,
        4 => format!("[{}]", std::net::Ipv6Addr::from(client.read_u128().await?)),
        _ => bail!("no address"),
    };
    Ok(format!("{host}:{}", client.read_u16().await?))
}

/// A length and so many bytes.
async fn counted(client: &mut TcpStream) -> Result<Vec<u8>> {
    let length = client.read_u8().await.context("no length")?;
    let mut bytes = vec![0; length.into()];
    client.read_exact(&mut bytes).await?;
    Ok(bytes)
}
