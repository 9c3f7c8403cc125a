//! The media servers: encrypted files, kept under the hash they are announced by.
//!
//! Owns the folder they lie in and the secret its addresses are signed with. Woken by HTTP requests on the WebSocket's
//! port, in plain or through TLS. It cannot read the files, and it removes none: what expires is the address.

mod files;
mod http;
mod signing;
mod tls;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tempfile::TempDir;
use whatsapp_rust::wacore_binary::Node;
use whatsapp_rust::wacore_binary::builder::NodeBuilder;

use super::Emulator;
use super::clock::Clock;
use super::config::EmulatorError;
use super::wire::ServerIdentity;
use files::Files;
use signing::Signer;

pub(super) use http::{address_again, keep, picture_address, routes};
pub(super) use tls::{Tls, TlsListener};

/// Seconds a client may keep the list of hosts.
const HOSTS_TTL: i64 = 3_600;
/// Seconds an upload token is good for.
const AUTH_TTL: i64 = 21_600;

/// The files, and what lets clients at them.
#[derive(Debug)]
pub(super) struct Media {
    files: Files,
    signer: Signer,
    clock: Clock,
    tls: Tls,
    /// How long an address is good for.
    lifetime: Duration,
    /// Holds everything where no folder was given.
    _temporary: Option<TempDir>,
}

impl Media {
    /// In `folder`, or in a temporary one that goes with the emulator.
    pub(super) fn open(
        folder: Option<&Path>,
        identity: &ServerIdentity,
        lifetime: Duration,
        clock: Clock,
    ) -> Result<Arc<Self>, EmulatorError> {
        let data = |path: &Path| {
            let path = path.to_owned();
            move |source| EmulatorError::Data { path, source }
        };
        let (folder, temporary) = if let Some(folder) = folder {
            (folder.join("media"), None)
        } else {
            let temporary = tempfile::Builder::new().prefix("waya-media-").tempdir();
            let temporary = temporary.map_err(data(&std::env::temp_dir()))?;
            (temporary.path().to_owned(), Some(temporary))
        };
        let files = Files::open(&folder).map_err(data(&folder))?;
        let tls = Tls::open(&folder)?;
        Ok(Arc::new(Self {
            files,
            signer: Signer::new(identity.secret(b"media")),
            clock,
            tls,
            lifetime,
            _temporary: temporary,
        }))
    }

    /// The certificate that clients must trust to load media through TLS.
    pub(super) fn certificate(&self) -> PathBuf {
        self.tls.certificate()
    }

    pub(super) fn tls(&self) -> &Tls {
        &self.tls
    }
}

/// The hosts that a device may upload to and download from.
pub(super) fn hosts(emulator: &Emulator, device: (&str, u16)) -> Node {
    let address = emulator.address();
    let host = |name: String, kind: &str| {
        NodeBuilder::new("host")
            .attr("hostname", name)
            .attr("type", kind)
            .children([NodeBuilder::new("upload").build(), NodeBuilder::new("download").build()])
            .build()
    };
    let mut hosts = vec![host(address.to_string(), "primary")];
    if address.ip() == std::net::Ipv4Addr::LOCALHOST {
        hosts.push(host(format!("localhost:{}", address.port()), "fallback"));
    }
    let auth = emulator.media().signer.token(device, emulator.now() + AUTH_TTL);
    NodeBuilder::new("media_conn")
        .attr("auth", auth)
        .attr("ttl", HOSTS_TTL)
        .attr("auth_ttl", AUTH_TTL)
        .attr("max_buckets", 12)
        .children(hosts)
        .build()
}
