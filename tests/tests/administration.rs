//! The log of HTTP requests and the API keys, as whoever looks after the daemon steers them.

use anyhow::{Context as _, Result, ensure};
use reqwest::StatusCode;
use serde_json::json;
use waya_tests::{BUDI, World, until};

#[tokio::test]
async fn what_came_over_http_shows_on_the_command_line() -> Result<()> {
    let world = World::start()?;
    let id = world.accept(BUDI, "Halo").await?;
    let listed = until("it is logged", || async {
        let list = world.waya_json(&["requests", "list"])?;
        let rows = list["requests"].as_array().context("no requests")?;
        let row = rows.iter().find(|row| row["url"] == "/api/send-message").context("not yet")?;
        Ok(row.clone())
    })
    .await?;
    assert_eq!(
        (&listed["method"], &listed["status"], &listed["key"]),
        (&json!("POST"), &json!(202), &json!("default"))
    );
    let row = listed["id"].as_str().context("no id")?;
    // By its own id, and by that of the message that it queued.
    for name in [row, &id] {
        let shown = world.waya_json(&["requests", "show", name])?;
        assert_eq!((&shown["id"], &shown["request"]["headers"]["x-api-key"]), (&json!(row), &json!("***")));
        assert!(shown["request"]["body"].as_str().is_some_and(|body| body.contains("Halo")), "{shown}");
    }
    let table = world.waya(&["requests", "list", "--limit", "1"])?;
    assert!(table.status.success() && !table.stdout.is_empty());
    assert!(world.waya_json(&["requests", "clear"])?["cleared"].as_u64() >= Some(1));
    assert_eq!(world.waya(&["requests", "show", row])?.status.code(), Some(4));
    Ok(())
}

#[tokio::test]
async fn keys_are_made_and_taken_back_on_the_command_line() -> Result<()> {
    let world = World::start()?;
    let made = world.waya_json(&["settings", "api-key", "create", "toko", "--scope", "send"])?;
    let key = made["apiKey"].as_str().context("no key")?;
    assert_eq!((&made["name"], &made["scopes"]), (&json!("toko"), &json!(["send"])));
    let list = world.waya(&["--json", "settings", "api-key", "list"])?;
    let list = String::from_utf8(list.stdout)?;
    assert!(list.contains("toko") && !list.contains(key), "{list}");
    assert_eq!(world.waya(&["settings", "api-key", "create", "toko"])?.status.code(), Some(4), "the name is taken");
    let toko = world.api.with_key(Some(key));
    let (status, sent) = toko.post("/api/send-message", &json!({"number": BUDI, "message": "Halo"})).await?;
    ensure!(status == StatusCode::ACCEPTED, "{sent}");
    let id = sent["id"].as_str().context("no id")?;
    world.until_message(id, |message| message["status"] == "sent").await?;
    // A key for sending may do to messages what the docs say, and look at nothing else.
    let (status, revoked) = toko.delete(&format!("/api/messages/{id}")).await?;
    ensure!(status == StatusCode::ACCEPTED, "{revoked}");
    assert_eq!(toko.get("/api/queue").await?.0, StatusCode::FORBIDDEN);
    assert!(world.waya(&["settings", "api-key", "revoke", "toko"])?.status.success());
    assert_eq!(toko.get(&format!("/api/message-status/{id}")).await?.0, StatusCode::UNAUTHORIZED);
    assert_eq!(world.waya(&["settings", "api-key", "revoke", "toko"])?.status.code(), Some(4));
    Ok(())
}
