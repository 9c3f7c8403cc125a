//! Webhooks of the real daemon: what happens is told, signed and in order, and a kill loses none of it.

use std::collections::HashMap;
use std::path::Path;

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};
use waya_tests::receiver::{Manner, Receiver, SECRET};
use waya_tests::{BUDI, OWN_PHONE, Options, SITI, World, until};

fn add(world: &World, receiver: &Receiver, events: &[&str]) -> Result<String> {
    let url = receiver.url();
    let mut arguments = vec!["webhooks", "add", url.as_str(), "--secret", SECRET];
    for event in events {
        arguments.extend(["--event", event]);
    }
    let added = world.waya_json(&arguments)?;
    ensure!(added["secret"] == SECRET, "{added}");
    Ok(added["id"].as_str().context("no id")?.to_owned())
}

/// The events of one message, in the order in which they came.
fn events_of(bodies: &[Value], id: &str) -> Vec<String> {
    let of = bodies.iter().filter(|body| body["payload"]["id"] == id);
    of.map(|body| body["event"].as_str().unwrap_or_default().to_owned()).collect()
}

// `waya webhooks test` blocks this thread while the receiver answers.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_happens_is_told_in_order() -> Result<()> {
    let world = World::start()?;
    world.until_session("connected").await?;
    let receiver = Receiver::start().await?;
    let webhook = add(&world, &receiver, &[])?;
    let id = world.accept(BUDI, "Halo 👋").await?;
    let (status, answer) = world.admin.post("/say", &json!({"from": SITI, "text": "Halo juga"})).await?;
    ensure!(status.is_success(), "{answer}");
    world.until_message(&id, |message| message["ack"] == "read").await?;
    let all = ["message.sent", "message.delivered", "message.read"];
    until("all of it is told", || async {
        let told = receiver.told();
        ensure!(events_of(&told, &id) == all, "{told:?}");
        ensure!(told.iter().any(|body| body["event"] == "message.incoming"), "{told:?}");
        Ok(())
    })
    .await?;
    let told = receiver.told();
    let message = world.message(&id).await?;
    let read = told.iter().find(|body| body["event"] == "message.read").context("no message.read")?;
    assert_eq!(read["payload"], message, "the payload is what message-status shows");
    assert_eq!((&read["session"], &read["me"]["number"]), (&json!("default"), &json!(OWN_PHONE)));
    let sent = told.iter().find(|body| body["event"] == "message.sent").context("no message.sent")?;
    assert_eq!((&sent["payload"]["ack"], &sent["payload"]["readAt"]), (&json!("server"), &Value::Null));
    let came = told.iter().find(|body| body["event"] == "message.incoming").context("no message.incoming")?;
    let (_, page) = world.api.get("/api/events?limit=1000").await?;
    let events = page["events"].as_array().context("no events")?;
    let same = events.iter().find(|event| event["type"] == "message").context("no message in the journal")?;
    assert_eq!(came["payload"], same["message"], "the payload is what the journal shows");

    world.fault("cut", &[]).await?;
    until("the cut is told, and its end", || async {
        let states: Vec<Value> = receiver
            .told()
            .iter()
            .filter(|body| body["event"] == "session.state")
            .map(|body| body["payload"]["state"].clone())
            .collect();
        ensure!(states.last() == Some(&json!("connected")), "{states:?}");
        Ok(())
    })
    .await?;
    let logs = world.waya_json(&["webhooks", "logs", &webhook])?;
    assert!(logs["deliveries"].as_array().is_some_and(|rows| rows.iter().all(|row| row["status"] == 200)), "{logs}");
    let tested = world.waya_json(&["webhooks", "test", &webhook])?;
    assert_eq!(
        (&tested["status"], &tested["event"], &tested["error"]),
        (&json!(200), &json!("webhook.test"), &Value::Null)
    );
    let list = world.waya(&["webhooks", "list"])?;
    assert!(!String::from_utf8_lossy(&list.stdout).contains(SECRET) && !world.log()?.contains(SECRET));
    assert_eq!(world.waya(&["webhooks", "remove", &webhook])?.status.code(), Some(0));
    assert_eq!(world.waya(&["webhooks", "show", &webhook])?.status.code(), Some(4));
    Ok(())
}

