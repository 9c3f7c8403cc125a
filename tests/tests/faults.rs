//! What goes wrong with WhatsApp, and what becomes of a message then. One world a fault, made by the emulator.

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};
use waya_tests::{BUDI, OWN_PHONE, Options, SITI, World, until};

/// How often the emulator was handed each id by the own account.
async fn handed_over(world: &World, id: &str) -> Result<u64> {
    let (_, stats) = world.admin.get("/stats").await?;
    let sender = &stats["senders"][OWN_PHONE];
    Ok(sender["repeated_ids"][id].as_u64().unwrap_or(1))
}

#[tokio::test]
async fn an_ack_that_never_comes_is_tried_again_under_the_same_id_and_then_told() -> Result<()> {
    let options = Options::default().env("WAYA_QUEUE_ACK_TIMEOUT", "1s").env("WAYA_QUEUE_MAX_ATTEMPTS", "2");
    let world = World::with(options)?;
    world.fault("ack-lost", &[]).await?;
    let (_, answer) = world.admin.post("/fault", &json!({"kind": "no-receipts"})).await?;
    ensure!(answer["success"] != false, "{answer}");
    let id = world.accept(BUDI, "Halo").await?;
    let failed = world.until_message(&id, |message| message["status"] == "failed").await?;
    assert_eq!(failed["error"], "no answer from WhatsApp, it may have arrived");
    assert_eq!(failed["attempts"], 2);
    let whatsapp_id = failed["whatsappId"].as_str().context("no id")?.to_owned();
    assert_eq!(handed_over(&world, &whatsapp_id).await?, 2);
    let inbox = world.inbox(BUDI).await?;
    assert_eq!(inbox.len(), 1, "one row, whatever was repeated: {inbox:?}");
    Ok(())
}

#[tokio::test]
async fn a_late_receipt_turns_a_failure_into_sent() -> Result<()> {
    let options = Options::default().env("WAYA_QUEUE_ACK_TIMEOUT", "1s").env("WAYA_QUEUE_MAX_ATTEMPTS", "1");
    let world = World::with(options)?;
    world.fault("ack-lost", &[]).await?;
    let (status, answer) = world.admin.post("/offline", &json!({"who": BUDI})).await?;
    ensure!(status.is_success(), "{answer}");
    let id = world.accept(BUDI, "Halo").await?;
    world.until_message(&id, |message| message["status"] == "failed").await?;
    let (status, answer) = world.admin.post("/online", &json!({"who": BUDI})).await?;
    ensure!(status.is_success(), "{answer}");
    let message = world.until_message(&id, |message| message["ack"] == "read").await?;
    assert_eq!((&message["status"], &message["error"]), (&json!("sent"), &json!(null)));
    Ok(())
}

#[tokio::test]
async fn a_refusal_has_its_reason_and_holds_nobody_up() -> Result<()> {
    let world = World::start()?;
    world.fault("nack", &["403"]).await?;
    let refused = world.accept(BUDI, "Halo").await?;
    let failed = world.until_message(&refused, |message| message["status"] == "failed").await?;
    assert!(failed["error"].as_str().is_some_and(|error| error.contains("403")), "{failed}");
    world.no_faults().await?;
    let next = world.accept(SITI, "Halo").await?;
    world.until_message(&next, |message| message["status"] == "sent").await?;
    Ok(())
}

#[tokio::test]
async fn who_may_not_write_to_strangers_may_answer_those_who_wrote_and_goes_on_by_itself() -> Result<()> {
    let mut world = World::start()?;
    world.fault("strangers", &[]).await?;
    let stranger = world.accept(BUDI, "Halo").await?;
    let held = |message: &Value| message["hold"]["reason"] == "cold_contact" && message["hold"]["until"].is_u64();
    let waiting = world.until_message(&stranger, held).await?;
    assert_eq!((&waiting["status"], &waiting["attempts"]), (&json!("pending"), &json!(0)));
    assert!(waiting["error"].as_str().is_some_and(|error| error.contains("463")), "{waiting}");
    let (status, answer) = world.admin.post("/say", &json!({"from": SITI, "text": "Apa kabar?"})).await?;
    ensure!(status.is_success(), "{answer}");
    until("Siti's message is in the journal", || async {
        let (_, events) = world.api.get("/api/events?after=0").await?;
        ensure!(events.to_string().contains("Apa kabar?"), "{events}");
        Ok(())
    })
    .await?;
    let warm = world.accept(SITI, "Baik").await?;
    world.until_message(&warm, |message| message["status"] == "sent").await?;
    // Neither a restart nor another stranger changes that.
    world.restart()?;
    world.fault("strangers", &[]).await?;
    let (_, people) = world.admin.get("/people").await?;
    let third = people["people"][2]["number"].as_str().context("no third person")?.to_owned();
    let another = world.accept(&third, "Halo juga").await?;
    for id in [&stranger, &another] {
        world.until_message(id, held).await?;
    }
    let dry = json!({"recipients": [SITI, third], "message": "x", "dry_run": true});
    let (_, dry) = world.api.post("/api/send-message", &dry).await?;
    assert_eq!((&dry["fits"]["today"], &dry["fits"]["held"]["cold_contact"]), (&json!(1), &json!(1)), "{dry}");
    // WhatsApp said for an hour; then one is tried, and all of them go.
    world.no_faults().await?;
    world.waya_json(&["sandbox", "clock", "advance", "2h"])?;
    for id in [&stranger, &another] {
        let sent = world.until_message(id, |message| message["status"] == "sent").await?;
        assert_eq!(sent["attempts"], 1, "{sent}");
    }
    for who in [BUDI, SITI, &third] {
        let rows = world.inbox(who).await?;
        assert!(rows.len() == 1 && rows[0]["copies"] == 1, "{who}: {rows:?}");
    }
    Ok(())
}

