//! Limits, and people who want no more messages, as users see them.

use anyhow::{Context as _, Result, ensure};
use serde_json::json;
use waya_tests::{BUDI, Options, SITI, World, until};

#[tokio::test]
async fn a_word_to_stop_stops_what_we_start_and_another_one_takes_it_back() -> Result<()> {
    let mut world = World::with(Options::default().env("WAYA_AUTOMATION_OPT_OUT_WORDS", "STOP,BERHENTI"))?;
    let waiting = world.waya_json(&["send", BUDI, "nanti", "--at", "2099-01-01T00:00:00Z"])?;
    let waiting = waiting["id"].as_str().context("no id")?.to_owned();
    let (status, answer) = world.admin.post("/say", &json!({"from": BUDI, "text": " berhenti "})).await?;
    ensure!(status.is_success(), "{answer}");
    let failed = world.until_message(&waiting, |message| message["status"] == "failed").await?;
    assert!(failed["error"].as_str().is_some_and(|error| error.starts_with("recipient_opted_out")), "{failed}");
    world.restart()?;
    let (status, refused) = world.api.post("/api/send-message", &json!({"number": BUDI, "message": "x"})).await?;
    assert_eq!((status.as_u16(), &refused["code"]), (403, &json!("recipient_opted_out")), "{refused}");
    let both = json!({"recipients": [SITI, BUDI], "message": "x"});
    let (status, refused) = world.api.post("/api/send-message", &both).await?;
    assert_eq!((status.as_u16(), &refused["field"]), (403, &json!("recipients[1]")), "all or nothing");
    assert_eq!(world.waya(&["send", BUDI, "x"])?.status.code(), Some(4));
    let list = world.waya_json(&["opt-outs", "list"])?;
    assert_eq!((&list["optOuts"][0]["number"], &list["optOuts"][0]["by"]), (&json!(BUDI), &json!("person")));

    let (status, answer) = world.admin.post("/say", &json!({"from": BUDI, "text": "Mulai"})).await?;
    ensure!(status.is_success(), "{answer}");
    until("Budi is off the list", || async {
        let list = world.waya_json(&["opt-outs", "list"])?;
        ensure!(list["optOuts"] == json!([]), "{list}");
        Ok(())
    })
    .await?;
    let id = world.accept(BUDI, "Halo lagi").await?;
    world.until_message(&id, |message| message["status"] == "sent").await?;
    assert!(world.inbox(SITI).await?.is_empty());

    // By hand, too.
    assert!(world.waya(&["opt-outs", "add", SITI])?.status.success());
    assert_eq!(world.waya(&["send", SITI, "x"])?.status.code(), Some(4));
    assert!(world.waya(&["opt-outs", "remove", SITI])?.status.success());
    assert_eq!(world.waya(&["opt-outs", "remove", SITI])?.status.code(), Some(4));
    Ok(())
}

#[tokio::test]
async fn a_blast_over_the_cap_says_so_waits_for_midnight_and_can_be_cleared() -> Result<()> {
    let mut world = World::with(Options::default().env("WAYA_QUEUE_DAILY_CAP", "2").env("WAYA_TIMEZONE", "UTC"))?;
    let each: Vec<_> = (0..4).map(|n| json!({"number": BUDI, "message": n.to_string()})).collect();
    let (status, dry) = world.api.post("/api/send-message", &json!({"messages": each, "dry_run": true})).await?;
    assert_eq!(status.as_u16(), 200);
    assert_eq!((&dry["fits"]["today"], &dry["fits"]["later"]), (&json!(2), &json!(2)), "{dry}");
    let (_, accepted) = world.api.post("/api/send-message", &json!({"messages": each})).await?;
    let id = |n: usize| accepted["messages"][n]["id"].as_str().unwrap_or_default().to_owned();
    for n in 0..2 {
        world.until_message(&id(n), |message| message["status"] == "sent").await?;
    }
    world.restart()?;
    let held = world.until_message(&id(2), |message| message["hold"]["reason"] == "cap").await?;
    assert_eq!(held["estimatedAt"], held["hold"]["until"], "{held}");
    assert_eq!((&held["position"], held["hold"]["until"].as_u64().map(|at| at % 86_400_000)), (&json!(1), Some(0)));
    world.waya_json(&["sandbox", "clock", "advance", "24h"])?;
    world.until_message(&id(3), |message| message["status"] == "sent").await?;
    let late = world.accept(SITI, "terlambat").await?;
    world.until_message(&late, |message| message["hold"]["reason"] == "cap").await?;
    assert_eq!(world.waya(&["queue", "clear", "--status", "pending"])?.status.code(), Some(2), "nobody can be asked");
    assert_eq!(world.waya_json(&["queue", "clear", "--status", "pending", "--yes"])?["cleared"], 1);
    assert_eq!(world.message(&late).await?["status"], "cancelled");
    // What is finished goes for good.
    assert_eq!(world.waya_json(&["queue", "clear", "--status", "cancelled", "--yes"])?["cleared"], 1);
    assert_eq!(world.message(&late).await?["code"], "not_found");
    assert_eq!(world.waya(&["queue", "clear", "--status", "sending", "--yes"])?.status.code(), Some(2));
    Ok(())
}

