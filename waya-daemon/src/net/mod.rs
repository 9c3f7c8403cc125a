//! The way out to the network that does not depend on who goes it: the proxy, and the tunnel through it.
//!
//! Opens no connection and chooses no address: whoever dials does both, within its own bounds and time.

mod proxy;
#[cfg(test)]
pub mod testing;
mod tunnel;

pub use proxy::{BadProxy, Credentials, Proxy, ProxyKind};
pub use tunnel::{Target, TunnelError, open_tunnel};