/// Nobody has this number, so that what goes there fails.
const NOBODY: &str = "6281299999999";

async fn failed(world: &World) -> Result<String> {
    let id = world.accept(NOBODY, "Halo").await?;
    world.until_message(&id, |message| message["status"] == "failed").await?;
    Ok(id)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_that_is_changed_and_rests_tells_on_and_what_was_parked_is_told_again() -> Result<()> {
    let world = World::start()?;
    world.until_session("connected").await?;
    let receiver = Receiver::start().await?;
    let webhook = add(&world, &receiver, &["message.sent"])?;
    let edited = world.waya_json(&["webhooks", "edit", &webhook, "--event", "message.failed"])?;
    assert_eq!((&edited["events"], &edited["url"]), (&json!(["message.failed"]), &json!(receiver.url())));
    let first = failed(&world).await?;
    until("the failure is told", || async {
        let told = receiver.told();
        ensure!(events_of(&told, &first) == ["message.failed"], "{told:?}");
        Ok(())
    })
    .await?;
    let told = receiver.told();
    assert_eq!(told[0]["payload"], world.message(&first).await?, "with its reason");

    let resting = world.waya_json(&["webhooks", "disable", &webhook])?;
    assert_eq!(resting["enabled"], false);
    let second = failed(&world).await?;
    receiver.behave(Manner::Refuses);
    assert_eq!(world.waya_json(&["webhooks", "enable", &webhook])?["enabled"], true);
    until("it was tried", || async {
        let refused = receiver.refused();
        ensure!(events_of(&refused, &second).first().is_some_and(|event| event == "message.failed"), "{refused:?}");
        Ok(())
    })
    .await?;
    world.waya_json(&["sandbox", "clock", "advance", "25h"])?;
    let parked = until("it is parked", || async {
        let parked = world.waya_json(&["webhooks", "parked", &webhook])?;
        ensure!(parked["events"].as_array().is_some_and(|events| events.len() == 1), "{parked}");
        Ok(parked["events"][0].clone())
    })
    .await?;
    assert_eq!(parked["event"], "message.failed");
    assert!(parked["reason"].as_str().is_some_and(|reason| !reason.is_empty()), "{parked}");
    assert_eq!(world.waya_json(&["webhooks", "show", &webhook])?["parked"], 1);
    receiver.behave(Manner::Takes);
    let event = parked["eventId"].as_str().context("no id")?;
    assert_eq!(world.waya_json(&["webhooks", "redeliver", &webhook, event])?["count"], 1);
    until("it is told after all", || async {
        let told = receiver.told();
        let again = told.iter().find(|body| body["payload"]["id"] == second.as_str()).context("not told")?;
        ensure!(again["id"] == parked["eventId"], "under another id: {again}");
        Ok(())
    })
    .await?;
    assert_eq!(world.waya_json(&["webhooks", "parked", &webhook])?["events"], json!([]));
    assert_eq!(world.waya_json(&["webhooks", "redeliver", &webhook, "--all"])?["count"], 0);
    assert_eq!(world.waya(&["webhooks", "redeliver", &webhook, event])?.status.code(), Some(4));
    let moved = world.waya(&["webhooks", "move", &webhook, "1"])?;
    assert_eq!(moved.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&moved.stderr).contains("webhooks have no order"), "it says why");
    Ok(())
}

