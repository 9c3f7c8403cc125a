//! The flags of the daemon; `waya-sandbox` takes the same.

use std::path::PathBuf;

use clap::{Args, Parser};

/// Owns a WhatsApp session, its durable queue and its journal, behind gRPC and HTTP.
#[derive(Debug, Parser)]
#[command(name = "waya-daemon", version, max_term_width = 100)]
pub struct DaemonArgs {
    /// What every daemon takes.
    #[command(flatten)]
    pub common: CommonArgs,
}

/// Flags that win over the environment, which wins over the config file.
#[derive(Debug, Clone, Default, Args)]
pub struct CommonArgs {
    /// One profile is one WhatsApp account, one data folder and one socket [default: default; env: WAYA_PROFILE]
    #[arg(long, value_name = "NAME")]
    pub profile: Option<String>,
    /// The config file [default: ~/.config/waya/PROFILE.toml; env: WAYA_CONFIG]
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// The data folder itself [default: ~/.local/share/waya/PROFILE; env: WAYA_DATA_DIR]
    #[arg(long, value_name = "DIR")]
    pub data_dir: Option<PathBuf>,
    /// The Unix socket of the command line [env: WAYA_SOCKET]
    #[arg(long, value_name = "PATH")]
    pub socket: Option<PathBuf>,
    /// Where HTTP is served, `127.0.0.1:0` picks a port, `off` serves none [default: 127.0.0.1:7200; env: WAYA_HTTP_ADDR]
    #[arg(long, value_name = "ADDR")]
    pub http: Option<String>,
    /// How logs are written to standard error: text or json [default: text; env: WAYA_LOG_FORMAT]
    #[arg(long, value_name = "FORMAT")]
    pub log_format: Option<String>,
    /// Mend the store of the data folder, say what was done, and exit; no daemon may run on it
    #[arg(long)]
    pub repair: bool,
}
