//! `SIGTERM` at bad moments: gone with 0 in time, and nothing lost or renamed.

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::TcpStream;
use std::os::unix::process::ExitStatusExt as _;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use serde_json::json;
use waya_tests::{BUDI, Binary, SITI, World};

const IN_TIME: Duration = Duration::from_secs(10);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stop_waits_for_nobody_for_long_and_keeps_every_message_under_its_id() -> Result<()> {
    let mut world = World::start()?;
    // No ack, and no receipt in its stead.
    world.fault("ack-lost", &[]).await?;
    for who in [BUDI, SITI] {
        let (status, answer) = world.admin.post("/offline", &json!({"who": who})).await?;
        ensure!(status.is_success(), "{answer}");
    }
    let mut waiting = Vec::new();
    for (who, text) in [(BUDI, "one"), (SITI, "two"), (BUDI, "three")] {
        waiting.push(world.accept(who, text).await?);
    }
    let on_its_way = world.until_message(&waiting[0], |message| message["status"] == "sending").await?;
    let mut ids = Vec::new();
    for id in &waiting {
        ids.push(world.message(id).await?["whatsappId"].clone());
    }

    // A request that waits, one that never says all of itself, and a follower.
    let (api, path) = (world.api.clone(), format!("/api/message-status/{}?wait=sent&timeout=120", waiting[0]));
    let long_poll = tokio::spawn(async move { api.get(&path).await });
    let mut half = TcpStream::connect(world.api.base().trim_start_matches("http://"))?;
    half.write_all(b"POST /api/send-message HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n{")?;
    let mut follower = Binary::waya()?.command();
    follower.arg("--socket").arg(world.socket()).args(["--json", "events", "--after", "0", "--follow"]);
    let mut follower = follower.stdout(Stdio::piped()).stderr(Stdio::null()).spawn()?;
    let mut told = String::new();
    BufReader::new(follower.stdout.take().context("no output")?).read_line(&mut told)?;
    ensure!(told.starts_with('{'), "the follower hears nothing: {told:?}");

    let took = world.stop()?;
    ensure!(took < IN_TIME, "it took {took:?}");
    follower.wait()?;
    let (_, answer) = long_poll.await??;
    assert_eq!(answer["whatsappId"], on_its_way["whatsappId"], "the waiting request is answered: {answer}");
    assert!(!world.socket().exists());

    world.start_again()?;
    for who in [BUDI, SITI] {
        world.admin.post("/online", &json!({"who": who})).await?;
    }
    for (id, whatsapp_id) in waiting.iter().zip(&ids) {
        let message = world.until_message(id, |message| message["status"] == "sent").await?;
        assert_eq!(&message["whatsappId"], whatsapp_id);
    }
    for (who, texts) in [(BUDI, &["one", "three"][..]), (SITI, &["two"])] {
        let inbox = waya_tests::until("everything has arrived", || async {
            let inbox = world.inbox(who).await?;
            ensure!(inbox.len() >= texts.len(), "{inbox:?}");
            Ok(inbox)
        });
        let inbox = inbox.await?;
        let arrived: Vec<_> = inbox.iter().map(|row| row["text"].as_str().unwrap_or_default()).collect();
        assert_eq!(arrived, texts);
    }
    Ok(())
}

#[test]
fn a_stop_while_it_starts_is_a_stop() -> Result<()> {
    let root = tempfile::tempdir()?;
    let sandbox = Binary::sandbox()?;
    let command = || {
        let mut command = sandbox.command();
        command.args(["--connect", "ws://127.0.0.1:9/ws/chat", "--http", "127.0.0.1:0"]);
        command.arg("--data-dir").arg(root.path().join("data")).arg("--socket").arg(root.path().join("waya.sock"));
        command.env("HOME", root.path()).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        command
    };
    let mut stopped = 0;
    for moment in 0..12 {
        let mut child = command().spawn()?;
        std::thread::sleep(Duration::from_millis(moment * 15));
        let begun = Instant::now();
        Command::new("kill").arg(child.id().to_string()).status()?;
        let status = loop {
            if let Some(status) = child.try_wait()? {
                break status;
            }
            if begun.elapsed() > IN_TIME {
                child.kill()?;
                anyhow::bail!("told to stop {moment} × 15 ms after its start, it goes on");
            }
            std::thread::sleep(Duration::from_millis(5));
        };
        // Before it listens for signals there is nothing to put in order.
        ensure!(status.success() || status.signal() == Some(15), "it ended with {status}");
        stopped += usize::from(status.success());
        ensure!(!status.success() || !root.path().join("waya.sock").exists(), "the socket stays");
    }
    ensure!(stopped > 0, "no stop came after it listened for signals");
    Ok(())
}
