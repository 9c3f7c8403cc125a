//! The command line of `waya-sandbox`: the daemon's own flags and a few more, or `serve`.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};
use tracing_subscriber::EnvFilter;
use waya_daemon::args::CommonArgs;
use waya_sandbox::{DEFAULT_PEOPLE, SandboxConfig};

/// The waya daemon, linked to a WhatsApp server emulator with simulated people. Nothing leaves this machine.
#[derive(Debug, Parser)]
#[command(name = "waya-sandbox", version, max_term_width = 100, args_conflicts_with_subcommands = true)]
pub struct Cli {
    #[command(subcommand)]
    pub command: Option<Command>,
    #[command(flatten)]
    pub daemon: DaemonArgs,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Runs emulator and people alone, for any WhatsApp client that can be pointed at a URL
    Serve(ServeArgs),
}

#[derive(Debug, Args)]
pub struct DaemonArgs {
    #[command(flatten)]
    pub common: CommonArgs,
    /// Use the emulator of another process, by the address in its ready line
    #[arg(long, value_name = "URL", conflicts_with_all = ["listen", "people", "pn_only", "bare_status_receipts"])]
    pub connect: Option<String>,
    #[command(flatten)]
    pub world: WorldArgs,
}

#[derive(Debug, Args)]
pub struct ServeArgs {
    /// Folder that keeps accounts, keys and inboxes; without it they end with the process
    #[arg(long, value_name = "DIR")]
    pub data_dir: Option<PathBuf>,
    /// What is logged to standard error, such as info, or warn,waya_sandbox=debug
    #[arg(long, value_name = "FILTER", env = "WAYA_LOG_FILTER", default_value = "warn", value_parser = log_filter)]
    pub log_filter: String,
    #[command(flatten)]
    pub world: WorldArgs,
}

/// A log filter that can be read, as it was written.
fn log_filter(text: &str) -> Result<String, String> {
    EnvFilter::try_new(text).map(|_| text.to_owned()).map_err(|error| format!("not a log filter: {error}"))
}

/// Emulator and people.
#[derive(Debug, Args)]
pub struct WorldArgs {
    /// Loopback address for WebSocket and admin HTTP; port 0 picks a free one
    #[arg(long, value_name = "ADDR:PORT", default_value_t = SocketAddr::from((Ipv4Addr::LOCALHOST, 0)))]
    pub listen: SocketAddr,
    /// How many simulated people
    #[arg(long, value_name = "N", default_value_t = DEFAULT_PEOPLE)]
    pub people: usize,
    /// Address accounts by phone number alone, as before WhatsApp's move to LIDs
    #[arg(long)]
    pub pn_only: bool,
    /// Name the reader of a status post once in its receipts, not by phone number and LID
    #[arg(long)]
    pub bare_status_receipts: bool,
}

impl WorldArgs {
    /// The sandbox these flags ask for.
    pub fn sandbox(&self, data_dir: Option<PathBuf>) -> SandboxConfig {
        SandboxConfig {
            listen: self.listen,
            data_dir,
            people: self.people,
            pn_only: self.pn_only,
            bare_status_receipts: self.bare_status_receipts,
        }
    }
}