/// WhatsApp's id of what Budi wrote, once it is in the journal.
async fn written(world: &World, text: &str) -> Result<String> {
    let (status, answer) = world.admin.post("/say", &json!({"from": BUDI, "text": text})).await?;
    ensure!(status.is_success(), "{answer}");
    until("it is in the journal", || async {
        let (_, page) = world.api.get("/api/events?limit=1000").await?;
        let events = page["events"].as_array().context("no events")?;
        let found = events.iter().find(|event| event["message"]["body"] == text);
        Ok(found.and_then(|event| event["message"]["id"].as_str()).context("not there")?.to_owned())
    })
    .await
}

#[tokio::test]
async fn whoever_wants_no_messages_is_answered_when_they_write_again() -> Result<()> {
    let options = Options::default().env("WAYA_AUTOMATION_OPT_OUT_WORDS", "STOP").env("WAYA_QUEUE_DAILY_CAP", "1");
    let world = World::with(options.env("WAYA_TIMEZONE", "UTC"))?;
    let promo = world.accept(BUDI, "Promo").await?;
    world.until_message(&promo, |message| message["status"] == "sent").await?;
    let before = written(&world, "Harga?").await?;
    let stop = written(&world, "STOP").await?;
    until("Budi is on the list", || async {
        let list = world.waya_json(&["opt-outs", "list"])?;
        ensure!(list["optOuts"][0]["number"] == BUDI, "{list}");
        Ok(())
    })
    .await?;
    // WhatsApp tells whole seconds.
    world.waya_json(&["sandbox", "clock", "advance", "2s"])?;
    let later = written(&world, "Jam buka?").await?;
    for id in [&before, &stop, &promo] {
        let body = json!({"number": BUDI, "message": "jam 8", "quoted": id});
        let (status, refused) = world.api.post("/api/send-message", &body).await?;
        assert_eq!((status.as_u16(), &refused["code"]), (403, &json!("recipient_opted_out")), "{refused}");
    }
    assert_eq!(world.waya(&["react", &before, "👍"])?.status.code(), Some(4));
    assert_eq!(world.waya(&["edit", &promo, "Promo!"])?.status.code(), Some(4));
    // The day's share is used up; answers leave all the same.
    let answer = world.waya_json(&["send", BUDI, "jam 8", "--quote", &later, "--priority", "low"])?;
    let id = answer["id"].as_str().context("no id")?.to_owned();
    world.until_message(&id, |message| message["ack"] == "read").await?;
    for deed in [["react", &later, "👍"].as_slice(), &["edit", &id, "jam 9"], &["react", &before], &["revoke", &promo]]
    {
        let queued = world.waya_json(deed)?;
        let id = queued["id"].as_str().context("no id")?.to_owned();
        world.until_message(&id, |message| message["status"] == "sent").await?;
    }
    let inbox = world.inbox(BUDI).await?;
    assert!(inbox.iter().any(|message| message["text"] == "jam 8" && message["quoted"] == later.as_str()), "{inbox:?}");
    assert!(inbox.iter().any(|message| message["text"] == "jam 9"), "{inbox:?}");
    Ok(())
}
