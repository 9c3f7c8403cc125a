//! Files of incoming messages that are fetched without anybody asking.

use std::path::PathBuf;

use anyhow::{Context as _, Result, ensure};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ring::digest::{SHA256, digest};
use serde_json::{Value, json};
use waya_tests::{BUDI, OWN_PHONE, Options, World, until};

fn wanting(kinds: &str) -> Options {
    Options::default().env("WAYA_MEDIA_AUTO_DOWNLOAD", kinds)
}

async fn does(world: &World, path: &str, body: Value) -> Result<Value> {
    let (status, answer) = world.admin.post(path, &body).await?;
    ensure!(status.is_success(), "{path}: {answer}");
    Ok(answer)
}

/// Has Budi send a document; its id.
async fn sends(world: &World, content: &[u8]) -> Result<String> {
    let media = json!({"data": STANDARD.encode(content), "mimetype": "application/pdf", "filename": "a.pdf"});
    let said = does(world, "/say", json!({"from": BUDI, "text": "lihat", "media": media})).await?;
    Ok(said["id"].as_str().context("no id")?.to_owned())
}

/// Where the file of this content lies.
fn place(world: &World, content: &[u8]) -> PathBuf {
    use std::fmt::Write as _;
    let hash = digest(&SHA256, content).as_ref().iter().fold(String::new(), |mut hex, byte| {
        let _ = write!(hex, "{byte:02x}");
        hex
    });
    world.data_dir().join("media").join(hash)
}

async fn until_there(world: &World, content: &[u8]) -> Result<()> {
    until("the file is there", || async {
        ensure!(std::fs::read(place(world, content))? == content);
        Ok(())
    })
    .await
}

async fn until_journalled(world: &World, id: &str) -> Result<()> {
    until("it is journalled", || async {
        let (_, page) = world.api.get("/api/events?after=0&limit=1000").await?;
        let events = page["events"].as_array().context("no events")?;
        ensure!(events.iter().any(|event| event["message"]["id"] == id), "{page}");
        Ok(())
    })
    .await
}

#[tokio::test]
async fn a_file_is_there_without_anybody_asking_also_while_whatsapp_is_away() -> Result<()> {
    let world = World::with(wanting("document"))?;
    let content = b"%PDF-1.4 the first";
    let id = sends(&world, content).await?;
    until_there(&world, content).await?;
    world.fault("replaced", &[]).await?;
    world.until_session("replaced").await?;
    let file = world.api.request(reqwest::Method::GET, &format!("/api/messages/{id}/media")).send().await?;
    assert_eq!((file.status().as_u16(), file.bytes().await?.as_ref()), (200, content.as_slice()));
    Ok(())
}

#[tokio::test]
async fn what_could_not_be_fetched_is_fetched_after_a_restart() -> Result<()> {
    let mut world = World::with(wanting("all"))?;
    let content = b"%PDF-1.4 the second";
    // The file is up before the servers begin to refuse, and the message comes after that.
    does(&world, "/fault", json!({"kind": "slow", "args": [3000], "target": OWN_PHONE})).await?;
    let id = sends(&world, content).await?;
    does(&world, "/fault", json!({"kind": "media", "args": [500]})).await?;
    until_journalled(&world, &id).await?;
    world.restart()?;
    until_there(&world, content).await?;
    Ok(())
}

#[tokio::test]
async fn off_unless_set_and_limited() -> Result<()> {
    let mut world = World::start()?;
    let (while_off, large, small) = (b"%PDF-1.4 while off".to_vec(), vec![b'x'; 3_000], b"%PDF-1.4 small".to_vec());
    let id = sends(&world, &while_off).await?;
    until_journalled(&world, &id).await?;
    world.restart_with(wanting("document").env("WAYA_MEDIA_AUTO_DOWNLOAD_SIZE", "2KiB"))?;
    world.until_session("connected").await?;
    sends(&world, &large).await?;
    sends(&world, &small).await?;
    until_there(&world, &small).await?;
    until("it says why", || async {
        let log = world.log()?;
        ensure!(log.contains("more than the 2048 that media.auto_download_size allows"), "{log}");
        Ok(())
    })
    .await?;
    assert!(!place(&world, &while_off).exists() && !place(&world, &large).exists());
    Ok(())
}
