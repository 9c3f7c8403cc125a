//! TLS on the port that speaks plain HTTP as well: client libraries load media from `https://` only.
//!
//! A connection that begins with a TLS record gets TLS, any other one is left as it is. The certificate is the
//! emulator's own; who wants to load media trusts its authority, whose file the ready line names.

use std::fs;
use std::io::{self, Write as _};
use std::net::SocketAddr;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair, KeyUsagePurpose};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::task::{AbortHandle, JoinHandle};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::pem::PemObject as _;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::server::TlsStream;
use tokio_util::either::Either;

use crate::emulator::config::EmulatorError;

/// The first byte of a TLS connection: a handshake record.
const HANDSHAKE: u8 = 0x16;
/// How long a client has to say something, and to shake hands.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long to wait when the system gives no connections out, for want of file descriptors.
const BREATH: Duration = Duration::from_millis(100);
/// Connections that are ready and wait to be served.
const BACKLOG: usize = 64;

/// Whom the certificate is for: this machine, and the hosts that some client libraries load media from whatever an
/// address says, for who leads those here.
const NAMES: [&str; 5] = ["localhost", "127.0.0.1", "::1", "mmg.whatsapp.net", "*.whatsapp.net"];

/// The certificate and how to serve it.
#[derive(Clone)]
pub(in crate::emulator) struct Tls {
    acceptor: TlsAcceptor,
    authority: PathBuf,
}

impl std::fmt::Debug for Tls {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.debug_struct("Tls").field("authority", &self.authority).finish_non_exhaustive()
    }
}

impl Tls {
    /// The certificate kept in `folder`, made there at first.
    pub(super) fn open(folder: &Path) -> Result<Self, EmulatorError> {
        let authority = folder.join("ca.pem");
        let kept = folder.join("tls.pem");
        if !kept.exists() || !authority.exists() {
            make(&authority, &kept)?;
        }
        let acceptor = acceptor(&kept).map_err(|why| EmulatorError::BadCertificate { path: kept, why })?;
        Ok(Self { acceptor, authority })
    }

    pub(super) fn certificate(&self) -> PathBuf {
        self.authority.clone()
    }
}

/// An authority for this emulator alone, and a certificate of it; the authority's key is thrown away.
fn make(authority: &Path, kept: &Path) -> Result<(), EmulatorError> {
    let (ca, chain) = generate().map_err(|error| EmulatorError::Crypto(error.to_string()))?;
    for (path, text, mode) in [(kept, chain, 0o600), (authority, ca, 0o644)] {
        let write = || {
            let fresh = path.with_extension("new");
            fs::OpenOptions::new()
                .create(true)
                .write(true)
                .truncate(true)
                .mode(mode)
                .open(&fresh)?
                .write_all(text.as_bytes())?;
            fs::rename(fresh, path)
        };
        write().map_err(|source| EmulatorError::Data { path: path.to_owned(), source })?;
    }
    Ok(())
}

fn generate() -> Result<(String, String), rcgen::Error> {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, "waya-sandbox media, this emulator alone");
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    let authority = CertifiedIssuer::self_signed(params, KeyPair::generate()?)?;
    let key = KeyPair::generate()?;
    let names = NAMES.map(str::to_owned);
    let certificate = CertificateParams::new(names)?.signed_by(&key, &authority)?;
    Ok((authority.pem(), certificate.pem() + &key.serialize_pem()))
}

fn acceptor(kept: &Path) -> Result<TlsAcceptor, String> {
    let pem = fs::read(kept).map_err(|error| error.to_string())?;
    let chain =
        CertificateDer::pem_slice_iter(&pem).collect::<Result<Vec<_>, _>>().map_err(|error| error.to_string())?;
    let key = PrivateKeyDer::from_pem_slice(&pem).map_err(|error| error.to_string())?;
    let mut config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .and_then(|builder| builder.with_no_client_auth().with_single_cert(chain, key))
        .map_err(|error| error.to_string())?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(TlsAcceptor::from(Arc::new(config)))
}

/// Hands out connections that are ready to speak HTTP. One that is silent, or fumbles its handshake, holds up nobody.
pub(in crate::emulator) struct TlsListener {
    ready: mpsc::Receiver<(Io, SocketAddr)>,
    address: SocketAddr,
    accepting: AbortHandle,
}

type Io = Either<TcpStream, Box<TlsStream<TcpStream>>>;

impl TlsListener {
    /// Also gives the task that owns `listener`: once this is dropped, its end frees the port.
    pub(in crate::emulator) fn new(listener: TcpListener, address: SocketAddr, tls: Tls) -> (Self, JoinHandle<()>) {
        let (sender, ready) = mpsc::channel(BACKLOG);
        let accepting = tokio::spawn(async move {
            loop {
                match listener.accept().await {
                    Ok((stream, from)) => {
                        let (sender, tls) = (sender.clone(), tls.clone());
                        tokio::spawn(async move {
                            if let Ok(Ok(io)) = tokio::time::timeout(PATIENCE, greet(stream, &tls)).await {
                                let _ = sender.send((io, from)).await;
                            }
                        });
                    }
                    Err(error) => {
                        tracing::debug!(%error, "cannot take a connection");
                        tokio::time::sleep(BREATH).await;
                    }
                }
            }
        });
        (Self { ready, address, accepting: accepting.abort_handle() }, accepting)
    }
}

async fn greet(stream: TcpStream, tls: &Tls) -> io::Result<Io> {
    stream.set_nodelay(true)?;
    let mut first = [0];
    let read = stream.peek(&mut first).await?;
    if read == 1 && first[0] == HANDSHAKE {
        return Ok(Either::Right(Box::new(tls.acceptor.accept(stream).await?)));
    }
    Ok(Either::Left(stream))
}

impl axum::serve::Listener for TlsListener {
    type Io = Io;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Io, SocketAddr) {
        match self.ready.recv().await {
            Some(ready) => ready,
            // The accepting task ends with this listener, not before.
            None => std::future::pending().await,
        }
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        Ok(self.address)
    }
}

impl Drop for TlsListener {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}
