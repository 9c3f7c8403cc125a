//! `waya-sandbox serve`: emulator and people alone, until a signal.

use std::io::Write;

use anyhow::Context;
use serde::Serialize;
use tokio::signal::unix::{SignalKind, signal};
use waya_sandbox::{Sandbox, SandboxConfig};

/// Serves until SIGTERM or SIGINT. Prints the ready line once everybody is linked and online.
pub async fn run(config: SandboxConfig) -> anyhow::Result<()> {
    let mut terminated = signal(SignalKind::terminate()).context("cannot listen for SIGTERM")?;
    let mut interrupted = signal(SignalKind::interrupt()).context("cannot listen for SIGINT")?;
    let mut sandbox = tokio::select! {
        sandbox = Sandbox::start(config) => sandbox?,
        _ = terminated.recv() => return Ok(()),
        _ = interrupted.recv() => return Ok(()),
    };
    ready(&sandbox).context("cannot print the ready line")?;
    tokio::select! {
        ended = sandbox.ended() => return Ok(ended?),
        _ = terminated.recv() => {}
        _ = interrupted.recv() => {}
    }
    Ok(sandbox.shutdown().await?)
}

/// The ready line.
#[derive(Serialize)]
struct Ready {
    event: &'static str,
    whatsapp: String,
    admin: String,
}

fn ready(sandbox: &Sandbox) -> std::io::Result<()> {
    let line =
        serde_json::to_string(&Ready { event: "ready", whatsapp: sandbox.whatsapp_url(), admin: sandbox.admin_url() })?;
    let mut out = std::io::stdout().lock();
    writeln!(out, "{line}")?;
    out.flush()
}
