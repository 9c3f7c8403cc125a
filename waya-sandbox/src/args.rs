//! The command line of `waya-sandbox`.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};
use waya_sandbox::{DEFAULT_PEOPLE, SandboxConfig};

/// A WhatsApp server emulator with simulated people. Nothing leaves this machine.
#[derive(Debug, Parser)]
#[command(name = "waya-sandbox", version, about)]
pub struct Cli {
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Runs emulator and people alone, for any WhatsApp client that can be pointed at a URL
    Serve(ServeArgs),
}

#[derive(Debug, Args)]
pub struct ServeArgs {
    /// Loopback address for WebSocket and admin HTTP; port 0 picks a free one
    #[arg(long, value_name = "ADDR:PORT", default_value_t = SocketAddr::from((Ipv4Addr::LOCALHOST, 0)))]
    pub listen: SocketAddr,
    /// Folder that keeps accounts, keys and inboxes; without it they end with the process
    #[arg(long, value_name = "DIR")]
    pub data_dir: Option<PathBuf>,
    /// How many simulated people
    #[arg(long, value_name = "N", default_value_t = DEFAULT_PEOPLE)]
    pub people: usize,
    /// Address accounts by phone number alone, as before WhatsApp's move to LIDs
    #[arg(long)]
    pub pn_only: bool,
}

impl From<ServeArgs> for SandboxConfig {
    fn from(args: ServeArgs) -> Self {
        Self { listen: args.listen, data_dir: args.data_dir, people: args.people, pn_only: args.pn_only }
    }
}
