//! Where requests may go, by what `network.allow_private`, `network.allow_hosts` and `network.deny_hosts` say. Pure.
//!
//! A host is judged twice: as it is written, before anybody is asked where it is, and by every address it turns out to
//! have, before a connection is made.

use std::net::IpAddr;

use super::address::{NotPublic, not_public};
use super::pattern::{Host, HostPattern};

/// On whose word a request goes out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Trust {
    /// Whoever may send, or a page or script from elsewhere: inner addresses are refused unless the settings let them.
    Caller,
    /// Whoever runs this daemon named the host: inner addresses are fine.
    Administrator,
}

/// The settings `network.*` as they stand.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Policy {
    /// Inner addresses are as good as others.
    pub allow_private: bool,
    /// These may have inner addresses.
    pub allow_hosts: Vec<HostPattern>,
    /// These are never asked, whatever else says so.
    pub deny_hosts: Vec<HostPattern>,
}

/// A request does not go out.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Forbidden {
    /// By name or address.
    #[error("refused: {host} is in network.deny_hosts")]
    Denied {
        /// As asked for.
        host: String,
    },
    /// It is written as an address.
    #[error("refused: {address} is {what}; allow it with network.allow_hosts or network.allow_private")]
    Inner {
        /// As asked for.
        address: IpAddr,
        /// What it is.
        what: NotPublic,
    },
    /// It is a name for one.
    #[error("refused: {host} is at {address}, {what}; allow it with network.allow_hosts or network.allow_private")]
    LeadsInside {
        /// As asked for.
        host: String,
        /// Where it is.
        address: IpAddr,
        /// What that is.
        what: NotPublic,
    },
}

impl Policy {
    /// Judges the host as it is written.
    ///
    /// # Errors
    /// [`Forbidden::Denied`].
    pub fn check_host(&self, host: &Host) -> Result<(), Forbidden> {
        if self.deny_hosts.iter().any(|pattern| pattern.names(host)) {
            return Err(Forbidden::Denied { host: host.to_string() });
        }
        Ok(())
    }

    /// Judges one of the addresses that the host has.
    ///
    /// # Errors
    /// [`Forbidden`].
    pub fn check_address(&self, host: &Host, address: IpAddr, trust: Trust) -> Result<(), Forbidden> {
        if self.deny_hosts.iter().any(|pattern| pattern.holds(address)) {
            return Err(Forbidden::Denied { host: host.to_string() });
        }
        if self.lets_inside(host, trust) || self.allow_hosts.iter().any(|pattern| pattern.holds(address)) {
            return Ok(());
        }
        match (not_public(address), host) {
            (None, _) => Ok(()),
            (Some(what), Host::Address(_)) => Err(Forbidden::Inner { address, what }),
            (Some(what), Host::Name(host)) => Err(Forbidden::LeadsInside { host: host.clone(), address, what }),
        }
    }

    /// Whether it matters where the host is.
    #[must_use]
    pub fn needs_addresses(&self, host: &Host, trust: Trust) -> bool {
        let denies_some = self.deny_hosts.iter().any(|pattern| matches!(pattern, HostPattern::Net(_)));
        denies_some || !self.lets_inside(host, trust)
    }

    fn lets_inside(&self, host: &Host, trust: Trust) -> bool {
        self.allow_private
            || trust == Trust::Administrator
            || self.allow_hosts.iter().any(|pattern| pattern.names(host))
    }
}

#[cfg(test)]
#[path = "guard_tests.rs"]
mod tests;
