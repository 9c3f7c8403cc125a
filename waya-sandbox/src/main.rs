//! The `waya-sandbox` binary: arguments, then one of its two ways to run, then the exit code.

mod args;
mod grpc;
mod own;
mod serve;
mod with_daemon;

use std::process::ExitCode;

use clap::Parser;
use waya_daemon::process;

use args::{Cli, Command};

fn main() -> ExitCode {
    let cli = Cli::parse();
    process::report(match cli.command {
        Some(Command::Serve(args)) => serve::start(args),
        None => with_daemon::run(cli.daemon),
    })
}
