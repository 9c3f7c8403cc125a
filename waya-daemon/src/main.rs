//! The daemon's binary: arguments, logs, config, then the library.

use std::process::ExitCode;

use clap::Parser as _;
use waya_daemon::args::DaemonArgs;
use waya_daemon::config::{self, Config};
use waya_daemon::daemon::Seams;
use waya_daemon::process;

fn main() -> ExitCode {
    let args = DaemonArgs::parse();
    process::report(start(&args))
}

fn start(args: &DaemonArgs) -> anyhow::Result<()> {
    let config = Config::load(&args.common, config::variables()?)?;
    process::prepare(&config);
    if args.common.repair {
        return process::mend(&config, Seams::default().kind);
    }
    process::run(process::serve(config, Seams::default()))
}
