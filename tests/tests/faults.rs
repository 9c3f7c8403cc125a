//! What goes wrong with WhatsApp, and what becomes of a message then. One world a fault, made by the emulator.

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};
use waya_tests::{BUDI, OWN_PHONE, Options, SITI, World, until};

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
    assert_eq!(world.handed_over(&whatsapp_id).await?, 2);
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
    world.plays("/autoread", json!({"who": BUDI, "on": false})).await?;
    for fault in ["cut", "cut-mid-frame"] {
        // Connected: the journal ends with that once it does.
        let before = until("the link's states are in the journal", || async {
            let states = world.link_states().await?;
            ensure!(states.last().is_some_and(|state| state == "connected"), "{states:?}");
            Ok(states.len())
        })
        .await?;
        let id = world.under_way(BUDI, fault).await?;
        assert_eq!(world.message(&id).await?["status"], "sending");
        world.no_faults().await?;
        world.fault(fault, &[]).await?;
        let message = world.until_message(&id, |message| message["ack"] == "device").await?;
        // What happened to the link is not the message's fault.
        assert_eq!(
            (&message["status"], &message["attempts"], &message["error"]),
            (&json!("sent"), &json!(1), &json!(null))
        );
        let rows = world.rows(BUDI, fault).await?;
        assert_eq!(rows.iter().map(|row| json!(row.0)).collect::<Vec<_>>(), [message["whatsappId"].clone()]);
        until("the link went and came back", || async {
            let states = world.link_states().await?;
            ensure!(states[before..] == ["offline", "connecting", "connected"], "{fault}: {states:?}");
            Ok(())
        })
        .await?;
    }
    Ok(())
}

