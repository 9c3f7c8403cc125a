//! The daemon behind a proxy: a message gets through, the proxy's fate is told, and its password is shown nowhere.

use anyhow::{Result, ensure};
use waya_tests::proxy::{BASIC, LetsIn, PASSWORD, PASSWORD_IN_URL, Proxy, Speaks};
use waya_tests::{BUDI, Binary, Options, World, world};

#[tokio::test(flavor = "multi_thread")]
async fn a_message_is_read_through_a_proxy_whose_password_is_shown_nowhere() -> Result<()> {
    for (scheme, speaks) in [("http", Speaks::Http), ("socks5h", Speaks::Socks5)] {
        let proxy = Proxy::start(speaks, LetsIn::User).await?;
        let options = Options::default()
            .env("WAYA_NETWORK_PROXY", &proxy.url(scheme, LetsIn::User))
            .env("WAYA_LOG_FILTER", "trace");
        let mut world = World::with(options)?;
        let id = world.accept(BUDI, "Halo").await?;
        world.until_message(&id, |message| message["ack"] == "read").await?;
        ensure!(!proxy.tunnels().is_empty(), "it went around the proxy");

        let address = proxy.address();
        proxy.close().await;
        let reason = format!("cannot connect to proxy 127.0.0.1 ({address})");
        waya_tests::until("the proxy is missed", || async {
            let (_, session) = world.api.get("/api/session").await?;
            ensure!(session["reason"].as_str().is_some_and(|told| told.starts_with(&reason)), "{session}");
            Ok(())
        })
        .await?;
        let status = world.waya(&["status"])?;
        let status = String::from_utf8_lossy(&status.stdout).into_owned();
        ensure!(status.contains(&reason), "{status}");

        let back = Proxy::start_at(address, speaks, LetsIn::User).await?;
        world.until_session("connected").await?;
        ensure!(!back.tunnels().is_empty(), "it went around the proxy");

        let mut shown = vec![status];
        for arguments in [["--json", "status"], ["settings", "list"], ["--json", "events"]] {
            let output = world.waya(&arguments)?;
            shown.push(String::from_utf8_lossy(&output.stdout).into_owned());
            shown.push(String::from_utf8_lossy(&output.stderr).into_owned());
        }
        world.stop()?;
        let log = world.log()?;
        ensure!(log.contains(&format!("WhatsApp is reached through proxy {address}")), "the log is not the daemon's");
        shown.push(log);
        let shown = shown.join("\n");
        for secret in [PASSWORD, PASSWORD_IN_URL, BASIC] {
            let place = shown.find(secret).and_then(|at| shown.get(at.saturating_sub(200)..at));
            ensure!(place.is_none(), "{secret} after {place:?}");
        }
    }
    Ok(())
}

#[test]
fn what_is_no_proxy_stops_the_start_and_is_not_repeated() -> Result<()> {
    let root = tempfile::tempdir()?;
    let mut command = Binary::sandbox()?.command();
    command.args(["--http", "off", "--data-dir"]).arg(root.path().join("data"));
    command.arg("--socket").arg(root.path().join("waya.sock"));
    command.env("HOME", root.path()).env("WAYA_NETWORK_PROXY", "socks4://budi:rahasia@127.0.0.1:1080");
    let output = world::run(command, None)?;
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    ensure!(output.status.code() != Some(0), "it started");
    ensure!(error.contains("WAYA_NETWORK_PROXY") && error.contains("socks5h://"), "{error}");
    ensure!(!error.contains("rahasia") && !error.contains("budi"), "{error}");

    let mut command = Binary::sandbox()?.command();
    command.args(["--http", "off", "--data-dir"]).arg(root.path().join("data"));
    command.arg("--socket").arg(root.path().join("waya.sock"));
    command.env("HOME", root.path()).env("WAYA_NETWORK_PROXY", "http://budi:rahasia@192.0.2.1:8080");
    let output = world::run(command, None)?;
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    ensure!(output.status.code() != Some(0), "the sandbox left this machine");
    ensure!(error.contains("refuses 192.0.2.1") && !error.contains("rahasia"), "{error}");
    Ok(())
}