#[tokio::test]
async fn a_cut_in_the_middle_of_a_send_resends_under_the_same_id() -> Result<()> {
    let world = World::start()?;
    let first = world.accept(BUDI, "first").await?;
    world.until_message(&first, |message| message["status"] == "sent").await?;
    world.fault("ack-delay", &["60000"]).await?;
    // A receipt tells as well as an ack that the server took it.
    world.fault("no-receipts", &[]).await?;
    let id = world.accept(BUDI, "second").await?;
    world.until_message(&id, |message| message["status"] == "sending").await?;
    until("the emulator has it", || async {
        let (_, stats) = world.admin.get("/stats").await?;
        ensure!(stats["senders"][OWN_PHONE]["in_flight"] == 1, "{stats}");
        Ok(())
    })
    .await?;
    world.no_faults().await?;
    world.fault("cut", &[]).await?;
    let message = world.until_message(&id, |message| message["status"] == "sent").await?;
    let inbox = world.inbox(BUDI).await?;
    assert_eq!(inbox.iter().filter(|row| row["text"] == "second").count(), 1, "{inbox:?}");
    assert_eq!(inbox[1]["id"], message["whatsappId"]);
    world.until_session("connected").await?;
    Ok(())
}

#[tokio::test]
async fn offline_says_why_and_until_when_and_still_accepts() -> Result<()> {
    let mut world = World::start()?;
    world.fault("refuse", &[]).await?;
    world.fault("cut", &[]).await?;
    let session = world.until_session("offline").await?;
    assert!(session["reason"].as_str().is_some_and(|reason| !reason.is_empty()), "{session}");
    assert!(session["retryAt"].is_u64(), "{session}");
    let id = world.accept(BUDI, "Halo").await?;
    let waiting = world.until_message(&id, |message| message["hold"].is_object()).await?;
    assert_eq!((&waiting["status"], &waiting["attempts"]), (&json!("pending"), &json!(0)));
    assert_eq!(waiting["hold"]["reason"], "offline");
    assert_eq!(world.waya(&["status"])?.status.code(), Some(5));
    world.no_faults().await?;
    world.until_message(&id, |message| message["ack"] == "read").await?;
    world.stop()?;
    Ok(())
}

#[tokio::test]
async fn replaced_by_another_client_never_fights_back() -> Result<()> {
    let mut world = World::start()?;
    world.fault("replaced", &[]).await?;
    world.until_session("replaced").await?;
    let id = world.accept(BUDI, "Halo").await?;
    world.until_message(&id, |message| message["hold"]["reason"] == "offline").await?;
    let (_, session) = world.api.get("/api/session").await?;
    assert_eq!((&session["state"], &session["retryAt"]), (&json!("replaced"), &json!(null)));
    // Not by a restart either, however it comes.
    world.running.take().context("it does not run")?.kill()?;
    world.start_again()?;
    assert_eq!(world.api.get("/api/session").await?.1, session);
    world.restart()?;
    assert_eq!(world.api.get("/api/session").await?.1, session);
    assert_eq!(world.message(&id).await?["hold"]["reason"], "offline");
    // `waya login` takes it back.
    let login = world.waya(&["login"])?;
    assert!(login.status.success(), "{}", String::from_utf8_lossy(&login.stderr));
    world.until_message(&id, |message| message["ack"] == "read").await?;
    Ok(())
}

