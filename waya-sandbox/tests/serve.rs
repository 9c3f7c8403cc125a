//! The binary: its ready line, its end, and what it leaves behind when it is killed.
#![allow(clippy::unwrap_used)]

mod common;

use std::path::Path;
use std::process::{ExitStatus, Stdio};

use common::PATIENCE;
use serde_json::Value;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::process::{Child, Command};
use waya_sandbox::control::{Remote, SandboxControl, SayRequest};

struct Served {
    process: Child,
    control: Remote,
}

async fn serve(data_dir: &Path) -> Served {
    let mut process = Command::new(env!("CARGO_BIN_EXE_waya-sandbox"))
        .args(["serve", "--listen", "127.0.0.1:0", "--people", "2", "--data-dir"])
        .arg(data_dir)
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(process.stdout.take().unwrap()).lines();
    let line = tokio::time::timeout(PATIENCE, lines.next_line()).await.unwrap().unwrap();
    let ready: Value = serde_json::from_str(&line.expect("a ready line")).unwrap();
    assert_eq!(ready["event"], "ready");
    let control = Remote::new(ready["whatsapp"].as_str().unwrap()).unwrap();
    assert_eq!(ready["admin"], control.admin());
    assert!(Path::new(ready["ca"].as_str().unwrap()).is_file(), "{ready}");
    let root = ready["noise_root"].as_str().unwrap();
    assert!(root.len() == 64 && root.bytes().all(|digit| digit.is_ascii_hexdigit()), "{ready}");
    Served { process, control }
}

async fn end(mut served: Served, signal: &str) -> ExitStatus {
    let pid = served.process.id().unwrap().to_string();
    assert!(Command::new("kill").args([signal, &pid]).status().await.unwrap().success());
    tokio::time::timeout(PATIENCE, served.process.wait()).await.expect("it ends").unwrap()
}

#[tokio::test]
async fn a_signal_ends_it_in_order() {
    for signal in ["-TERM", "-INT"] {
        let folder = tempfile::tempdir().unwrap();
        assert!(end(serve(folder.path()).await, signal).await.success(), "{signal}");
    }
}

#[tokio::test]
async fn a_log_filter_that_is_none_is_refused() {
    let mut command = Command::new(env!("CARGO_BIN_EXE_waya-sandbox"));
    let output = command.arg("serve").env("WAYA_LOG_FILTER", "waya_sandbox=loud").output().await.unwrap();
    assert_eq!(output.status.code(), Some(2));
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(said.contains("'waya_sandbox=loud' for '--log-filter <FILTER>'"), "{said}");
}

#[tokio::test]
async fn half_a_request_holds_no_end_up() {
    let folder = tempfile::tempdir().unwrap();
    let served = serve(folder.path()).await;
    let address = served.control.admin().split('/').nth(2).unwrap().to_owned();
    let mut half = tokio::net::TcpStream::connect(address).await.unwrap();
    half.write_all(
        b"POST /say HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-type: application/json\r\ncontent-length: 9\r\n\r\n{",
    )
    .await
    .unwrap();
    // Another request on the same server shows that this one was taken up before the signal.
    served.control.stats().await.unwrap();
    assert!(end(served, "-TERM").await.success());
}

#[tokio::test]
async fn killed_while_people_talk_every_message_shows_once() {
    let folder = tempfile::tempdir().unwrap();
    let mut said = Vec::new();
    for round in 0..6 {
        let served = serve(folder.path()).await;
        let text = |number: usize| format!("{round}-{number}");
        for number in 0..4 {
            let request =
                SayRequest { from: "Budi".into(), text: text(number), to: Some("Siti".into()), ..Default::default() };
            said.push(served.control.say(request).await.unwrap().id);
        }
        end(served, "-KILL").await;
    }
    let served = serve(folder.path()).await;
    let relayed = served.control.stats().await.unwrap()["senders"]["6281200000002"]["messages"].as_u64().unwrap();
    let wait = async {
        loop {
            let inbox = served.control.inbox("Siti").await.unwrap().messages;
            if inbox.len() as u64 == relayed {
                return inbox;
            }
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    };
    let inbox = tokio::time::timeout(PATIENCE, wait).await.expect("all relayed messages arrive");
    assert!(relayed > 0, "some of {} texts were relayed", said.len());
    assert!(inbox.iter().all(|entry| entry.copies == 1 && said.contains(&entry.id)), "{inbox:#?}");
    assert!(end(served, "-TERM").await.success());
}

#[tokio::test]
async fn a_wrong_address_is_refused_with_the_way_out() {
    let output = Command::new(env!("CARGO_BIN_EXE_waya-sandbox"))
        .args(["serve", "--listen", "0.0.0.0:0"])
        .output()
        .await
        .unwrap();
    assert!(!output.status.success());
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(error.trim(), "error: 0.0.0.0:0 is not a loopback address: listen on 127.0.0.1");
}
