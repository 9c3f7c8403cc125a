//! The socket: who may use it, who finds it, and what happens to one that is in the way.

use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::CommandExt as _;
use std::process::{Command, Output};

use anyhow::{Context as _, Result};
use serde_json::Value;
use waya_tests::{Binary, Options, Running, World, world};

fn code(output: &Output) -> Option<i32> {
    output.status.code()
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn cron_finds_the_daemon_with_nothing_but_a_home() -> Result<()> {
    let home = tempfile::tempdir()?;
    let runtime = home.path().join("run");
    std::fs::create_dir(&runtime)?;
    let data = home.path().join(".local/share/waya/cron");
    let mut daemon = Binary::sandbox()?.command();
    daemon.arg("--data-dir").arg(&data).args(["--profile", "cron", "--http", "off"]);
    daemon.env_remove("XDG_DATA_HOME").env("HOME", home.path()).env("XDG_RUNTIME_DIR", &runtime);
    let running = Running::start(daemon, &home.path().join("log"))?;
    assert_eq!(running.ready_text("socket")?, runtime.join("waya/cron.sock").display().to_string());

    let status = |variables: &[(&str, &str)]| -> Result<Value> {
        let mut waya = Binary::waya()?.command();
        waya.env_clear().env("HOME", home.path()).envs(variables.iter().copied());
        let output = waya.args(["--json", "status"]).output()?;
        serde_json::from_slice(&output.stdout).with_context(|| stderr(&output))
    };
    assert_eq!(status(&[("WAYA_PROFILE", "cron")])?["profile"], "cron");
    assert_eq!(status(&[("WAYA_DATA_DIR", data.to_str().context("odd path")?)])?["profile"], "cron");
    assert!(status(&[]).is_err(), "another profile's daemon is not taken for one's own");
    Ok(())
}

#[test]
fn the_socket_is_private_and_other_users_are_turned_away() -> Result<()> {
    let world = World::start()?;
    let socket = world.socket();
    assert_eq!(std::fs::metadata(&socket)?.permissions().mode() & 0o777, 0o600);
    let folder = socket.parent().context("no folder")?;
    // Even where the file's permissions would let them in.
    std::fs::set_permissions(&socket, std::fs::Permissions::from_mode(0o666))?;
    std::fs::set_permissions(folder, std::fs::Permissions::from_mode(0o755))?;
    // A copy, since the target folder may be out of others' reach.
    let waya = folder.join("waya");
    std::fs::copy(Binary::waya()?.command().get_program(), &waya)?;
    let mut stranger = Command::new(&waya);
    stranger.env_clear().arg("--socket").arg(&socket).arg("status").uid(65_534).gid(65_534);
    match stranger.output() {
        Ok(output) => {
            assert_eq!(code(&output), Some(3), "{}", stderr(&output));
            // Connected, and hung up on: not merely kept out by a folder.
            assert!(stderr(&output).starts_with("error: the daemon "), "{}", stderr(&output));
        }
        Err(error) => eprintln!("skipped: this user cannot become another one: {error}"),
    }
    assert_ne!(code(&world.waya(&["status"])?), Some(3));
    Ok(())
}

#[test]
fn a_socket_in_use_is_kept_and_a_stale_one_replaced() -> Result<()> {
    let mut world = World::start()?;
    let other = tempfile::tempdir()?;
    let mut second = Binary::sandbox()?.command();
    second.arg("--data-dir").arg(other.path().join("data")).arg("--socket").arg(world.socket());
    second.args(["--http", "off"]);
    let refused = world::run(second, None)?;
    assert!(stderr(&refused).contains("another daemon answers on the socket"), "{}", stderr(&refused));
    assert_ne!(code(&world.waya(&["status"])?), Some(3));

    world.running.take().context("it does not run")?.kill()?;
    assert!(world.socket().exists(), "a killed daemon leaves its socket behind");
    assert_eq!(code(&world.waya(&["status"])?), Some(3));
    world.start_again()?;
    assert_ne!(code(&world.waya(&["status"])?), Some(3));
    Ok(())
}

#[test]
fn the_socket_can_be_widened() -> Result<()> {
    let world = World::with(Options::default().env("WAYA_SOCKET_MODE", "0660"))?;
    assert_eq!(std::fs::metadata(world.socket())?.permissions().mode() & 0o777, 0o660);
    assert_ne!(code(&world.waya(&["status"])?), Some(3));
    Ok(())
}
