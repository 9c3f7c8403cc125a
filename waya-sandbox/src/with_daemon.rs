//! `waya-sandbox` itself: the daemon, linked to an emulator in this process or (`--connect`) in another.
//!
//! Owns the order of it: the emulator is there before the daemon connects to it, and stays until the daemon has
//! drained.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use serde_json::Value;
use tempfile::TempDir;
use tokio_util::sync::CancellationToken;
use tonic::service::Routes;
use waya_daemon::clock::Moves;
use waya_daemon::config::{self, Config};
use waya_daemon::daemon::Seams;
use waya_daemon::data_dir::DataDir;
use waya_daemon::model::{Kind, Timestamp};
use waya_daemon::process;
use waya_sandbox::Sandbox;
use waya_sandbox::control::{ClockRequest, Remote, SandboxControl};
use waya_sandbox::emulator::Clock;
use waya_sandbox::people::roster::{OWN_NAME, OWN_PHONE};

use crate::args::DaemonArgs;
use crate::grpc::Grpc;
use crate::own;

/// How long the ready line waits for the account to be linked and connected.
const LINKED_WITHIN: Duration = Duration::from_secs(20);

/// Runs until a signal.
pub fn run(mut args: DaemonArgs) -> Result<()> {
    let temporary = choose_folder(&mut args)?;
    let config = Config::load(&args.common, config::variables()?)?;
    process::prepare(&config);
    if args.common.repair {
        return process::mend(&config, Kind::Sandbox);
    }
    process::run(serve(config, &args, temporary.is_some()))
}

/// Without a data folder of the user's: a fresh one with a socket of its own, both gone at the end.
fn choose_folder(args: &mut DaemonArgs) -> Result<Option<TempDir>> {
    let variables = config::variables()?;
    let given = |name: &str| variables.iter().any(|(known, _)| known == name);
    if args.common.data_dir.is_some() || given("WAYA_DATA_DIR") {
        return Ok(None);
    }
    let folder = tempfile::Builder::new().prefix("waya-sandbox-").tempdir()?;
    args.common.data_dir = Some(folder.path().join("data"));
    if args.common.socket.is_none() && !given("WAYA_SOCKET") {
        args.common.socket = Some(folder.path().join("waya.sock"));
    }
    Ok(Some(folder))
}

async fn serve(config: Config, args: &DaemonArgs, temporary: bool) -> Result<()> {
    let shutdown = process::on_signal()?;
    if let Some(address) = &args.connect {
        let remote = Remote::new(address)?;
        let admin = remote.admin().to_owned();
        let place = Place { address, admin: &admin, trust: None };
        let clock = Clock::default();
        // Not answering, it has no clock that could be ahead.
        if let Ok(view) = remote.clock(ClockRequest::default()).await {
            clock.set_ahead(view.ahead_ms);
        }
        return daemon(config, place, (Arc::new(remote), clock), shutdown).await;
    }
    // Refuses a folder that is not a sandbox's before anything is put into it.
    drop(DataDir::open(&config.data_dir, Kind::Sandbox)?);
    let data_dir = (!temporary).then(|| config.data_dir.join("sandbox"));
    let start = Sandbox::start(args.world.sandbox(data_dir));
    let Some(sandbox) = shutdown.run_until_cancelled(start).await else { return Ok(()) };
    let mut sandbox = sandbox?;
    let (address, admin) = (sandbox.whatsapp_url(), sandbox.admin_url());
    let emulator = sandbox.emulator();
    let trust =
        [("ca", emulator.media_authority().to_string_lossy().into_owned()), ("noise_root", emulator.noise_root())];
    let place = Place { address: &address, admin: &admin, trust: Some(trust) };
    let control = (Arc::new(sandbox.control()) as Arc<dyn SandboxControl>, sandbox.emulator().clock().clone());
    let stop = shutdown.child_token();
    let mut daemon = std::pin::pin!(daemon(config, place, control, stop.clone()));
    let ended = tokio::select! {
        ended = &mut daemon => ended,
        broken = sandbox.ended() => {
            stop.cancel();
            daemon.await?;
            return Ok(broken?);
        }
    };
    sandbox.shutdown().await?;
    ended
}

/// The daemon's time is the sandbox's.
#[derive(Debug)]
struct SandboxClock(Clock);

impl waya_daemon::clock::Clock for SandboxClock {
    fn now(&self) -> Timestamp {
        Timestamp::from_millis(self.0.now_millis().unsigned_abs())
    }

    fn moves(&self) -> Moves {
        Moves::told_by(self.0.moves())
    }
}

/// Where the sandbox is.
struct Place<'a> {
    address: &'a str,
    admin: &'a str,
    /// What its clients check it by, as the ready line tells; none where it is in another process, which may not be
    /// running.
    trust: Option<[(&'static str, String); 2]>,
}

/// The daemon on the sandbox that `control` commands.
async fn daemon(
    config: Config,
    place: Place<'_>,
    (control, clock): (Arc<dyn SandboxControl>, Clock),
    shutdown: CancellationToken,
) -> Result<()> {
    let seams = Seams {
        kind: Kind::Sandbox,
        whatsapp_url: Some(place.address.to_owned()),
        push_name: Some(OWN_NAME.to_owned()),
        services: Some(Routes::new(Grpc::server(control.clone(), clock.clone()))),
        clock: Arc::new(SandboxClock(clock)),
    };
    let Some(daemon) = process::build(config, seams, &shutdown).await? else { return Ok(()) };
    let session = daemon.session();
    let scanning = tokio::spawn(own::scan_codes(session.clone(), control));
    // Not an error: the daemon says by itself what is wrong with its link.
    let settled = tokio::time::timeout(LINKED_WITHIN, own::settled(&session, place.trust.is_none()));
    let _ = shutdown.run_until_cancelled(settled).await;
    drop(session);
    let mut ready = daemon.ready_line().clone();
    for (key, value) in [("whatsapp", place.address), ("admin", place.admin), ("me", OWN_PHONE)] {
        ready.insert(key.to_owned(), Value::String(value.to_owned()));
    }
    for (key, value) in place.trust.into_iter().flatten() {
        ready.insert(key.to_owned(), Value::String(value));
    }
    process::say_ready(&ready)?;
    let ended = daemon.run(shutdown).await;
    scanning.abort();
    ended
}
