//! Where this build may connect to.
//!
//! The client library's check of WhatsApp's certificate can be left out at compile time only, for the emulator. A
//! build without it would believe anybody who stands in between, so it may speak to this machine and nobody else,
//! whatever it was built for and however it is configured.

use std::net::{IpAddr, SocketAddr};

use whatsapp_rust::buffa::{Message as _, MessageField};
use whatsapp_rust::wacore::noise::HandshakeUtils;
use whatsapp_rust::waproto::whatsapp::CertChain;
use whatsapp_rust::waproto::whatsapp::cert_chain::{NoiseCertificate, noise_certificate::Details};

/// The address is out of bounds for this build.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "this build leaves out WhatsApp's certificate check and refuses {address}: only 127.0.0.0/8 and [::1], written as \
     numbers, are allowed; use a build without the sandbox feature for the real WhatsApp"
)]
pub struct Forbidden {
    /// What was asked for.
    pub address: String,
}

/// What this build may connect to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Guard {
    loopback_only: bool,
}

impl Guard {
    /// Finds out by trying the check, not by asking how the build was meant.
    #[must_use]
    pub fn probe() -> Self {
        Self { loopback_only: forged_certificate_passes() }
    }

    /// As in a build without the check.
    #[cfg(test)]
    pub const fn shut_in() -> Self {
        Self { loopback_only: true }
    }

    /// As in a build with the check.
    #[cfg(test)]
    pub const fn open() -> Self {
        Self { loopback_only: false }
    }

    /// Only this machine may be spoken to.
    #[must_use]
    pub const fn is_loopback_only(self) -> bool {
        self.loopback_only
    }

    /// The host as written in a URL: it must be a number, because a name may come to mean another machine.
    ///
    /// # Errors
    /// [`Forbidden`] when this build may not connect there.
    pub fn check_host(self, host: &str) -> Result<(), Forbidden> {
        let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
        let literal = bare.parse::<IpAddr>().is_ok_and(|address| address.is_loopback());
        if self.loopback_only && !literal { Err(Forbidden { address: host.to_owned() }) } else { Ok(()) }
    }

    /// The address that is really dialled.
    ///
    /// # Errors
    /// [`Forbidden`] when this build may not connect there.
    pub fn check_address(self, address: SocketAddr) -> Result<(), Forbidden> {
        if self.loopback_only && !address.ip().is_loopback() {
            return Err(Forbidden { address: address.to_string() });
        }
        Ok(())
    }
}

/// Whether a chain passes whose signatures are all zeros.
fn forged_certificate_passes() -> bool {
    let server_key = [2u8; 32];
    let signed =
        |details: Details| NoiseCertificate { details: Some(details.encode_to_vec()), signature: Some(vec![0; 64]) };
    let intermediate =
        Details { serial: Some(1), issuer_serial: Some(0), key: Some(vec![1; 32]), ..Default::default() };
    let leaf =
        Details { serial: Some(2), issuer_serial: Some(1), key: Some(server_key.to_vec()), ..Default::default() };
    let chain =
        CertChain { intermediate: MessageField::some(signed(intermediate)), leaf: MessageField::some(signed(leaf)) };
    HandshakeUtils::verify_server_cert(&chain.encode_to_vec(), &server_key).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const REAL: &str = "web.whatsapp.com";

    /// The build with the feature leaves the check out and is shut in; the build without it is neither.
    #[test]
    fn the_probe_tells_which_build_this_is() {
        let guard = Guard::probe();
        assert_eq!(guard.is_loopback_only(), cfg!(feature = "sandbox"));
        assert_eq!(guard.check_host(REAL).is_err(), cfg!(feature = "sandbox"));
        assert_eq!(guard.check_address(([157, 240, 1, 60], 443).into()).is_err(), cfg!(feature = "sandbox"));
    }

    #[test]
    fn a_shut_in_build_reaches_numbers_of_this_machine_only() {
        let guard = Guard { loopback_only: true };
        for host in ["127.0.0.1", "127.9.9.9", "[::1]", "::1"] {
            assert_eq!(guard.check_host(host), Ok(()), "{host}");
        }
        for host in [REAL, "localhost", "0.0.0.0", "127.0.0.1.example.com", "[::ffff:127.0.0.1]", "10.0.0.1", ""] {
            assert!(guard.check_host(host).is_err(), "{host}");
        }
        assert!(guard.check_host(REAL).is_err_and(|error| error.to_string().contains(REAL)));
    }

    #[test]
    fn a_whole_build_may_go_anywhere() {
        assert_eq!(Guard::open().check_host(REAL), Ok(()));
    }
}