#[tokio::test]
async fn a_kill_loses_nothing_and_keeps_the_ids() -> Result<()> {
    let mut world = World::start()?;
    world.until_session("connected").await?;
    let receiver = Receiver::start().await?;
    add(&world, &receiver, &["message.sent,message.delivered,message.read", "message.incoming"])?;
    receiver.behave(Manner::Refuses);
    let mut ids = Vec::new();
    for n in 0..10 {
        let id = world.accept(BUDI, &format!("text {n}")).await?;
        let (status, answer) = world.admin.post("/say", &json!({"from": SITI, "text": format!("answer {n}")})).await?;
        ensure!(status.is_success(), "{answer}");
        world.until_message(&id, |message| message["status"] == "sent").await?;
        ids.push(id);
        if n % 4 == 3 {
            world.running.take().context("it does not run")?.kill()?;
            world.start_again()?;
            world.until_session("connected").await?;
        }
    }
    for id in &ids {
        world.until_message(id, |message| message["ack"] != "none").await?;
    }
    receiver.behave(Manner::Takes);
    until("all of it is told", || async {
        let told = receiver.told();
        for id in &ids {
            let message = world.message(id).await?;
            let mut wanted = vec!["message.sent"];
            wanted.extend((message["ack"] != "server").then_some("message.delivered"));
            wanted.extend((message["ack"] == "read").then_some("message.read"));
            // A kill may make the last mark be written anew, never the order be another one.
            let mut of = events_of(&told, id);
            of.dedup();
            ensure!(of == wanted, "{message}: {of:?}");
        }
        for n in 0..10 {
            let text = json!(format!("answer {n}"));
            ensure!(told.iter().any(|body| body["payload"]["body"] == text), "answer {n} is not told");
        }
        Ok(())
    })
    .await?;
    // An event has one id, whether it was taken or not.
    let mut ids: HashMap<String, String> = HashMap::new();
    for body in receiver.told().iter().chain(&receiver.refused()) {
        let what = format!("{} {}", body["event"], body["payload"]["id"]);
        let id = body["id"].to_string();
        ensure!(*ids.entry(what.clone()).or_insert_with(|| id.clone()) == id, "{what} has two ids");
    }
    Ok(())
}

/// What `alerts.command` was told: event and condition.
fn alerts(file: &Path) -> Result<Vec<String>> {
    let text = std::fs::read_to_string(file).unwrap_or_default();
    let told = text.lines().map(serde_json::from_str).collect::<Result<Vec<Value>, _>>()?;
    Ok(told.iter().map(|alert| format!("{} {}", alert["event"], alert["payload"]["condition"])).collect())
}

async fn until_alerts(file: &Path, expected: &[&str]) -> Result<()> {
    until("it is told", || async {
        let told = alerts(file)?;
        ensure!(told == expected, "{told:?}");
        Ok(())
    })
    .await
}

/// A world whose alerts go to this file.
fn alerted(file: &Path) -> Result<World> {
    let command = format!("cat >> {0}; echo >> {0}", file.display());
    World::with(Options::default().env("WAYA_ALERTS_COMMAND", &command))
}

#[tokio::test]
async fn the_owner_is_alerted_once_when_the_account_is_logged_out() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let file = folder.path().join("alerts");
    let mut world = alerted(&file)?;
    world.until_session("connected").await?;
    world.fault("logged-out", &[]).await?;
    let began = r#""alert.began" "logged_out""#;
    until_alerts(&file, &[began]).await?;
    world.restart()?;
    assert_eq!(alerts(&file)?, [began], "a restart tells nothing again");
    Ok(())
}

#[tokio::test]
async fn the_owner_is_alerted_when_nothing_is_heard_of_the_phone_and_when_it_is_back() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let file = folder.path().join("alerts");
    let world = alerted(&file)?;
    world.until_session("connected").await?;
    world.waya_json(&["sandbox", "phone", "online"])?;
    let first = world.waya_json(&["send", BUDI, "is the phone there?", "--wait", "delivered"])?;
    assert_eq!(first["status"], "sent");
    world.waya_json(&["sandbox", "phone", "offline"])?;
    world.waya_json(&["sandbox", "clock", "advance", "9d"])?;
    world.until_session("connected").await?;
    world.waya_json(&["send", BUDI, "and now?", "--wait", "delivered"])?;
    assert_eq!(alerts(&file)?, [] as [&str; 0], "it has five days left");

    world.waya_json(&["sandbox", "clock", "advance", "1d"])?;
    let began = r#""alert.began" "phone_unseen""#;
    until_alerts(&file, &[began]).await?;
    world.waya_json(&["sandbox", "phone", "online"])?;
    world.waya_json(&["send", BUDI, "it is back", "--wait", "delivered"])?;
    world.waya_json(&["sandbox", "clock", "advance", "2m"])?;
    until_alerts(&file, &[began, r#""alert.ended" "phone_unseen""#]).await?;
    Ok(())
}
