//! The command line as a shell sees it: what it prints, what it exits with, and what it follows.

use std::io::{BufRead as _, BufReader};
use std::process::{Child, Command, Output, Stdio};

use anyhow::{Context as _, Result, bail, ensure};
use reqwest::StatusCode;
use serde_json::{Value, json};
use waya_tests::{BUDI, Binary, OWN_PHONE, SITI, World, world};

/// A number that nobody has.
const NOBODY: &str = "6281299999999";

fn code(output: &Output) -> i32 {
    output.status.code().unwrap_or(-1)
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn stdout(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[tokio::test]
async fn a_message_from_the_shell_is_read_on_the_other_side() -> Result<()> {
    let world = World::start()?;
    world.until_session("connected").await?;
    let text = " *Halo*\n\"dunia\" 😀 ";
    let sent = world.waya(&["send", BUDI, text, "--ref", "order-7", "--wait", "read"])?;
    assert_eq!(code(&sent), 0, "{}", stderr(&sent));
    assert!(stdout(&sent).ends_with(&format!("{BUDI}: read\n")), "{}", stdout(&sent));
    let inbox = world.waya_json(&["sandbox", "inbox", "Budi"])?;
    assert_eq!((&inbox["messages"][0]["text"], &inbox["messages"][0]["copies"]), (&json!(text), &json!(1)));
    let message = world.waya(&["message", "order-7"])?;
    for line in ["status       sent", "ack          read", "source       cli"] {
        assert!(stdout(&message).contains(line), "{}", stdout(&message));
    }
    assert_eq!(code(&world.waya(&["status"])?), 0);
    Ok(())
}

#[tokio::test]
async fn json_is_the_body_of_the_matching_http_answer() -> Result<()> {
    let world = World::start()?;
    world.until_session("connected").await?;
    let sent = world.waya_json(&["send", &format!("{BUDI},{SITI}"), "Halo", "--wait", "read"])?;
    assert_eq!((&sent["success"], &sent["status"], &sent["ack"]), (&json!(true), &json!("sent"), &json!("read")));
    assert_eq!(sent["messages"].as_array().map(Vec::len), Some(2));
    world.waya_json(&["sandbox", "say", "Budi", "Halo juga", "--group", "Keluarga"])?;
    let id = sent["id"].as_str().context("no id")?;
    waya_tests::until("the group message is in the journal", || async {
        let (_, page) = world.api.get("/api/events?after=0").await?;
        ensure!(page["events"].to_string().contains("Halo juga"), "{page}");
        Ok(())
    })
    .await?;
    for (arguments, path) in [
        (&["message", id][..], format!("/api/message-status/{id}")),
        (&["queue", "list"], "/api/queue".to_owned()),
        (&["queue", "list", "--status", "sent", "--limit", "1"], "/api/queue?status=sent&limit=1".to_owned()),
        (&["events"], "/api/events?after=0".to_owned()),
    ] {
        let (_, body) = world.api.get(&path).await?;
        assert_eq!(world.waya_json(arguments)?, body, "{arguments:?}");
    }
    let mut status = world.waya_json(&["status"])?;
    let (_, mut body) = world.api.get("/api/status").await?;
    // Traffic goes on between the two.
    for answer in [&mut status, &mut body] {
        answer["lastTrafficAt"] = Value::Null;
        let known = answer["known"].take();
        ensure!(known["people"].is_u64() && known["chats"].is_u64(), "{known}");
    }
    assert_eq!(status, body);
    let (_, people) = world.admin.get("/people").await?;
    assert_eq!(world.waya_json(&["sandbox", "people"])?, people);
    let (_, inbox) = world.admin.get(&format!("/inbox/{BUDI}")).await?;
    assert_eq!(world.waya_json(&["sandbox", "inbox", BUDI])?, inbox);
    let mut dry = world.waya_json(&["send", BUDI, "Halo", "--dry-run"])?;
    let body = json!({"number": BUDI, "message": "Halo", "dry_run": true});
    let (_, mut body) = world.api.post("/api/send-message", &body).await?;
    // Asked a moment later, it leaves a moment later.
    for answer in [&mut dry, &mut body] {
        ensure!(answer["fits"]["lastLeavesAt"].take().is_u64(), "{answer}");
    }
    assert_eq!(dry, body);
    Ok(())
}

#[tokio::test]
async fn standard_input_is_the_text_when_it_is_meant_to_be() -> Result<()> {
    let world = World::start()?;
    let text_of = |arguments: &[&str], input: &[u8]| -> Result<Value> {
        let output = world.waya_with_input(&[&["--json", "send"], arguments].concat(), Some(input))?;
        ensure!(code(&output) == 0, "{arguments:?}: {}", stderr(&output));
        let answer: Value = serde_json::from_slice(&output.stdout)?;
        let message = world.waya_json(&["message", answer["id"].as_str().context("no id")?])?;
        Ok(message["message"].clone())
    };
    assert_eq!(text_of(&[BUDI], b"Halo\n")?, "Halo");
    assert_eq!(text_of(&[BUDI, "-"], b" a\tb\r\n\n")?, " a\tb\r\n");
    assert_eq!(text_of(&[BUDI, "-"], "\u{200b}é\u{0}".as_bytes())?, "\u{200b}é\u{0}");
    assert_eq!(text_of(&[BUDI, "given"], b"not read")?, "given");

    let broken = world.waya_with_input(&["send", BUDI, "-"], Some(b"ab\xff"))?;
    assert_eq!(code(&broken), 4);
    assert!(stderr(&broken).starts_with("error: standard input is not valid UTF-8 (byte 2)\nhint: "));
    let long = world.waya_with_input(&["send", BUDI], Some(&vec![b'x'; 70_000]))?;
    assert_eq!(code(&long), 4, "{}", stderr(&long));
    let nothing = world.waya_with_input(&["send", BUDI], Some(b""))?;
    assert_eq!(code(&nothing), 4, "{}", stderr(&nothing));

    // A text on the command line leaves the loop's own input alone.
    let mut shell = Command::new("sh");
    shell.args(["-c", r#"while read n; do "$0" --socket "$1" send "$n" Halo; done"#]);
    shell.arg(Binary::waya()?.command().get_program()).arg(world.socket());
    let looped = world::run(shell, Some(format!("{BUDI}\n{SITI}\n").as_bytes()))?;
    assert_eq!(stdout(&looped).lines().count(), 2, "{}", stderr(&looped));
    Ok(())
}

#[tokio::test]
async fn every_outcome_has_its_exit_code() -> Result<()> {
    let world = World::start()?;
    world.until_session("connected").await?;
    let outcome = |arguments: &[&str]| -> Result<(i32, String)> {
        let output = world.waya(arguments)?;
        Ok((code(&output), stderr(&output)))
    };
    for (arguments, expected, words) in [
        (&["send", BUDI, "Halo", "dunia"][..], 2, "hint: put the text in quotes"),
        (&["send", BUDI, "Halo", "--bogus"], 2, "error: unexpected argument '--bogus'"),
        (&["send", BUDI, "Halo", "--at", "tomorrow"], 2, "error: invalid value 'tomorrow'"),
        (&["logout"], 2, "hint: give --yes"),
        (&["send", "budi", "Halo"], 4, "error: \"budi\" is not a phone number"),
        (&["send", "082146727409", "Halo"], 4, "default_country"),
        (&["send", BUDI, ""], 4, "error: there is nothing to send"),
        (&["message", "nothing-like-it"], 4, "error: there is no message"),
        (&["settings", "get", "queue.dealy"], 4, "error: there is no setting"),
        (&["settings", "set", "queue.delay", "1s"], 4, "WAYA_QUEUE_DELAY"),
        (&["events", "--after", "yesterday"], 4, "is not a cursor"),
        (&["sandbox", "inbox", "nobody"], 4, "error: "),
        (&["login"], 4, "error: an account is linked already"),
        (&["send", NOBODY, "Halo", "--wait", "sent"], 6, "is not on WhatsApp"),
        (&["send", &format!("{BUDI},{NOBODY}"), "Halo", "--wait", "delivered"], 6, "is not on WhatsApp"),
    ] {
        let (found, error) = outcome(arguments)?;
        assert_eq!(found, expected, "{arguments:?}: {error}");
        assert!(error.contains(words), "{arguments:?}: {error}");
    }
    let inbox = world.inbox(BUDI).await?;
    assert_eq!(inbox.len(), 1, "the one with a good number was delivered: {inbox:?}");

    assert_eq!(outcome(&["queue", "pause"])?.0, 0);
    let (late, error) = outcome(&["send", BUDI, "Halo", "--wait", "sent", "--timeout", "300ms"])?;
    assert_eq!((late, error.contains("held: paused")), (7, true), "{error}");
    assert_eq!(outcome(&["logout", "--yes"])?.0, 0);
    let (unlinked, error) = outcome(&["send", BUDI, "Halo", "--wait", "sent"])?;
    assert_eq!((unlinked, error.contains("`waya login`")), (5, true), "{error}");
    assert_eq!(outcome(&["send", BUDI, "Halo"])?.0, 0, "queued, whatever the link");
    assert_eq!(outcome(&["status"])?.0, 5);

    let output = Binary::waya()?.command().args(["--socket", "/nowhere/waya.sock", "status"]).output()?;
    assert_eq!(code(&output), 3);
    assert!(stderr(&output).contains("hint: start it with `waya-daemon`"), "{}", stderr(&output));
    Ok(())
}

#[tokio::test]
async fn the_queue_is_steered() -> Result<()> {
    let world = World::start()?;
    world.until_session("connected").await?;
    assert_eq!(world.waya_json(&["queue", "pause"])?["paused"], true);
    let id = world.waya_json(&["send", BUDI, "Halo"])?["id"].as_str().context("no id")?.to_owned();
    assert_eq!(world.waya_json(&["message", &id])?["hold"]["reason"], "paused");
    assert_eq!(world.waya_json(&["queue", "cancel", &id])?["status"], "cancelled");
    assert_eq!(world.waya_json(&["queue", "retry", &id])?["status"], "pending");
    assert_eq!(world.waya_json(&["queue", "resume"])?["paused"], false);
    world.until_message(&id, |message| message["ack"] == "read").await?;
    assert_eq!(code(&world.waya(&["queue", "cancel", &id])?), 4);
    Ok(())
}

#[tokio::test]
async fn a_rotated_key_replaces_the_old_one() -> Result<()> {
    let world = World::start()?;
    let key = world.waya_json(&["settings", "api-key", "rotate"])?["apiKey"].as_str().context("no key")?.to_owned();
    assert_eq!(world.api.get("/api/session").await?.0, StatusCode::UNAUTHORIZED);
    assert_eq!(world.api.with_key(Some(&key)).get("/api/session").await?.0, StatusCode::OK);
    assert_eq!(world.waya_json(&["settings", "set", "default_country", "62"])?["value"], "62");
    let answer = world.waya_json(&["send", "0812-0000-0002", "Halo"])?;
    assert_eq!(answer["messages"][0]["number"], BUDI);
    Ok(())
}

/// A command that prints one object a line for as long as it runs; killed when dropped.
struct Follow {
    child: Child,
    lines: std::io::Lines<BufReader<std::process::ChildStdout>>,
}

impl Follow {
    fn start(world: &World, arguments: &[&str]) -> Result<Self> {
        let mut command = Binary::waya()?.command();
        command.arg("--json").arg("--socket").arg(world.socket()).args(arguments);
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
        let lines = BufReader::new(child.stdout.take().context("no standard output")?).lines();
        Ok(Self { child, lines })
    }

    /// The next object that is as wanted; the test's own time limit is the runner's.
    fn until(&mut self, wanted: impl Fn(&Value) -> bool) -> Result<Value> {
        for line in self.lines.by_ref() {
            let value: Value = serde_json::from_str(&line?)?;
            if wanted(&value) {
                return Ok(value);
            }
        }
        bail!("it ended before")
    }
}

impl Drop for Follow {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[tokio::test]
async fn followers_see_what_comes_and_end_with_the_daemon() -> Result<()> {
    let mut world = World::start()?;
    world.until_session("connected").await?;
    let mut events = Follow::start(&world, &["events", "--after", "0", "--follow"])?;
    events.until(|event| event["link"]["state"] == "connected")?;
    assert_eq!(code(&world.waya(&["sandbox", "say", "Siti", "Halo"])?), 0);
    let said = events.until(|event| event["type"] == "message")?;
    assert_eq!((&said["message"]["body"], &said["message"]["from"]), (&json!("Halo"), &json!(format!("{SITI}@c.us"))));
    assert_eq!(code(&world.waya(&["send", BUDI, "Halo"])?), 0);
    events.until(|event| event["status"]["ack"] == "read")?;

    world.stop()?;
    assert!(events.until(|event| event["type"] == "nothing").is_err());
    assert_eq!(events.child.wait()?.code(), Some(3));
    assert!(!world.socket().exists());
    world.start_again()?;
    world.until_session("connected").await?;
    Ok(())
}

#[tokio::test]
async fn people_send_files_answer_and_react_from_the_shell() -> Result<()> {
    let world = World::start()?;
    world.until_session("connected").await?;
    let mut events = Follow::start(&world, &["events", "--after", "0", "--follow"])?;
    let folder = tempfile::tempdir()?;
    let picture = folder.path().join("foto.png");
    std::fs::write(&picture, b"a picture")?;
    let picture = picture.to_string_lossy();
    assert_eq!(code(&world.waya(&["sandbox", "say", "Siti", "lihat", "--media", &picture])?), 0);
    let said = events.until(|event| event["type"] == "message")?;
    assert_eq!((&said["message"]["type"], &said["message"]["body"]), (&json!("image"), &json!("lihat")));

    assert_eq!(code(&world.waya(&["send", SITI, "bagus"])?), 0);
    events.until(|event| event["status"]["ack"] == "read")?;
    let inbox: Value = serde_json::from_slice(&world.waya(&["--json", "sandbox", "inbox", "Siti"])?.stdout)?;
    let id = inbox["messages"][0]["id"].as_str().context("no id")?.to_owned();
    assert_eq!(code(&world.waya(&["sandbox", "say", "Siti", "👍", "--react", &id])?), 0);
    let reaction = events.until(|event| event["message"]["type"] == "reaction")?;
    assert_eq!(reaction["message"]["from"], format!("{SITI}@c.us"));
    assert_eq!(code(&world.waya(&["sandbox", "say", "Siti", "terima kasih", "--quoted", &id])?), 0);
    events.until(|event| event["message"]["body"] == "terima kasih")?;

    let missing = world.waya(&["sandbox", "say", "Siti", "x", "--media", "/nowhere/foto.png"])?;
    assert_eq!(code(&missing), 2);
    assert!(stderr(&missing).contains("cannot read /nowhere/foto.png"), "{}", stderr(&missing));
    Ok(())
}

#[tokio::test]
async fn faults_are_named_and_limited_from_the_shell() -> Result<()> {
    let world = World::start()?;
    let limited =
        world.waya(&["sandbox", "fault", "clock-skew", "-60", "--for", "me:1", "--times", "2", "--seconds", "60"])?;
    assert_eq!(code(&limited), 0, "{}", stderr(&limited));
    let shown = stdout(&limited);
    assert!(shown.starts_with(&format!("clock-skew -60 for {OWN_PHONE}:1, 2 times more, ")), "{shown}");
    let listed = stdout(&world.waya(&["sandbox", "fault", "list"])?);
    assert!(listed.contains("ack-delay MS") && listed.contains("messages for the target arrive twice"), "{listed}");
    let refused = world.waya(&["sandbox", "fault", "cut", "--times", "2"])?;
    assert_eq!(code(&refused), 4);
    assert!(stderr(&refused).contains("acts once"), "{}", stderr(&refused));
    Ok(())
}

#[tokio::test]
async fn a_login_shows_codes_until_the_phone_used_one() -> Result<()> {
    let world = World::start()?;
    world.until_session("connected").await?;
    assert_eq!(code(&world.waya(&["logout", "--yes"])?), 0);
    let mut login = Follow::start(&world, &["login", "--code", "+62 812-0000-0001"])?;
    let shown = login.until(|session| session["pairingCode"].is_string())?;
    let body = json!({"phone": OWN_PHONE, "code": shown["pairingCode"]});
    let (status, answer) = world.admin.post("/mock-phone/enter-code", &body).await?;
    assert!(status.is_success(), "{answer}");
    let linked = login.until(|session| session["state"] == "connected")?;
    assert_eq!(linked["me"]["number"], OWN_PHONE);
    assert_eq!(login.child.wait()?.code(), Some(0));
    Ok(())
}

#[tokio::test]
async fn a_reader_that_goes_away_is_no_error() -> Result<()> {
    let mut child = Binary::waya()?.command().args(["completions", "bash"]).stdout(Stdio::piped()).spawn()?;
    drop(child.stdout.take());
    assert_eq!(child.wait()?.code(), Some(0));
    Ok(())
}

#[tokio::test]
async fn a_page_of_the_longest_texts_is_listed_whole() -> Result<()> {
    let world = World::start()?;
    world.waya_json(&["queue", "pause"])?;
    let long = "x".repeat(65_536);
    for _ in 0..100 {
        world.accept(BUDI, &long).await?;
    }
    let page = world.waya_json(&["queue", "list", "--limit", "100"])?;
    assert_eq!(page["messages"].as_array().map(Vec::len), Some(100));
    Ok(())
}
