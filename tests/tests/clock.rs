//! The sandbox's clock: it takes daemon and emulator along, and what waits for a time leaves when that has come.

use std::time::Duration;

use anyhow::Result;
use serde_json::json;
use waya_tests::{BUDI, World};

/// Far more than anything here waits for, and far less than what is skipped.
const SOON: Duration = Duration::from_secs(20);

#[tokio::test]
async fn a_message_for_tomorrow_leaves_when_the_clock_is_moved_there() -> Result<()> {
    let mut world = World::start()?;
    let now = world.waya_json(&["sandbox", "clock"])?["time"].clone();
    let now: jiff::Timestamp = now.as_str().unwrap_or_default().parse()?;
    let at = (now + Duration::from_secs(86_400)).to_string();
    let body = json!({"number": BUDI, "message": "besok", "scheduled_at": at});
    let (status, accepted) = world.api.post("/api/send-message", &body).await?;
    assert_eq!(status.as_u16(), 202, "{accepted}");
    let id = accepted["id"].as_str().unwrap_or_default().to_owned();
    world.until_message(&id, |message| message["status"] == "pending").await?;

    world.waya_json(&["sandbox", "clock", "advance", "23h"])?;
    let message = world.until_message(&id, |message| message["status"] != "queued").await?;
    assert_eq!(message["status"], "pending", "not yet: {message}");
    let moved = world.waya_json(&["sandbox", "clock", "advance", "1h"])?;
    assert_eq!(moved["ahead_ms"], 86_400_000);
    let sent = tokio::time::timeout(SOON, world.until_message(&id, |message| message["ack"] == "read")).await??;
    let created = sent["createdAt"].as_u64().unwrap_or_default();
    assert!(sent["sentAt"].as_u64().unwrap_or_default() >= created + 86_400_000, "{sent}");
    assert!(sent["readAt"].as_u64().unwrap_or_default() >= created + 86_400_000, "the receipt's own time: {sent}");

    // By HTTP too; and the machine's own time again.
    let (_, back) = world.admin.post("/clock", &json!({"set": "now"})).await?;
    assert_eq!(back["ahead_ms"], 0);
    let wrong = world.waya(&["sandbox", "clock", "advance", "soon"])?;
    assert!(String::from_utf8_lossy(&wrong.stderr).contains("no length of time"));
    world.stop()?;
    Ok(())
}
