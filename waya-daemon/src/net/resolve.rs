//! From names to addresses, and holding requests to the addresses that were looked at.

use std::collections::HashMap;
use std::fmt;
use std::io;
use std::net::{IpAddr, SocketAddr};

use async_trait::async_trait;
use reqwest::dns::{Addrs, Name, Resolve, Resolving};

/// Finds out where a name is.
#[async_trait]
pub trait Resolver: fmt::Debug + Send + Sync {
    /// All addresses; may take its time, and may answer differently each time.
    ///
    /// # Errors
    /// What the system says.
    async fn resolve(&self, name: &str) -> io::Result<Vec<IpAddr>>;
}

/// The system's, with all that it is configured to ask.
#[derive(Debug, Clone, Copy)]
pub struct SystemResolver;

#[async_trait]
impl Resolver for SystemResolver {
    async fn resolve(&self, name: &str) -> io::Result<Vec<IpAddr>> {
        let found = tokio::net::lookup_host((name, 0)).await?;
        Ok(found.map(|address| address.ip()).collect())
    }
}

/// The addresses of the hosts that one hop may connect to; other names are nowhere. So nobody is asked a second time,
/// and what was looked at is what is dialled.
#[derive(Default)]
pub(super) struct Pinned(HashMap<String, Vec<IpAddr>>);

impl Pinned {
    /// The first to say where a host is has said it.
    pub(super) fn pin(&mut self, host: &str, addresses: Vec<IpAddr>) {
        self.0.entry(bare(host)).or_insert(addresses);
    }
}

impl Resolve for Pinned {
    fn resolve(&self, name: Name) -> Resolving {
        let found = self.0.get(&bare(name.as_str())).filter(|addresses| !addresses.is_empty());
        let answer = match found.cloned() {
            // Port 0 is the URL's.
            Some(addresses) => Ok(Box::new(addresses.into_iter().map(|ip| SocketAddr::new(ip, 0))) as Addrs),
            None => Err(io::Error::new(io::ErrorKind::NotFound, "its address was not looked at").into()),
        };
        Box::pin(std::future::ready(answer))
    }
}

/// Names come from URLs here, and IPv6 addresses with and without brackets.
fn bare(host: &str) -> String {
    let host = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
    host.strip_suffix('.').unwrap_or(host).to_ascii_lowercase()
}
