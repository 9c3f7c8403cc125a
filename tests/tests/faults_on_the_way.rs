//! What goes wrong between WhatsApp and whom a message is for: broken, doubled, overtaken, late, or locked with the wrong
//! key. One message comes of it, once.

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};
use waya_tests::{BUDI, OWN_PHONE, SITI, World, until};

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
async fn what_happens_on_the_way_to_the_recipient_is_one_message_read_in_the_end() -> Result<()> {
    let world = World::start()?;
    for (kind, args) in
        [("double", &[][..]), ("reorder", &[]), ("slow", &["300"]), ("clock-skew", &["-86400"]), ("drop", &[])]
    {
        world.fault_once(kind, args, BUDI).await?;
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
        let rows = world.rows(BUDI, kind).await?;
        assert_eq!(rows.len(), 1, "{kind}: {rows:?}");
        assert_eq!((json!(rows[0].0), rows[0].1), (sent["whatsappId"].clone(), 1), "{kind}");
        world.no_faults().await?;
    }
    Ok(())
}

/// Whatever the server hands out as his keys: what was written for him is not locked with another's.
#[tokio::test]
async fn what_is_for_somebody_with_forged_keys_waits_until_they_are_his() -> Result<()> {
    let world = World::start()?;
    world.plays("/fault", json!({"kind": "garble-bundles", "target": BUDI})).await?;
    let id = world.accept(BUDI, "rahasia").await?;
    let waiting = world.until_message(&id, |message| message["hold"]["reason"] == "backoff").await?;
    assert_eq!((&waiting["status"], &waiting["attempts"]), (&json!("pending"), &json!(1)));
    assert!(waiting["error"].as_str().is_some_and(|error| !error.is_empty()), "{waiting}");
    assert!(waiting["hold"]["until"].is_u64(), "{waiting}");
    // He alone is concerned, and what goes to others would be seen before.
    let other = world.accept(SITI, "Halo").await?;
    world.until_message(&other, |message| message["ack"] == "read").await?;
    let (_, stats) = world.admin.get("/stats").await?;
    assert_eq!(stats["senders"][OWN_PHONE]["messages"], 1, "it left all the same");
    assert_eq!(world.inbox(BUDI).await?, Vec::<Value>::new());
    assert_eq!(world.api.get("/api/session").await?.1["state"], "connected");

    world.no_faults().await?;
    let read = world.until_message(&id, |message| message["ack"] == "read").await?;
    assert_eq!((&read["status"], &read["error"]), (&json!("sent"), &json!(null)));
    let whatsapp_id = read["whatsappId"].as_str().context("no id")?.to_owned();
    assert_eq!(world.handed_over(&whatsapp_id).await?, 1);
    assert_eq!(world.rows(BUDI, "rahasia").await?, [(whatsapp_id, 1)]);
    Ok(())
}

/// The first message into a group brings the group's key along, those behind it do not.
#[tokio::test]
async fn a_group_message_that_one_of_them_cannot_read_is_sent_to_him_again() -> Result<()> {
    let world = World::start()?;
    let (group, members) = world.group().await?;
    ensure!(members.len() == 3 && members.iter().any(|member| member == BUDI), "{members:?}");
    for text in ["with the key", "without it"] {
        world.fault_once("garble", &[], BUDI).await?;
        let id = world.accept(&group, text).await?;
        let read = world.until_message(&id, |message| message["ack"] == "read").await?;
        assert_eq!((&read["status"], &read["attempts"], &read["error"]), (&json!("sent"), &json!(1), &json!(null)));
        let counts = ["members", "delivered", "read"].map(|name| read["receipts"][name].as_u64());
        assert_eq!(counts, [Some(3); 3], "{text}");
        let (_, left) = world.admin.get("/faults").await?;
        assert_eq!(left["faults"], json!([]), "{text}: it did not strike");
        let whatsapp_id = read["whatsappId"].as_str().context("no id")?;
        for member in &members {
            assert_eq!(world.rows(member, text).await?, [(whatsapp_id.to_owned(), 1)], "{text}: {member}");
        }
    }
    Ok(())
}

#[tokio::test]
async fn what_comes_from_a_group_and_cannot_be_read_is_asked_for_again_and_heard_once() -> Result<()> {
    let world = World::start()?;
    let (group, _) = world.group().await?;
    let heard = |events: Vec<Value>| -> Vec<_> {
        events.iter().map(|message| (message["body"].clone(), message["chatId"] == group.as_str())).collect()
    };
    let (_, people) = world.admin.get("/people").await?;
    let subject = people["groups"][0]["subject"].clone();
    let mut said = Vec::new();
    for text in ["with the key", "without it"] {
        world.fault_once("garble", &[], OWN_PHONE).await?;
        world.plays("/say", json!({"from": BUDI, "text": text, "group": subject})).await?;
        said.push((json!(text), true));
        until("it is in the journal, and nothing is left to come", || async {
            let (_, stats) = world.admin.get("/stats").await?;
            let heard = heard(world.events("message").await?);
            ensure!(heard.len() >= said.len() && stats["queued"] == 0, "{heard:?} {stats}");
            Ok(())
        })
        .await?;
        let (_, left) = world.admin.get("/faults").await?;
        assert_eq!(left["faults"], json!([]), "{text}: it did not strike");
        assert_eq!(heard(world.events("message").await?), said);
    }
    Ok(())
}
