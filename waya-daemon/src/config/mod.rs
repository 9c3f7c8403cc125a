//! Typed settings of the process: flags over environment over config file over defaults.
//!
//! Read once at start. What a user may change while the daemon runs is `settings`' business; a value for such a
//! key found here becomes a [`Pin`] that wins over the stored one.

mod environment;
mod error;
mod file;
mod keys;
mod places;
#[cfg(test)]
mod tests;
mod values;

use std::net::SocketAddr;
use std::path::PathBuf;

pub use error::ConfigError;
pub use values::{HttpAddress, LogFormat};

use crate::args::CommonArgs;
use crate::net::Proxy;
use crate::settings::Pin;

/// What is logged when nobody says otherwise: of libraries only what went wrong; the client library tells much at `info`.
pub const DEFAULT_LOG_FILTER: &str = "warn,waya_daemon=info,waya_sandbox=info";

/// The `WAYA_*` variables of this process.
///
/// # Errors
/// One of them is not UTF-8.
pub fn variables() -> Result<Vec<(String, String)>, ConfigError> {
    let ours = std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("WAYA_"));
    ours.map(|(name, value)| {
        let name = name.to_string_lossy().into_owned();
        match value.into_string() {
            Ok(value) => Ok((name, value)),
            Err(_) => Err(ConfigError::NotUnicode(name)),
        }
    })
    .collect()
}

/// Everything the process is told from outside.
#[derive(Debug, Clone)]
pub struct Config {
    /// The profile's name.
    pub profile: String,
    /// The data folder.
    pub data_dir: PathBuf,
    /// The socket's path as the user gave it; absent means the usual places.
    pub socket: Option<PathBuf>,
    /// Permission bits of the socket.
    pub socket_mode: u32,
    /// The group that owns the socket, by name or number.
    pub socket_group: Option<String>,
    /// Where HTTP is served.
    pub http: HttpAddress,
    /// The largest HTTP body, in bytes.
    pub http_body_limit: usize,
    /// The most HTTP connections at once.
    pub http_max_connections: usize,
    /// How logs are written.
    pub log_format: LogFormat,
    /// Which logs are written, in `tracing`'s filter language.
    pub log_filter: String,
    /// The proxy that WhatsApp is reached through.
    pub network_proxy: Option<Proxy>,
    /// The WhatsApp version to claim instead of the built-in one.
    pub whatsapp_version: Option<(u32, u32, u32)>,
    /// What the store may cache, in bytes.
    pub store_cache: u64,
    /// With less free disk than this, new work is refused; in bytes.
    pub store_min_free: u64,
    /// Values of live settings that environment or config file fix.
    pub pins: Vec<Pin>,
    /// What looked wrong but does not stop the start.
    pub warnings: Vec<String>,
}

/// One value found in a file or in the environment.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Found {
    /// `section.key`, or a top-level `key`.
    key: String,
    /// As text; lists are comma-separated.
    value: String,
    /// Where it stands: `FILE:LINE` or `environment variable NAME`.
    origin: String,
}

impl Config {
    /// Reads flags, environment and config file.
    ///
    /// # Errors
    /// [`ConfigError`] names the place, what was found there and what was expected.
    pub fn load(
        args: &CommonArgs,
        environment: impl IntoIterator<Item = (String, String)>,
    ) -> Result<Self, ConfigError> {
        let environment = environment::read(environment);
        let profile = match (&args.profile, &environment.profile) {
            (Some(flag), _) => places::profile(flag, "--profile")?,
            (None, Some(value)) => places::profile(value, "environment variable WAYA_PROFILE")?,
            (None, None) => "default".to_owned(),
        };
        let mut found = file::read(args.config.as_ref().or(environment.config.as_ref()), &profile)?;
        found.extend(environment.found);

        let mut config = Self {
            data_dir: match args.data_dir.as_ref().or(environment.data_dir.as_ref()) {
                Some(given) => places::absolute(given)?,
                None => places::data_dir(&profile)?,
            },
            socket: args.socket.clone().or(environment.socket),
            profile,
            socket_mode: 0o600,
            socket_group: None,
            http: HttpAddress::At(SocketAddr::from(([127, 0, 0, 1], 7200))),
            http_body_limit: 140 << 20,
            http_max_connections: 1024,
            log_format: LogFormat::Text,
            log_filter: DEFAULT_LOG_FILTER.to_owned(),
            network_proxy: None,
            whatsapp_version: None,
            store_cache: 16 << 20,
            store_min_free: 64 << 20,
            pins: Vec::new(),
            warnings: environment.warnings,
        };
        for value in found {
            keys::apply(&mut config, value)?;
        }
        for (flag, key, value) in
            [("--http", "http.addr", &args.http), ("--log-format", "log.format", &args.log_format)]
        {
            if let Some(value) = value {
                keys::apply(&mut config, Found { key: key.to_owned(), value: value.clone(), origin: flag.to_owned() })?;
            }
        }
        Ok(config)
    }
}
