//! Messages to groups: how many of how many have them.

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};
use waya_tests::{BUDI, SITI, World, until};

fn counts(message: &Value) -> [u64; 3] {
    ["members", "delivered", "read"].map(|name| message["receipts"][name].as_u64().unwrap_or(99))
}

#[tokio::test]
async fn receipts_of_a_group_are_counted_until_all_have_read_it() -> Result<()> {
    let mut world = World::start()?;
    let (group, members) = world.group().await?;
    ensure!(members.len() == 3 && members.contains(&BUDI.to_owned()) && members.contains(&SITI.to_owned()));
    world.plays("/autoread", json!({"who": SITI, "on": false})).await?;
    world.plays("/offline", json!({"who": BUDI})).await?;

    let id = world.accept(&group, "Halo semua").await?;
    let partly = world.until_message(&id, |message| counts(message) == [3, 2, 1]).await?;
    assert_eq!((&partly["status"], &partly["ack"]), (&json!("sent"), &json!("server")));
    assert_eq!((&partly["deliveredAt"], &partly["readAt"]), (&Value::Null, &Value::Null));
    let shown = String::from_utf8(world.waya(&["message", &id])?.stdout)?;
    assert!(shown.contains("of 3 members 2 have it, 1 read it"), "{shown}");
    let by_line = world.waya_json(&["message", &id])?;
    assert_eq!(by_line["receipts"], partly["receipts"]);

    // What was counted is on disk, and goes on after a restart.
    world.plays("/autoread", json!({"who": BUDI, "on": false})).await?;
    world.restart()?;
    let [of, delivered, read] = counts(&world.message(&id).await?);
    // Everybody is online after a start.
    assert!(of == 3 && delivered >= 2 && read == 1, "{of} {delivered} {read}");
    world.plays("/online", json!({"who": BUDI})).await?;
    let delivered = world.until_message(&id, |message| counts(message)[1] == 3).await?;
    assert_eq!(delivered["ack"], "device");
    assert!(delivered["deliveredAt"].is_u64() && delivered["readAt"].is_null(), "{delivered}");

    let path = format!("/api/message-status/{id}?wait=read&timeout=60");
    let readers = async {
        for who in [SITI, BUDI] {
            world.plays("/read", json!({"who": who})).await?;
        }
        anyhow::Ok(())
    };
    let (waited, read) = tokio::join!(world.api.get(&path), readers);
    read?;
    let (_, read) = waited?;
    assert_eq!((&read["ack"], counts(&read)), (&json!("read"), [3, 3, 3]));
    assert!(read["readAt"].is_u64(), "{read}");

    // Told once a message, not once a member; a row is seen a moment before its event, which shows once it is on disk.
    until("all of it is told", || async {
        let (_, page) = world.api.get("/api/events?after=0&limit=1000").await?;
        let events = page["events"].as_array().context("no events")?;
        let told = events.iter().filter(|event| event["type"] == "status");
        let acks: Vec<&str> = told.filter_map(|event| event["status"]["ack"].as_str()).collect();
        ensure!(acks == ["server", "device", "read"], "{acks:?}");
        Ok(())
    })
    .await
}

#[tokio::test]
async fn waiting_for_a_group_waits_for_all_and_private_chats_have_no_counts() -> Result<()> {
    let world = World::start()?;
    let (group, _) = world.group().await?;
    let waited = world.waya_json(&["send", &group, "Halo", "--wait", "read"])?;
    assert_eq!((&waited["ack"], counts(&waited)), (&json!("read"), [3, 3, 3]));
    let private = world.waya_json(&["send", BUDI, "Halo", "--wait", "read"])?;
    assert_eq!((&private["ack"], &private["receipts"]), (&json!("read"), &Value::Null));
    Ok(())
}
