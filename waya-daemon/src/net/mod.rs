//! The way out to the network that does not depend on who goes it: the proxy and the tunnel through it, where requests
//! may go, and the HTTP client that asks nobody else.
//!
//! Knows no settings: the [`Policy`] is handed in and may change while requests are under way; each hop is judged by the
//! one that holds when it begins.

mod address;
mod answer;
mod client;
mod error;
mod guard;
mod hop;
mod pattern;
mod proxy;
mod request;
mod resolve;
#[cfg(test)]
pub mod testing;
mod tunnel;

pub use address::NotPublic;
pub use answer::Answer;
pub use client::Fetcher;
pub use error::{BadRedirect, BadUrl, FetchError};
pub use guard::{Forbidden, Policy, Trust};
pub use pattern::{BadPattern, Host, HostPattern};
pub use proxy::{BadProxy, Credentials, Proxy, ProxyKind};
pub use request::{Limits, Request};
pub use resolve::{Resolver, SystemResolver};
pub use tunnel::{Target, TunnelError, open_tunnel};
