//! A client library in another language, which was never told about the emulator: Baileys, on Node.
//!
//! `baileys/` holds what it does. Without Node this says that it is skipped, or fails if `WAYA_TEST_STRICT` is 1; the
//! packages come from the npm registry, as `baileys/package-lock.json` names them.
#![allow(clippy::unwrap_used)]

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use serde_json::Value;
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt, BufReader};

/// The probe ends by itself before that.
const PATIENCE: Duration = Duration::from_secs(300);

/// Baileys asks for no less.
const OLDEST_NODE: u32 = 20;

/// The major version of a program.
fn version(command: &str) -> Option<u32> {
    let told = Command::new(command).arg("--version").output().ok()?;
    let text = String::from_utf8(told.stdout).ok()?;
    text.trim().trim_start_matches('v').split('.').next()?.parse().ok()
}

/// Where Node is to be there, a test that did not run is one that failed.
fn skipped(why: &str) -> Option<TempDir> {
    assert!(std::env::var_os("WAYA_TEST_STRICT").is_none_or(|strict| strict != "1"), "not run: {why}");
    eprintln!("skipped: {why}");
    None
}

/// The probe with its packages beside it.
fn installed() -> Option<TempDir> {
    if version("node").is_none_or(|major| major < OLDEST_NODE) || version("npm").is_none() {
        return skipped(&format!("there is no Node {OLDEST_NODE} with npm here"));
    }
    let folder = tempfile::tempdir().unwrap();
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/baileys");
    for entry in std::fs::read_dir(source).unwrap() {
        let entry = entry.unwrap();
        std::fs::copy(entry.path(), folder.path().join(entry.file_name())).unwrap();
    }
    // No image library: the probe brings its thumbnails. No scripts: nothing here has to be built.
    let arguments = ["ci", "--omit=peer", "--ignore-scripts", "--no-audit", "--no-fund", "--loglevel=error"];
    let status = Command::new("npm").args(arguments).current_dir(folder.path()).status().unwrap();
    if !status.success() {
        return skipped(&format!("npm could not get the packages ({status})"));
    }
    Some(folder)
}

#[tokio::test]
async fn a_client_in_another_language_finds_everything_it_expects() {
    let Some(folder) = installed() else { return };
    for mode in [&[][..], &["--pn-only"]] {
        probe(&folder, mode).await;
    }
}

async fn probe(folder: &TempDir, mode: &[&str]) {
    let mut serve = tokio::process::Command::new(env!("CARGO_BIN_EXE_waya-sandbox"));
    serve.args(["serve", "--listen", "127.0.0.1:0", "--people", "1"]).args(mode).env_remove("WAYA_LOG_FILTER");
    let mut serve = serve.stdout(Stdio::piped()).kill_on_drop(true).spawn().unwrap();
    let line = BufReader::new(serve.stdout.take().unwrap()).lines().next_line().await.unwrap().unwrap();
    let ready: Value = serde_json::from_str(&line).unwrap();
    let text = |name: &str| ready[name].as_str().unwrap().to_owned();

    let mut probe = tokio::process::Command::new("node");
    probe.args(["probe.mjs", &text("whatsapp"), &text("admin"), &text("noise_root")]);
    probe.args(mode).current_dir(folder.path());
    probe.env("NODE_EXTRA_CA_CERTS", text("ca")).kill_on_drop(true);
    let probed = tokio::time::timeout(PATIENCE, probe.output()).await.expect("the probe hangs").unwrap();
    let told = String::from_utf8_lossy(&probed.stdout);
    let failed: Vec<_> = told.lines().filter(|line| !line.contains(r#""ok":true"#)).collect();
    assert!(failed.is_empty(), "{mode:?}: {failed:#?}");
    assert!(probed.status.success(), "{told}{}", String::from_utf8_lossy(&probed.stderr));
    eprintln!("{} steps went well", told.lines().count());
}
