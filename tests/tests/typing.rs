//! What people see before an answer comes.

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};
use waya_tests::{BUDI, Options, SITI, World, until};

/// What a person's client was shown of the own account, in order.
async fn seen(world: &World, who: &str) -> Result<Vec<String>> {
    let (_, list) = world.admin.get(&format!("/typing/{who}")).await?;
    let typing = list["typing"].as_array().with_context(|| list.to_string())?;
    Ok(typing.iter().filter_map(|one| one["state"].as_str()).map(str::to_owned).collect())
}

async fn until_seen(world: &World, who: &str, wanted: &[&str]) -> Result<()> {
    until("it is seen", || async {
        let seen = seen(world, who).await?;
        ensure!(seen == wanted, "{seen:?}");
        Ok(())
    })
    .await
}

async fn says(world: &World, who: &str, text: &str) -> Result<String> {
    let (status, answer) = world.admin.post("/say", &json!({"from": who, "text": text})).await?;
    ensure!(status.is_success(), "{answer}");
    let id = answer["id"].as_str().context("no id")?.to_owned();
    until("it is journalled", || async {
        let (_, page) = world.api.get("/api/events?after=0&limit=1000").await?;
        let events = page["events"].as_array().context("no events")?;
        ensure!(events.iter().any(|event| event["message"]["id"] == id.as_str()), "{page}");
        Ok(())
    })
    .await?;
    Ok(id)
}

#[tokio::test]
async fn somebody_who_wrote_sees_that_an_answer_is_typed() -> Result<()> {
    let world = World::with(Options::default().env("WAYA_QUEUE_TYPING", "true"))?;
    // Nobody asked for this one.
    let unasked = world.accept(SITI, "Halo Siti").await?;
    world.until_message(&unasked, |message| message["ack"] == "read").await?;
    assert_eq!(seen(&world, SITI).await?, [] as [String; 0]);

    says(&world, BUDI, "Jam berapa buka?").await?;
    let id = world.accept(BUDI, &"Buka jam delapan pagi. ".repeat(10)).await?;
    until_seen(&world, BUDI, &["composing"]).await?;
    assert_eq!((world.inbox(BUDI).await?.len(), &world.message(&id).await?["status"]), (0, &json!("pending")));
    world.until_received(BUDI, 1).await?;
    until_seen(&world, BUDI, &["composing", "paused"]).await?;
    let sent = world.until_message(&id, |message| message["ack"] == "read").await?;
    let took = |name: &str| sent[name].as_u64().unwrap_or_default();
    assert!((3_500..15_000).contains(&(took("sentAt") - took("createdAt"))), "{sent}");

    // One that quotes; taken back while it is typed, it never comes.
    let asked = says(&world, SITI, "Dan besok?").await?;
    let body = json!({"number": SITI, "message": "Besok libur. ".repeat(20), "quoted": asked});
    let (_, answer) = world.api.post("/api/send-message", &body).await?;
    let id = answer["id"].as_str().with_context(|| answer.to_string())?;
    until_seen(&world, SITI, &["composing"]).await?;
    let (status, cancelled): (_, Value) = world.api.delete(&format!("/api/queue/{id}")).await?;
    assert_eq!((status.as_u16(), &cancelled["status"]), (200, &json!("cancelled")));
    until_seen(&world, SITI, &["composing", "paused"]).await?;
    assert_eq!(world.inbox(SITI).await?.len(), 1);
    Ok(())
}