#[tokio::test]
async fn logged_out_from_the_phone_keeps_the_queue() -> Result<()> {
    let mut world = World::start()?;
    world.fault("logged-out", &[]).await?;
    let session = world.until_session("logged_out").await?;
    assert!(session["reason"].as_str().is_some_and(|reason| !reason.is_empty()), "{session}");
    let id = world.accept(BUDI, "Halo").await?;
    let message = world.until_message(&id, |message| message["hold"]["reason"] == "offline").await?;
    assert_eq!((&message["status"], &message["attempts"]), (&json!("pending"), &json!(0)));
    assert_eq!(world.waya(&["send", BUDI, "x", "--wait", "sent", "--timeout", "1s"])?.status.code(), Some(5));
    world.restart()?;
    assert_eq!(world.api.get("/api/session").await?.1, session);
    let login = world.waya(&["login"])?;
    assert!(login.status.success(), "{}", String::from_utf8_lossy(&login.stderr));
    world.until_message(&id, |message| message["ack"] == "read").await?;
    Ok(())
}

#[tokio::test]
async fn a_message_that_cannot_be_read_is_sent_again_and_read_once() -> Result<()> {
    let world = World::start()?;
    // The key is asked for where there is no session yet.
    for (kind, who) in [("garble", BUDI), ("stale-prekeys", SITI)] {
        let fault = json!({"kind": kind, "target": who, "times": 1});
        let (status, answer) = world.admin.post("/fault", &fault).await?;
        ensure!(status.is_success() && answer["faults"][0]["times_left"] == 1, "{answer}");
        let id = world.accept(who, kind).await?;
        let read = world.until_message(&id, |message| message["ack"] == "read").await?;
        assert_eq!((&read["status"], &read["attempts"]), (&json!("sent"), &json!(1)), "{kind}");
        let (_, left) = world.admin.get("/faults").await?;
        assert_eq!(left["faults"], json!([]), "{kind} did not strike");
        let rows = world.inbox(who).await?;
        let heard: Vec<_> = rows.iter().map(|row| (&row["text"], &row["copies"])).collect();
        assert_eq!(heard, [(&json!(kind), &json!(1))]);
    }
    Ok(())
}

#[tokio::test]
async fn whatsapp_starting_anew_in_the_middle_loses_and_doubles_nothing() -> Result<()> {
    let world = World::start()?;
    world.fault("ack-delay", &["60000"]).await?;
    world.fault("no-receipts", &[]).await?;
    let mut ids = Vec::new();
    for number in 0..5 {
        ids.push(world.accept(if number % 2 == 0 { BUDI } else { SITI }, &number.to_string()).await?);
    }
    world.until_message(&ids[0], |message| message["status"] == "sending").await?;
    let (status, answer) = world.admin.post("/fault", &json!({"kind": "restart"})).await?;
    ensure!(status.is_success(), "{answer}");
    world.no_faults().await?;
    for id in &ids {
        world.until_message(id, |message| message["ack"] == "read").await?;
    }
    for (who, texts) in [(BUDI, vec!["0", "2", "4"]), (SITI, vec!["1", "3"])] {
        let rows = world.inbox(who).await?;
        let heard: Vec<_> = rows.iter().filter_map(|row| row["text"].as_str()).collect();
        assert_eq!(heard, texts);
    }
    Ok(())
}

/// Switches a fault on for somebody, once.
async fn once(world: &World, kind: &str, args: &[&str], target: &str) -> Result<()> {
    let fault = json!({"kind": kind, "args": args, "target": target, "times": 1});
    let (status, answer) = world.admin.post("/fault", &fault).await?;
    ensure!(status.is_success(), "{answer}");
    Ok(())
}

/// What somebody has of these words: ids and copies.
async fn rows(world: &World, who: &str, text: &str) -> Result<Vec<(String, u64)>> {
    let rows = world.inbox(who).await?.into_iter().filter(|row| row["text"] == text);
    rows.map(|row| Some((row["id"].as_str()?.to_owned(), row["copies"].as_u64()?)))
        .collect::<Option<_>>()
        .context("rows")
}

#[tokio::test]
async fn a_refusal_that_passes_is_told_and_tried_again_under_the_same_id() -> Result<()> {
    let world = World::start()?;
    for (code, who, words) in [("479", BUDI, "devices changed"), ("503", SITI, "had trouble (503)")] {
        once(&world, "nack", &[code], OWN_PHONE).await?;
        let id = world.accept(who, code).await?;
        let waiting = world.until_message(&id, |message| message["hold"]["reason"] == "backoff").await?;
        assert_eq!((&waiting["status"], &waiting["attempts"]), (&json!("pending"), &json!(1)), "{code}");
        assert!(waiting["error"].as_str().is_some_and(|error| error.contains(words)), "{waiting}");
        let whatsapp_id = waiting["whatsappId"].as_str().context("no id")?.to_owned();
        let read = world.until_message(&id, |message| message["ack"] == "read").await?;
        assert_eq!((&read["status"], &read["error"], &read["attempts"]), (&json!("sent"), &json!(null), &json!(2)));
        assert_eq!(read["whatsappId"], json!(whatsapp_id));
        assert_eq!(rows(&world, who, code).await?, [(whatsapp_id.clone(), 1)]);
        assert_eq!(handed_over(&world, &whatsapp_id).await?, 1, "a refused message goes nowhere");
    }
    Ok(())
}

