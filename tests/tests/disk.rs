//! A disk that is full or cannot be written to: refused in words, never lost, and taken again when there is room.

#![expect(clippy::unwrap_used, reason = "tests")]

#[path = "../../waya-daemon/tests/support/mod.rs"]
mod support;

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Result, ensure};
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use waya_tests::{BUDI, Binary, Options, World, until, world};

const MIB: u64 = 1 << 20;

/// More than any disk has.
fn no_room() -> Options {
    Options::default().env("WAYA_STORE_MIN_FREE", "1048576GiB")
}

/// The same request every time it is made.
async fn send_once(world: &World) -> Result<(StatusCode, Value)> {
    let request = world.api.request(Method::POST, "/api/send-message").header("Idempotency-Key", "once");
    waya_tests::http::answer(request.json(&json!({"number": BUDI, "message": "once"}))).await
}

async fn send(world: &World) -> Result<(StatusCode, Value)> {
    world.api.post("/api/send-message", &json!({"number": BUDI, "message": "new"})).await
}

/// Whether new messages are taken, by every door that tells.
async fn takes_work(world: &World) -> Result<bool> {
    let (ready, answer) = world.api.get("/readyz").await?;
    let store_ready = &world.api.get("/api/status").await?.1["storeReady"];
    let (live, _) = world.api.get("/livez").await?;
    let takes = ready == StatusCode::OK;
    ensure!(live == StatusCode::OK && *store_ready == takes, "{ready} and {store_ready}");
    ensure!(takes || answer["code"] == "store_unavailable", "{ready}: {answer}");
    Ok(takes)
}

async fn refuses(world: &World) -> Result<()> {
    let (status, answer) = send(world).await?;
    ensure!(status == StatusCode::SERVICE_UNAVAILABLE && answer["code"] == "store_unavailable", "{status}: {answer}");
    ensure!(!takes_work(world).await?, "it refuses messages and says that it is ready");
    Ok(())
}

#[tokio::test]
async fn below_the_watermark_nothing_new_is_taken_and_what_was_stays() -> Result<()> {
    let mut world = World::start()?;
    ensure!(takes_work(&world).await?, "it is not ready on a disk with room");
    ensure!(world.waya(&["queue", "pause"])?.status.success());
    let id = world.accept(BUDI, "old").await?;
    let (status, accepted) = send_once(&world).await?;
    assert_eq!(status, StatusCode::ACCEPTED, "{accepted}");
    let before = world.message(&id).await?;
    world.restart_with(no_room())?;
    refuses(&world).await?;
    assert_eq!(send_once(&world).await?, (status, accepted), "a repeat is no new message");
    assert_eq!(world.message(&id).await?, before);
    assert_eq!(world.waya(&["send", BUDI, "new"])?.status.code(), Some(1));
    // What was accepted goes out all the same.
    ensure!(world.waya(&["queue", "resume"])?.status.success());
    world.until_message(&id, |message| message["status"] == "sent").await?;
    world.restart_with(Options::default())?;
    ensure!(takes_work(&world).await?, "it is not ready on a disk with room");
    assert_eq!(send(&world).await?.0, StatusCode::ACCEPTED);
    Ok(())
}

#[tokio::test]
async fn a_disk_that_fills_is_told_at_once_and_work_is_taken_again_when_there_is_room() -> Result<()> {
    let root = tempfile::tempdir()?;
    let Some(disk) = mounted(root.path()) else { return Ok(()) };
    let options = Options { data_dir: Some(disk.path().join("data")), ..Options::default() };
    let world = World::with(options.env("WAYA_STORE_MIN_FREE", "24MiB"))?;
    let first = world.accept(BUDI, "first").await?;
    let filler = fill(disk.path(), 16 * MIB);
    until("new work is refused", || refuses(&world)).await?;
    world.until_message(&first, |message| message["status"] == "sent").await?;
    std::fs::remove_file(filler)?;
    let taken = || async {
        ensure!(takes_work(&world).await?, "not yet");
        Ok(())
    };
    until("new work is taken", taken).await?;
    assert_eq!(send(&world).await?.0, StatusCode::ACCEPTED);
    drop(world);
    Ok(())
}

#[test]
fn a_folder_on_a_disk_that_is_read_only_is_a_clear_error() -> Result<()> {
    let root = tempfile::tempdir()?;
    let Some(disk) = mounted(root.path()) else { return Ok(()) };
    let used = disk.path().join("used");
    let options = Options { data_dir: Some(used.clone()), ..Options::default() };
    World::with(options)?.stop()?;
    let remounted = Command::new("mount").args(["-o", "remount,ro"]).arg(disk.path()).status()?;
    ensure!(remounted.success(), "the disk cannot be made read-only");
    for data_dir in [used, disk.path().join("fresh")] {
        let mut command = Binary::sandbox()?.command();
        command.args(["--connect", "ws://127.0.0.1:9/ws/chat", "--http", "off"]).arg("--data-dir").arg(&data_dir);
        command.arg("--socket").arg(root.path().join("waya.sock")).env("HOME", root.path());
        let output = world::run(command, None)?;
        let error = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{error}");
        let told = error.contains("cannot use the data folder") && error.contains("Read-only file system");
        assert!(told && error.contains(&*data_dir.to_string_lossy()) && error.contains("--data-dir"), "{error}");
    }
    Ok(())
}

/// A small disk of its own.
fn mounted(root: &Path) -> Option<support::Mounted> {
    let image = root.join("image");
    let mounted = support::make_image(&image, 128 * MIB).and_then(|()| support::mount(&image, &root.join("disk")));
    mounted.map_err(|why| support::skipped(&why)).ok()
}

/// Takes all but so many bytes of the disk.
fn fill(disk: &Path, leave: u64) -> PathBuf {
    let path = disk.join("filler");
    let output = Command::new("df").args(["--output=avail", "-B1"]).arg(disk).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    let free: u64 = text.lines().last().unwrap().trim().parse().unwrap();
    let taken = Command::new("fallocate").args(["-l", &(free - leave).to_string()]).arg(&path).status().unwrap();
    assert!(taken.success(), "the disk cannot be filled");
    path
}
