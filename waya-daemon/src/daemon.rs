//! The only wiring: `build` opens and binds and may fail, `run` serves until told to stop, then drains.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result};
use serde_json::{Map, Value};
use tokio::net::TcpListener;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use waya_proto::paths;

use crate::account::Account;
use crate::api::{self, Api, DaemonInfo};
use crate::clock::{Clock, SystemClock};
use crate::config::{Config, HttpAddress};
use crate::data_dir::{DataDir, write_private};
use crate::model::Kind;
use crate::requests::RequestLog;
use crate::session::WhatsApp;
use crate::{grpc, http};

/// How long requests under way may take once the daemon stops.
const REQUESTS_END_WITHIN: Duration = Duration::from_secs(2);
/// How long the last of what came over HTTP may take to be written down.
const REQUEST_LOG_CLOSES_WITHIN: Duration = Duration::from_millis(500);
/// How long all of a stop may take but for closing the store; the process is to be gone within 10 s.
const STOPS_WITHIN: Duration = Duration::from_secs(8);

/// What is not the same in every process; the plain daemon takes the defaults.
#[derive(Debug, Clone)]
pub struct Seams {
    /// Which WhatsApp the data folder belongs to.
    pub kind: Kind,
    /// WhatsApp's address, when it is not the real one.
    pub whatsapp_url: Option<String>,
    /// The name under which the emulator knows the own phone.
    pub push_name: Option<String>,
    /// More gRPC services, such as the sandbox's.
    pub services: Option<tonic::service::Routes>,
    /// Wall time.
    pub clock: Arc<dyn Clock>,
}

impl Default for Seams {
    fn default() -> Self {
        Self { kind: Kind::Real, whatsapp_url: None, push_name: None, services: None, clock: Arc::new(SystemClock) }
    }
}

/// A daemon that is open and bound, and does not serve yet.
#[derive(Debug)]
pub struct Daemon {
    account: Account,
    api: Api,
    requests: RequestLog,
    http: Option<(TcpListener, http::Options)>,
    socket: grpc::BoundSocket,
    services: Option<tonic::service::Routes>,
    ready: Map<String, Value>,
    stopping: CancellationToken,
    /// Last, so that nobody else gets the folder while anything here still uses it.
    _data_dir: DataDir,
}

impl Daemon {
    /// Opens the data folder, the account, and the two doors. Does not wait for the network.
    ///
    /// # Errors
    /// In words that say what to do.
    pub async fn build(config: Config, seams: Seams) -> Result<Self> {
        for warning in &config.warnings {
            tracing::warn!("{warning}");
        }
        let data_dir = DataDir::open(&config.data_dir, seams.kind)?;
        let listener = bind_http(config.http).await?;
        let http_address = listener.as_ref().map(TcpListener::local_addr).transpose()?;
        let socket_path = socket_path(&config)?;
        let options = grpc::SocketOptions { mode: config.socket_mode, group: config.socket_group.clone() };
        let socket = grpc::bind(&socket_path, &options)?;
        write_private(&data_dir.path().join(paths::SOCKET_PATH_FILE), socket_path.as_os_str().as_encoded_bytes())
            .context("cannot write down where the socket is")?;

        let account = Account::open(&config, &seams, data_dir.path()).await?;
        let keys = api::ensure_key(Arc::clone(&account.store.values), data_dir.path()).await?;
        let requests = RequestLog::start(data_dir.path()).context("cannot start the request log")?;
        let stopping = CancellationToken::new();
        let http_text = http_address.map(|address| address.to_string());
        let api = Api::new(api::Parts {
            queue: account.queue.clone(),
            store: account.store.clone(),
            media: account.media.clone(),
            whatsapp: Arc::clone(&account.session),
            deliver: account.deliver.clone(),
            settings: account.settings.clone(),
            keys,
            bus: account.bus.clone(),
            requests: requests.clone(),
            info: DaemonInfo {
                version: env!("CARGO_PKG_VERSION"),
                profile: config.profile.clone(),
                started_at: seams.clock.now(),
                http: http_text.clone(),
                kind: seams.kind,
            },
            clock: Arc::clone(&seams.clock),
            shutdown: stopping.clone(),
        });
        let http_options = http::Options {
            body_limit: config.http_body_limit,
            max_connections: config.http_max_connections,
            drain_timeout: REQUESTS_END_WITHIN,
            ..http::Options::default()
        };
        Ok(Self {
            account,
            api,
            requests,
            http: listener.map(|listener| (listener, http_options)),
            socket,
            services: seams.services,
            ready: ready_line(&config.profile, http_text, &socket_path),
            stopping,
            _data_dir: data_dir,
        })
    }