#[tokio::test]
async fn whatever_a_login_is_refused_for_what_is_accepted_waits_and_leaves_once() -> Result<()> {
    let world = World::start()?;
    for (code, state) in [("503", "offline"), ("405", "outdated"), ("403", "locked"), ("402", "banned")] {
        world.fault("refuse-logins", &[code]).await?;
        world.fault("cut", &[]).await?;
        world.until_session(state).await?;
        let id = world.accept(BUDI, code).await?;
        let waiting = world.until_message(&id, |message| message["hold"].is_object()).await?;
        assert_eq!((&waiting["status"], &waiting["attempts"]), (&json!("pending"), &json!(0)), "{code}");
        assert_eq!(waiting["hold"]["reason"], "offline", "{code}");
        world.no_faults().await?;
        // Some of these states end by the user's word only.
        let login = world.waya(&["login"])?;
        ensure!(login.status.success(), "{code}: {}", String::from_utf8_lossy(&login.stderr));
        let read = world.until_message(&id, |message| message["ack"] == "read").await?;
        assert_eq!((&read["status"], &read["attempts"]), (&json!("sent"), &json!(1)), "{code}");
        assert_eq!(rows(&world, BUDI, code).await?.iter().map(|row| row.1).collect::<Vec<_>>(), [1], "{code}");
    }
    Ok(())
}

#[tokio::test]
async fn a_connection_that_the_server_ends_in_the_middle_of_a_send_leaves_one_copy() -> Result<()> {
    let world = World::start()?;
    for (code, text) in [("503", "first"), ("515", "second")] {
        world.fault("ack-delay", &["60000"]).await?;
        world.fault("no-receipts", &[]).await?;
        let id = world.accept(BUDI, text).await?;
        until("the emulator has it", || async {
            let (_, stats) = world.admin.get("/stats").await?;
            ensure!(stats["senders"][OWN_PHONE]["in_flight"] == 1, "{stats}");
            Ok(())
        })
        .await?;
        world.no_faults().await?;
        world.fault("stream-error", &[code]).await?;
        let message = world.until_message(&id, |message| message["status"] == "sent").await?;
        let rows = rows(&world, BUDI, text).await?;
        assert_eq!(rows.len(), 1, "{code}: {rows:?}");
        assert_eq!(json!(rows[0].0), message["whatsappId"]);
        world.until_session("connected").await?;
    }
    Ok(())
}

#[tokio::test]
async fn what_happens_on_the_way_to_the_recipient_is_one_message_read_in_the_end() -> Result<()> {
    let world = World::start()?;
    for (kind, args) in
        [("double", &[][..]), ("reorder", &[]), ("slow", &["300"]), ("clock-skew", &["-86400"]), ("drop", &[])]
    {
        once(&world, kind, args, BUDI).await?;
        let id = world.accept(BUDI, kind).await?;
        let sent = world.until_message(&id, |message| message["status"] == "sent").await?;
        if kind == "drop" {
            until("it was dropped", || async {
                let (_, left) = world.admin.get("/faults").await?;
                ensure!(left["faults"] == json!([]), "{left}");
                Ok(())
            })
            .await?;
            // It comes with the recipient's next connection.
            let (status, answer) = world.admin.post("/fault", &json!({"kind": "cut", "target": BUDI})).await?;
            ensure!(status.is_success(), "{answer}");
        }
        let read = world.until_message(&id, |message| message["ack"] == "read").await?;
        assert_eq!((&read["status"], &read["attempts"], &read["error"]), (&json!("sent"), &json!(1), &json!(null)));
        let rows = rows(&world, BUDI, kind).await?;
        assert_eq!(rows.len(), 1, "{kind}: {rows:?}");
        assert_eq!((json!(rows[0].0), rows[0].1), (sent["whatsappId"].clone(), 1), "{kind}");
        world.no_faults().await?;
    }
    Ok(())
}

#[tokio::test]
async fn a_session_that_the_server_ended_keeps_its_queue() -> Result<()> {
    let mut world = World::start()?;
    world.fault("stream-error", &["516"]).await?;
    world.until_session("logged_out").await?;
    let id = world.accept(BUDI, "Halo").await?;
    let message = world.until_message(&id, |message| message["hold"]["reason"] == "offline").await?;
    assert_eq!((&message["status"], &message["attempts"]), (&json!("pending"), &json!(0)));
    world.restart()?;
    let login = world.waya(&["login"])?;
    ensure!(login.status.success(), "{}", String::from_utf8_lossy(&login.stderr));
    world.until_message(&id, |message| message["ack"] == "read").await?;
    Ok(())
}
