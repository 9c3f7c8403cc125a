//! The one HTTP client for what others name: URLs of media and of pages, webhooks, scripts.
//!
//! Every hop goes the same way: the host is judged as written, all its addresses are found by our own resolver and
//! judged, and the connection is held to exactly those. Redirects are followed here and nowhere else. Each hop has a
//! connection of its own, which ends with it: one that was kept could outlive the policy it was made under.
//!
//! The proxies of the environment are ignored: `network.proxy` is the one way.

use std::error::Error;
use std::fmt;
use std::io;
use std::net::IpAddr;
use std::sync::Arc;

use reqwest::Client;
use tokio::sync::watch;

use super::answer::{Answer, Bounds};
use super::error::{BadUrl, FetchError};
use super::guard::Policy;
use super::hop::Hop;
use super::pattern::Host;
use super::request::Request;
use super::resolve::{Pinned, Resolver, SystemResolver};
use super::{Proxy, ProxyKind};

const USER_AGENT: &str = concat!("waya/", env!("CARGO_PKG_VERSION"));

/// A cheap handle.
#[derive(Clone)]
pub struct Fetcher {
    policy: watch::Receiver<Policy>,
    proxy: Option<Proxy>,
    resolver: Arc<dyn Resolver>,
    #[cfg(test)]
    roots: Vec<reqwest::Certificate>,
}

impl Fetcher {
    /// Follows `policy` as it changes; all requests go through `proxy`, if there is one.
    #[must_use]
    pub fn new(policy: watch::Receiver<Policy>, proxy: Option<Proxy>) -> Self {
        Self {
            policy,
            proxy,
            resolver: Arc::new(SystemResolver),
            #[cfg(test)]
            roots: Vec::new(),
        }
    }

    /// Asks this resolver instead of the system's.
    #[must_use]
    pub fn resolving_by(self, resolver: Arc<dyn Resolver>) -> Self {
        Self { resolver, ..self }
    }

    /// Believes this authority as well.
    #[cfg(test)]
    #[must_use]
    pub fn trusting(mut self, root: reqwest::Certificate) -> Self {
        self.roots.push(root);
        self
    }

    /// Sends the request, follows redirects, and comes back with the last answer's head; its body is still to be read.
    ///
    /// # Errors
    /// [`FetchError`]. A status is none.
    pub async fn fetch(&self, request: Request) -> Result<Answer, FetchError> {
        let bounds = Bounds::begin(request.limits);
        let mut hop = Hop::first(&request)?;
        let mut followed = 0;
        loop {
            let response = self.send(&hop, &bounds).await?;
            let next = if request.redirects == 0 { None } else { hop.next(response.status(), response.headers())? };
            match next {
                None => return Ok(Answer::new(response, hop.host.to_string(), bounds)),
                Some(_) if followed == request.redirects => {
                    return Err(FetchError::TooManyRedirects { host: hop.host.to_string(), most: followed + 1 });
                }
                Some(next) => hop = next,
            }
            followed += 1;
        }
    }

    async fn send(&self, hop: &Hop, bounds: &Bounds) -> Result<reqwest::Response, FetchError> {
        let (host, limits) = (hop.host.to_string(), bounds.limits);
        let pinned = bounds.wait(&host, limits.connect, self.pin(hop)).await??;
        let client = self.client(pinned, bounds).map_err(|error| FetchError::Setup(root_cause(&error)))?;
        let mut request = client.request(hop.method.clone(), hop.url.clone()).headers(hop.headers.clone());
        if let Some(body) = &hop.body {
            request = request.body(body.clone());
        }
        let sent = bounds.wait(&host, limits.connect.saturating_add(limits.idle), request.send()).await?;
        sent.map_err(|error| self.fault(&error, host, bounds))
    }