/// The server is slow, not gone: the message leaves once more, and is on its way when the ack of the first time comes.
#[tokio::test]
async fn an_ack_that_comes_behind_the_retry_makes_one_message_of_both() -> Result<()> {
    let world = World::start()?;
    world.waya_json(&["settings", "set", "queue.ack_timeout", "1s"])?;
    world.fault("no-receipts", &[]).await?;
    world.fault_once("ack-delay", &["15000"], OWN_PHONE).await?;
    let id = world.accept(BUDI, "Halo").await?;
    let waiting = world.until_message(&id, |message| message["hold"]["reason"] == "backoff").await?;
    assert_eq!((&waiting["status"], &waiting["attempts"]), (&json!("pending"), &json!(1)));
    let whatsapp_id = waiting["whatsappId"].as_str().context("no id")?.to_owned();
    // The second time has no ack of its own, and waits longer for one.
    world.fault("ack-lost", &[]).await?;
    world.waya_json(&["settings", "set", "queue.ack_timeout", "5m"])?;
    world.waya_json(&["sandbox", "clock", "advance", "1m"])?;
    until("it was handed over again", || async {
        ensure!(world.handed_over(&whatsapp_id).await? == 2, "once only: {}", world.message(&id).await?);
        Ok(())
    })
    .await?;
    let (_, stats) = world.admin.get("/stats").await?;
    ensure!(stats["senders"][OWN_PHONE]["acked"] == 0, "the ack was there before the retry: {stats}");

    let sent = world.until_message(&id, |message| message["status"] == "sent").await?;
    assert_eq!(
        (&sent["attempts"], &sent["error"], &sent["whatsappId"]),
        (&json!(2), &json!(null), &json!(whatsapp_id))
    );
    // In one chat the next one leaves behind whatever is left of the first.
    world.no_faults().await?;
    let next = world.accept(BUDI, "Halo lagi").await?;
    world.until_message(&next, |message| message["ack"] == "read").await?;
    assert_eq!(world.rows(BUDI, "Halo").await?, [(whatsapp_id, 2)], "one message under one id, handed over twice");
    let states = world.link_states().await?;
    assert!(!states.iter().any(|state| state == "offline"), "the link was fine all along: {states:?}");
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

#[tokio::test]
async fn a_refusal_that_passes_is_told_and_tried_again_under_the_same_id() -> Result<()> {
    let world = World::start()?;
    for (code, who, words) in [("479", BUDI, "devices changed"), ("503", SITI, "had trouble (503)")] {
        world.fault_once("nack", &[code], OWN_PHONE).await?;
        let id = world.accept(who, code).await?;
        let waiting = world.until_message(&id, |message| message["hold"]["reason"] == "backoff").await?;
        assert_eq!((&waiting["status"], &waiting["attempts"]), (&json!("pending"), &json!(1)), "{code}");
        assert!(waiting["error"].as_str().is_some_and(|error| error.contains(words)), "{waiting}");
        let whatsapp_id = waiting["whatsappId"].as_str().context("no id")?.to_owned();
        let read = world.until_message(&id, |message| message["ack"] == "read").await?;
        assert_eq!((&read["status"], &read["error"], &read["attempts"]), (&json!("sent"), &json!(null), &json!(2)));
        assert_eq!(read["whatsappId"], json!(whatsapp_id));
        assert_eq!(world.rows(who, code).await?, [(whatsapp_id.clone(), 1)]);
        assert_eq!(world.handed_over(&whatsapp_id).await?, 1, "a refused message goes nowhere");
    }
    Ok(())
}

#[tokio::test]
async fn whatever_a_login_is_refused_for_what_is_accepted_waits_and_leaves_once() -> Result<()> {
    let world = World::start()?;
    world.plays("/autoread", json!({"who": BUDI, "on": false})).await?;
    for (code, state) in [
        ("500", "offline"),
        ("503", "offline"),
        ("405", "outdated"),
        ("403", "locked"),
        ("402", "banned"),
        ("401", "logged_out"),
    ] {
        let (before, after) = (format!("before {code}"), format!("after {code}"));
        let first = world.under_way(BUDI, &before).await?;
        world.fault("refuse-logins", &[code]).await?;
        world.fault("cut", &[]).await?;
        let session = world.until_session(state).await?;
        assert_eq!(session["retryAt"].is_u64(), ["offline", "banned"].contains(&state), "{session}");
        let second = world.accept(BUDI, &after).await?;
        for id in [&first, &second] {
            let waiting = world.until_message(id, |message| message["hold"].is_object()).await?;
            assert_eq!((&waiting["status"], &waiting["attempts"]), (&json!("pending"), &json!(0)), "{code}");
            assert_eq!(waiting["hold"]["reason"], "offline", "{code}");
        }
        world.no_faults().await?;
        // Where the server had trouble, it is tried again; the other states end by the user's word only.
        if state != "offline" {
            let login = world.waya(&["login"])?;
            ensure!(login.status.success(), "{code}: {}", String::from_utf8_lossy(&login.stderr));
        }
        for (id, text) in [(&first, &before), (&second, &after)] {
            let sent = world.until_message(id, |message| message["ack"] == "device").await?;
            assert_eq!((&sent["status"], &sent["attempts"]), (&json!("sent"), &json!(1)), "{code}");
            let rows = world.rows(BUDI, text).await?;
            assert_eq!(rows.iter().map(|row| json!(row.0)).collect::<Vec<_>>(), [sent["whatsappId"].clone()], "{text}");
        }
        let whatsapp_id = world.message(&second).await?["whatsappId"].as_str().context("no id")?.to_owned();
        assert_eq!(world.handed_over(&whatsapp_id).await?, 1, "{code}");
        world.until_session("connected").await?;
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
        let rows = world.rows(BUDI, text).await?;
        assert_eq!(rows.len(), 1, "{code}: {rows:?}");
        assert_eq!(json!(rows[0].0), message["whatsappId"]);
        world.until_session("connected").await?;
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

/// Coming back at once is what the server complains about.
#[tokio::test]
async fn a_server_that_has_too_much_is_left_alone_for_a_while_and_gets_each_message_once() -> Result<()> {
    let world = World::start()?;
    world.plays("/autoread", json!({"who": BUDI, "on": false})).await?;
    let first = world.under_way(BUDI, "before").await?;
    world.fault("stream-error", &["429"]).await?;
    let session = world.until_session("offline").await?;
    assert!(session["reason"].as_str().is_some_and(|reason| reason.contains("429")), "{session}");
    let wait = session["retryAt"].as_u64().zip(session["since"].as_u64()).map(|(at, since)| at - since);
    assert!(wait.is_some_and(|wait| wait > 10_000), "{session}");
    let second = world.accept(BUDI, "meanwhile").await?;
    for id in [&first, &second] {
        let waiting = world.until_message(id, |message| message["hold"]["reason"] == "offline").await?;
        assert_eq!((&waiting["status"], &waiting["attempts"]), (&json!("pending"), &json!(0)));
    }
    world.no_faults().await?;
    world.waya_json(&["sandbox", "clock", "advance", "5m"])?;
    let third = world.accept(BUDI, "after").await?;
    for (id, text) in [(&first, "before"), (&second, "meanwhile"), (&third, "after")] {
        let sent = world.until_message(id, |message| message["ack"] == "device").await?;
        assert_eq!((&sent["status"], &sent["attempts"]), (&json!("sent"), &json!(1)), "{text}");
        let rows = world.rows(BUDI, text).await?;
        assert_eq!(rows.iter().map(|row| json!(row.0)).collect::<Vec<_>>(), [sent["whatsappId"].clone()], "{text}");
    }
    world.until_session("connected").await?;
    Ok(())
}
