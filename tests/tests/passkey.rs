//! Linking an account that is guarded by a passkey, from the shell and over HTTP.

use std::io::{BufRead as _, BufReader};
use std::process::{Child, Command, Output, Stdio};

use anyhow::{Context as _, Result, ensure};
use reqwest::StatusCode;
use serde_json::{Value, json};
use waya_sandbox::emulator::passkey_answer;
use waya_tests::{BUDI, Binary, World, until};

/// A daemon whose account was unlinked, and asks for its passkey when it is linked again.
async fn guarded() -> Result<World> {
    let world = World::start()?;
    world.until_session("connected").await?;
    world.fault("passkey", &[]).await?;
    let output = world.waya(&["logout", "--yes"])?;
    ensure!(output.status.success(), "{}", stderr(&output));
    Ok(world)
}

/// `waya login …` under way.
fn login(world: &World, arguments: &[&str]) -> Result<Login> {
    let mut command: Command = Binary::waya()?.command();
    command.arg("--socket").arg(world.socket()).args(["--json", "login"]).args(arguments);
    let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn()?;
    let lines = BufReader::new(child.stdout.take().context("no output")?);
    Ok(Login { child, lines })
}

struct Login {
    child: Child,
    lines: BufReader<std::process::ChildStdout>,
}

impl Login {
    /// The next session it prints at this step of a passkey.
    fn until_step(&mut self, step: &str) -> Result<Value> {
        loop {
            let mut line = String::new();
            ensure!(self.lines.read_line(&mut line)? > 0, "it ended before the passkey was {step}");
            let session: Value = serde_json::from_str(&line)?;
            if session["passkey"]["step"] == step {
                return Ok(session);
            }
        }
    }
}