    /// The addresses that the hop may use: judged, all of them, before any is dialled.
    async fn pin(&self, hop: &Hop) -> Result<Pinned, FetchError> {
        let policy = self.policy.borrow().clone();
        policy.check_host(&hop.host)?;
        let mut pinned = Pinned::default();
        // Where the proxy looks names up, ours is a second opinion: it is asked for only when it can say no.
        let proxy_resolves = self.proxy.as_ref().is_some_and(|proxy| proxy.kind() != ProxyKind::Socks5);
        if !proxy_resolves || policy.needs_addresses(&hop.host, hop.trust) {
            let addresses = self.addresses(&hop.host).await?;
            for address in &addresses {
                policy.check_address(&hop.host, *address, hop.trust)?;
            }
            pinned.pin(hop.url.host_str().unwrap_or_default(), addresses);
        }
        if let Some(proxy) = &self.proxy {
            let Some(host) = Host::parse(proxy.host()) else { return Ok(pinned) };
            pinned.pin(proxy.host(), self.addresses(&host).await?);
        }
        Ok(pinned)
    }

    async fn addresses(&self, host: &Host) -> Result<Vec<IpAddr>, FetchError> {
        let name = match host {
            Host::Address(address) => return Ok(vec![*address]),
            Host::Name(name) => name,
        };
        let unknown = |cause: String| FetchError::Resolve { host: name.clone(), cause };
        match self.resolver.resolve(name).await {
            Ok(addresses) if addresses.is_empty() => Err(unknown("it has none".to_owned())),
            Ok(addresses) => Ok(addresses),
            Err(error) => Err(unknown(error.to_string())),
        }
    }

    fn client(&self, pinned: Pinned, bounds: &Bounds) -> reqwest::Result<Client> {
        let mut builder = Client::builder()
            .no_proxy()
            .dns_resolver(Arc::new(pinned))
            .redirect(reqwest::redirect::Policy::none())
            .referer(false)
            .no_gzip()
            .no_brotli()
            .no_zstd()
            .no_deflate()
            .user_agent(USER_AGENT)
            .connect_timeout(bounds.limits.connect)
            .pool_max_idle_per_host(0);
        if let Some(proxy) = &self.proxy {
            builder = builder.proxy(proxy.for_every_request()?);
        }
        #[cfg(test)]
        for root in &self.roots {
            builder = builder.add_root_certificate(root.clone());
        }
        builder.build()
    }

    /// What went wrong before there was an answer.
    fn fault(&self, error: &reqwest::Error, host: String, bounds: &Bounds) -> FetchError {
        if error.is_builder() {
            return BadUrl::Unreadable.into();
        }
        if let Some(cause) = tls_error(error) {
            return FetchError::Tls { host, cause };
        }
        if error.is_timeout() {
            return FetchError::Timeout { host, limit: bounds.limits.connect };
        }
        let cause = root_cause(error);
        match &self.proxy {
            _ if !error.is_connect() => FetchError::Broken { host, cause },
            Some(proxy) => FetchError::Connect { host, cause: format!("{proxy}: {cause}") },
            None => FetchError::Connect { host, cause },
        }
    }
}

impl fmt::Debug for Fetcher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Fetcher").field("proxy", &self.proxy).finish_non_exhaustive()
    }
}

/// What is at the bottom of it: the layers above repeat the URL or say nothing.
pub(super) fn root_cause(error: &(dyn Error + 'static)) -> String {
    chain(error).last().map_or_else(String::new, ToString::to_string)
}

fn tls_error(error: &reqwest::Error) -> Option<String> {
    chain(error).find_map(|cause| as_tls_error(cause)).map(ToString::to_string)
}

/// An I/O error names what it was made from, which may be one again, only when asked like this.
fn as_tls_error<'a>(error: &'a (dyn Error + 'static)) -> Option<&'a rustls::Error> {
    let within = || error.downcast_ref::<io::Error>()?.get_ref().and_then(|inner| as_tls_error(inner));
    error.downcast_ref().or_else(within)
}

fn chain<'a>(error: &'a (dyn Error + 'static)) -> impl Iterator<Item = &'a (dyn Error + 'static)> {
    std::iter::successors(Some(error), |error: &&'a (dyn Error + 'static)| (*error).source())
}

#[cfg(test)]
#[path = "client_tests/mod.rs"]
mod tests;
