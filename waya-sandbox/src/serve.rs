//! `waya-sandbox serve`: emulator and people alone, until a signal.

use std::io::Write;
use std::path::PathBuf;

use anyhow::{Context, Result};
use serde::Serialize;
use waya_daemon::config::LogFormat;
use waya_daemon::{logging, process};
use waya_sandbox::{Sandbox, SandboxConfig};

use crate::args::ServeArgs;

/// Serves until SIGTERM or SIGINT. Prints the ready line once everybody is linked and online.
pub fn start(args: ServeArgs) -> Result<()> {
    logging::start(&args.log_filter, LogFormat::Text);
    let config = args.world.sandbox(args.data_dir);
    process::run(run(config))
}

async fn run(config: SandboxConfig) -> Result<()> {
    let shutdown = process::on_signal()?;
    let started = shutdown.run_until_cancelled(Sandbox::start(config)).await;
    let Some(sandbox) = started else { return Ok(()) };
    let mut sandbox = sandbox?;
    ready(&sandbox).context("cannot print the ready line")?;
    tokio::select! {
        ended = sandbox.ended() => return Ok(ended?),
        () = shutdown.cancelled() => {}
    }
    Ok(sandbox.shutdown().await?)
}

/// The ready line.
#[derive(Serialize)]
struct Ready {
    event: &'static str,
    whatsapp: String,
    admin: String,
    ca: PathBuf,
    noise_root: String,
}

fn ready(sandbox: &Sandbox) -> std::io::Result<()> {
    let emulator = sandbox.emulator();
    let line = serde_json::to_string(&Ready {
        event: "ready",
        whatsapp: sandbox.whatsapp_url(),
        admin: sandbox.admin_url(),
        ca: emulator.media_authority(),
        noise_root: emulator.noise_root(),
    })?;
    let mut out = std::io::stdout().lock();
    writeln!(out, "{line}")?;
    out.flush()
}
