//! What a process needs around a daemon: logs, the runtime, signals, the ready line, the exit code.

use std::io::Write as _;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, Result};
use serde_json::{Map, Value};
use tokio::runtime::Runtime;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use crate::config::Config;
use crate::daemon::{Daemon, Seams};
use crate::model::Kind;
use crate::{logging, repair};

/// More threads than this only cost memory: the work is small and mostly waits.
const MOST_WORKERS: usize = 4;
/// How long a start that is called off may take to close what it had opened.
const BUILD_ENDS_WITHIN: Duration = Duration::from_secs(5);
/// How long threads that block may take at the very end.
const THREADS_END_WITHIN: Duration = Duration::from_millis(500);

/// What must be so before anything else runs: logs, and the one crypto provider.
pub fn prepare(config: &Config) {
    logging::start(&config.log_filter, config.log_format);
    // A second call, from a test that runs several daemons, changes nothing.
    let _ = rustls::crypto::ring::default_provider().install_default();
}

/// Runs the whole of a process on a runtime of its own. What still blocks a thread at the end does not keep the process.
///
/// # Errors
/// Those of `work`, or when the system gives no threads.
pub fn run(work: impl Future<Output = Result<()>>) -> Result<()> {
    let runtime = runtime()?;
    let ended = runtime.block_on(work);
    runtime.shutdown_timeout(THREADS_END_WITHIN);
    ended
}

fn runtime() -> Result<Runtime> {
    let workers = std::thread::available_parallelism().map_or(1, usize::from).min(MOST_WORKERS);
    let mut builder = tokio::runtime::Builder::new_multi_thread();
    builder.worker_threads(workers).enable_all().build().context("cannot start the runtime")
}

/// Builds a daemon, says that it is ready, and serves until the process is told to stop.
///
/// # Errors
/// As [`Daemon::build`] and [`Daemon::run`].
pub async fn serve(config: Config, seams: Seams) -> Result<()> {
    let shutdown = on_signal()?;
    let Some(daemon) = build(config, seams, &shutdown).await? else { return Ok(()) };
    say_ready(daemon.ready_line())?;
    daemon.run(shutdown).await
}

/// Builds a daemon; `None` when it was told to stop before that was done.
///
/// # Errors
/// As [`Daemon::build`].
pub async fn build(config: Config, seams: Seams, shutdown: &CancellationToken) -> Result<Option<Daemon>> {
    let mut building = AbortOnDropHandle::new(tokio::spawn(Daemon::build(config, seams)));
    tokio::select! {
        built = &mut building => return built?.map(Some),
        () = shutdown.cancelled() => tracing::info!("stopping before the start was done"),
    }
    building.abort();
    // What it had opened is closed with it.
    match tokio::time::timeout(BUILD_ENDS_WITHIN, building).await {
        Ok(Ok(built)) => built.map(Some),
        Ok(Err(_)) | Err(_) => Ok(None),
    }
}

/// Mends the store instead of serving, and prints what was done.
///
/// # Errors
/// As [`repair::run`].
pub fn mend(config: &Config, kind: Kind) -> Result<()> {
    let repaired = repair::run(config, kind)?;
    writeln!(std::io::stdout(), "{repaired}").context("cannot print what was done")
}

/// Prints the line that a program waits for.
///
/// # Errors
/// When standard output is closed; then nobody can know, and the start is refused.
pub fn say_ready(line: &Map<String, Value>) -> Result<()> {
    let mut text = serde_json::to_string(line)?;
    text.push('\n');
    let mut out = std::io::stdout().lock();
    out.write_all(text.as_bytes()).and_then(|()| out.flush()).context("cannot print the ready line")
}

/// Cancelled by the first `SIGTERM` or `SIGINT`.
///
/// # Errors
/// When the system takes no handler.
pub fn on_signal() -> Result<CancellationToken> {
    let token = CancellationToken::new();
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    let told = token.clone();
    tokio::spawn(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        told.cancel();
    });
    Ok(token)
}

/// The end of a process: `error: …` on standard error when there was one.
#[must_use]
pub fn report(result: Result<()>) -> ExitCode {
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let _ = writeln!(std::io::stderr(), "error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