impl Drop for Login {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// The session at this step of a passkey.
async fn until_step(world: &World, step: &str) -> Result<Value> {
    until(&format!("the passkey is {step}"), || async {
        let (_, session) = world.api.get("/api/session").await?;
        ensure!(session["passkey"]["step"] == step, "{session}");
        Ok(session)
    })
    .await
}

fn answer_to(session: &Value) -> Result<String> {
    passkey_answer(&session["passkey"]["request"].to_string()).context("no request")
}

#[tokio::test]
async fn the_shell_shows_the_request_takes_the_answer_and_confirms_the_code() -> Result<()> {
    let world = guarded().await?;
    let mut first = login(&world, &[])?;
    let session = first.until_step("asked")?;
    assert_eq!(session["state"], "passkey_required");
    assert_eq!(session["passkey"]["request"]["rpId"], "web.whatsapp.com");

    let folder = tempfile::tempdir()?;
    let file = folder.path().join("answer.json");
    let good = answer_to(&session)?;
    let mut unsigned: Value = serde_json::from_str(&good)?;
    unsigned["response"]["signature"] = Value::Null;
    for (bad, words) in [
        ("{".to_owned(), "no JSON object"),
        ("{}".to_owned(), "type: must be"),
        (unsigned.to_string(), "response.signature: is missing"),
        (good.replacen("\"rawId\":\"", "\"rawId\":\"AAAA", 1), "id: must be the same as rawId"),
        ("x".repeat(70_000), "longer than 64 KiB"),
    ] {
        std::fs::write(&file, bad)?;
        let refused = world.waya(&["login", "--passkey-assertion", &file.to_string_lossy()])?;
        assert_eq!(refused.status.code(), Some(4), "{words}: {}", stderr(&refused));
        assert!(stderr(&refused).contains(words), "{words}: {}", stderr(&refused));
    }
    let missing = world.waya(&["login", "--passkey-assertion", "/nonexistent/answer.json"])?;
    assert_eq!(missing.status.code(), Some(4), "{}", stderr(&missing));
    let early = world.waya(&["login", "--passkey-confirm", "ABCD-EFGH"])?;
    assert_eq!(early.status.code(), Some(4), "{}", stderr(&early));
    assert_eq!(until_step(&world, "asked").await?["passkey"], session["passkey"], "nothing of that changed anything");

    std::fs::write(&file, &good)?;
    let mut second = login(&world, &["--passkey-assertion", &file.to_string_lossy()])?;
    let code = second.until_step("compare")?["passkey"]["code"].as_str().context("no code")?.to_owned();
    assert_eq!(first.until_step("compare")?["passkey"]["code"], json!(code), "whoever waits is told");
    let wrong = world.waya(&["login", "--passkey-confirm", "0000-0000"])?;
    assert_eq!(wrong.status.code(), Some(4));
    assert!(stderr(&wrong).contains("code: is not the code that is shown"), "{}", stderr(&wrong));
    let linked = world.waya(&["login", "--passkey-confirm", &code.to_lowercase()])?;
    assert_eq!(linked.status.code(), Some(0), "{}", stderr(&linked));
    assert!(String::from_utf8_lossy(&linked.stdout).contains("linked as "), "{linked:?}");
    for mut login in [first, second] {
        assert_eq!(login.child.wait()?.code(), Some(0));
    }
    let sent = world.waya(&["send", BUDI, "Halo", "--wait", "delivered"])?;
    assert_eq!(sent.status.code(), Some(0), "{}", stderr(&sent));

    let late = world.waya_with_input(&["login", "--passkey-assertion", "-"], Some(good.as_bytes()))?;
    assert_eq!(late.status.code(), Some(4));
    assert!(stderr(&late).contains("not asking for a passkey"), "{}", stderr(&late));
    assert_eq!(world.api.get("/api/session").await?.1["state"], "connected");
    Ok(())
}

#[tokio::test]
async fn the_same_over_http_and_a_demand_that_ended_can_be_had_again() -> Result<()> {
    let world = guarded().await?;
    let waiting = login(&world, &[])?;
    let old = answer_to(&until_step(&world, "asked").await?)?;
    // Everybody is cut, the daemon that waits too.
    world.admin.post("/fault", &json!({"kind": "cut"})).await?;
    let session = until("the request is over", || async {
        let (_, session) = world.api.get("/api/session").await?;
        ensure!(session["state"] == "passkey_required" && session["passkey"].is_null(), "{session}");
        Ok(session)
    })
    .await?;
    let reason = session["reason"].as_str().unwrap_or_default();
    assert!(reason.contains("start again with `waya login`"), "{reason}");
    let mut ended = waiting;
    assert_eq!(ended.child.wait()?.code(), Some(5), "the login that waited ends with it");
    let old: Value = serde_json::from_str(&old)?;
    let (status, refused) = world.api.post("/api/session/passkey", &old).await?;
    assert_eq!((status, &refused["code"]), (StatusCode::CONFLICT, &json!("passkey_not_asked")));

    let _again = login(&world, &[])?;
    let session = until_step(&world, "asked").await?;
    let (status, refused) = world.api.post("/api/session/passkey", &old).await?;
    assert_eq!(status, StatusCode::UNPROCESSABLE_ENTITY, "{refused}");
    assert_eq!(refused["field"], "response.clientDataJSON", "another request, another challenge: {refused}");
    let new: Value = serde_json::from_str(&answer_to(&session)?)?;
    let (status, taken) = world.api.post("/api/session/passkey", &new).await?;
    assert_eq!(status, StatusCode::OK, "{taken}");
    let code = until_step(&world, "compare").await?["passkey"]["code"].clone();
    let (status, confirmed) = world.api.post("/api/session/passkey/confirm", &json!({ "code": code })).await?;
    assert_eq!(status, StatusCode::OK, "{confirmed}");
    world.until_session("connected").await?;
    let id = world.accept(BUDI, "Halo").await?;
    world.until_message(&id, |message| message["ack"] == "read").await?;
    // Codes and requests are for whoever sees them now.
    let (_, events) = world.api.get("/api/events?after=0").await?;
    assert!(!events.to_string().contains("challenge"), "{events}");
    Ok(())
}