    /// What the ready line says: `event`, `http`, `socket`, `profile`.
    #[must_use]
    pub fn ready_line(&self) -> &Map<String, Value> {
        &self.ready
    }

    /// The link to WhatsApp, for whoever plays the phone in the same process.
    #[must_use]
    pub fn session(&self) -> Arc<dyn WhatsApp> {
        Arc::clone(&self.account.session)
    }

    /// Serves until `shutdown`; then takes no new work, finishes or puts back what is in flight, and flushes.
    ///
    /// # Errors
    /// When a door breaks; the rest is closed properly all the same.
    pub async fn run(self, shutdown: CancellationToken) -> Result<()> {
        let Self { account, api, requests, http, socket, services, stopping, _data_dir: data_dir, .. } = self;
        let http =
            http.map(|(listener, options)| tokio::spawn(http::serve(listener, api.clone(), options, stopping.clone())));
        let mut grpc = tokio::spawn(grpc::serve(socket, api, services, stopping.clone()));
        let broken = tokio::select! {
            () = shutdown.cancelled() => None,
            ended = &mut grpc => Some(ended),
        };
        tracing::info!("stopping");
        let deadline = Instant::now() + STOPS_WITHIN;
        stopping.cancel();
        let served = match broken {
            Some(ended) => Some(ended),
            // A client that never hangs up does not keep the daemon.
            None => tokio::time::timeout(REQUESTS_END_WITHIN, grpc).await.ok(),
        };
        if let Some(http) = http {
            let _ = tokio::time::timeout_at(deadline, http).await;
        }
        let _ = tokio::time::timeout(REQUEST_LOG_CLOSES_WITHIN, requests.close()).await;
        account.close(deadline).await;
        drop(data_dir);
        served.transpose()?.transpose()?;
        Ok(())
    }
}

async fn bind_http(address: HttpAddress) -> Result<Option<TcpListener>> {
    let HttpAddress::At(address) = address else { return Ok(None) };
    if !address.ip().is_loopback() {
        tracing::warn!(%address, "HTTP is served beyond this machine; put TLS in front of it");
    }
    let listener = TcpListener::bind(address).await.with_context(|| {
        format!(
            "cannot serve HTTP on {address}; is another daemon running? choose another with --http ADDR, or --http off"
        )
    })?;
    Ok(Some(listener))
}

/// Where the socket goes: as told, else the first of the usual places whose folder can be made.
fn socket_path(config: &Config) -> Result<PathBuf> {
    if let Some(path) = &config.socket {
        return std::path::absolute(path).with_context(|| format!("cannot make {} absolute", path.display()));
    }
    let runtime_dir = std::env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from);
    let uid = rustix::process::getuid().as_raw();
    let places = paths::sockets(&config.profile, runtime_dir.as_deref(), uid, Some(&config.data_dir));
    let usable = places.into_iter().find(|path| path.parent().is_some_and(|folder| make_private(folder).is_ok()));
    usable.context("there is no folder for the socket; give --socket PATH")
}

/// Makes a runtime folder of our own inside one that is there; never the outer one.
fn make_private(folder: &Path) -> std::io::Result<()> {
    use std::os::unix::fs::DirBuilderExt as _;
    match std::fs::DirBuilder::new().mode(0o700).create(folder) {
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {
            rustix::fs::access(folder, rustix::fs::Access::WRITE_OK)?;
            Ok(())
        }
        made => made,
    }
}

fn ready_line(profile: &str, http: Option<String>, socket: &Path) -> Map<String, Value> {
    let text = |text: &str| Value::String(text.to_owned());
    Map::from_iter([
        ("event".to_owned(), text("ready")),
        ("http".to_owned(), http.map_or(Value::Null, Value::String)),
        ("socket".to_owned(), text(&socket.to_string_lossy())),
        ("profile".to_owned(), text(profile)),
    ])
}
