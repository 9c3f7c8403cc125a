//! Starting, stopping, being in the way of another, and where the command line finds the daemon.

#![expect(clippy::unwrap_used, reason = "tests")]

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::Result;
use waya_tests::{Binary, World, world};

/// The daemon alone, on an address where no WhatsApp answers: nothing here needs one.
fn alone(root: &Path) -> Command {
    let mut command = Binary::sandbox().unwrap().command();
    command.args(["--connect", "ws://127.0.0.1:9/ws/chat", "--http", "127.0.0.1:0"]);
    command.env("HOME", root).env("XDG_RUNTIME_DIR", root.join("run"));
    command
}

fn refusal(command: Command) -> (Option<i32>, String) {
    let output = world::run(command, None).unwrap();
    (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
}

#[test]
fn a_second_daemon_is_refused_and_the_first_goes_on() -> Result<()> {
    let world = World::start()?;
    let mut second = Binary::sandbox()?.command();
    second.arg("--data-dir").arg(world.data_dir()).args(["--http", "off"]).arg("--socket").arg(world.socket());
    let (code, error) = refusal(second);
    assert_ne!(code, Some(0));
    assert!(error.contains("another daemon") && error.contains("already runs"), "{error}");
    assert!(world.waya(&["status"])?.status.success());
    Ok(())
}

#[test]
fn the_socket_is_private_and_gone_after_a_quick_stop() -> Result<()> {
    let mut world = World::start()?;
    let mode = std::fs::metadata(world.socket())?.permissions().mode() & 0o777;
    assert_eq!(mode, 0o600);
    let key = std::fs::metadata(world.data_dir().join("api-key"))?.permissions().mode() & 0o777;
    assert_eq!(key, 0o600);
    let took = world.stop()?;
    assert!(took < Duration::from_secs(10), "{took:?}");
    assert!(!world.socket().exists());
    let output = world.waya(&["status"])?;
    assert_eq!(output.status.code(), Some(3));
    assert!(String::from_utf8_lossy(&output.stderr).contains("hint:"));
    Ok(())
}

#[test]
fn an_over_long_socket_path_and_a_taken_port_are_clear_errors() -> Result<()> {
    let root = tempfile::tempdir()?;
    let mut command = alone(root.path());
    command.arg("--data-dir").arg(root.path().join("a")).arg("--socket").arg(root.path().join("x".repeat(110)));
    let (code, error) = refusal(command);
    assert_ne!(code, Some(0));
    assert!(error.contains("107"), "{error}");

    let taken = std::net::TcpListener::bind("127.0.0.1:0")?;
    let address = taken.local_addr()?.to_string();
    let mut command = Binary::sandbox()?.command();
    command.args(["--connect", "ws://127.0.0.1:9/ws/chat", "--http", &address]);
    command.arg("--data-dir").arg(root.path().join("a")).arg("--socket").arg(root.path().join("s"));
    let (code, error) = refusal(command);
    assert_ne!(code, Some(0));
    assert!(error.contains(&address) && error.contains("--http"), "{error}");
    Ok(())
}

#[test]
fn a_folder_that_cannot_be_written_is_a_clear_error() -> Result<()> {
    let root = tempfile::tempdir()?;
    let file = root.path().join("file");
    std::fs::write(&file, "")?;
    let mut command = alone(root.path());
    // Below a file nothing can be made, whoever one is.
    command.arg("--data-dir").arg(file.join("data"));
    let (code, error) = refusal(command);
    assert_ne!(code, Some(0));
    assert!(error.contains("cannot use the data folder") && error.contains("--data-dir"), "{error}");
    Ok(())
}

#[test]
fn wrong_flags_and_config_are_named() -> Result<()> {
    let root = tempfile::tempdir()?;
    let mut command = alone(root.path());
    command.arg("--htpp");
    let (code, error) = refusal(command);
    assert_eq!(code, Some(2));
    assert!(error.contains("--htpp"), "{error}");

    let config = root.path().join("waya.toml");
    std::fs::write(&config, "\n[http]\naddr = 7200\n")?;
    let mut command = alone(root.path());
    command.arg("--config").arg(&config);
    let (code, error) = refusal(command);
    assert_ne!(code, Some(0));
    assert!(error.contains("waya.toml:3") && error.contains("127.0.0.1:7200"), "{error}");
    Ok(())
}

#[test]
fn a_sandbox_never_reaches_beyond_this_machine() -> Result<()> {
    let root = tempfile::tempdir()?;
    let mut command = Binary::sandbox()?.command();
    command.args(["--connect", "ws://192.0.2.1/ws/chat", "--http", "off"]);
    command.arg("--data-dir").arg(root.path().join("a")).arg("--socket").arg(root.path().join("s"));
    let (code, error) = refusal(command);
    assert_ne!(code, Some(0));
    assert!(error.contains("loopback"), "{error}");
    Ok(())
}
