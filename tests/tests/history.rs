//! Names and the chat list: from the phone into the store, over a restart, and away with the account.

use std::path::Path;

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};
use waya_daemon::model::ChatId;
use waya_sandbox::emulator::HISTORY_TEXT;
use waya_tests::{BUDI, SITI, World, open_store, until};

/// Waits until the daemon knows of as many people and chats as the sandbox has.
async fn known(world: &World, people: u64, chats: u64) -> Result<()> {
    until("people and chats are known", || async {
        let known = world.api.get("/api/status").await?.1["known"].clone();
        ensure!(known == json!({"people": people, "chats": chats}), "{known}");
        Ok(())
    })
    .await
}

/// How the daemon names who wrote this text.
async fn sender_name(world: &World, text: &str) -> Result<Value> {
    until("the message is in the journal", || async {
        let (_, page) = world.api.get("/api/events?after=0&limit=1000").await?;
        let events = page["events"].as_array().context("no events")?;
        let said = events.iter().find(|event| event["message"]["body"] == text).with_context(|| page.to_string())?;
        Ok(said["message"]["senderName"].clone())
    })
    .await
}

/// The files below a folder that hold this text as it is.
fn holding(dir: &Path, text: &str) -> Result<Vec<String>> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(dir)? {
        let path = entry?.path();
        if path.is_dir() {
            found.extend(holding(&path, text)?);
        } else if std::fs::read(&path)?.windows(text.len()).any(|part| part == text.as_bytes()) {
            found.push(path.display().to_string());
        }
    }
    Ok(found)
}

#[tokio::test]
async fn the_phones_names_and_chats_are_kept_and_what_was_said_is_not() -> Result<()> {
    let mut world = World::start()?;
    // The three of the group, and the group; the phone never heard of the other two.
    known(&world, 3, 4).await?;
    world.admin.post("/say", &json!({"from": "Budi", "text": "Halo dari Budi"})).await?;
    assert_eq!(sender_name(&world, "Halo dari Budi").await?, "Budi");
    world.restart()?;
    known(&world, 3, 4).await?;
    world.stop()?;

    assert_eq!(holding(&world.data_dir(), HISTORY_TEXT)?, Vec::<String>::new(), "what was said is on disk");
    assert!(!holding(&world.data_dir().join("store"), "Keluarga")?.is_empty(), "texts in the store can be found so");
    let opened = open_store(&world.data_dir())?;
    let store = &opened.store;
    for (phone, name) in [(BUDI, "Budi"), (SITI, "Siti")] {
        let contact = store.contacts.by_phone(phone).await?.context(name)?;
        assert_eq!(contact.push_name.map(|name| name.text).as_deref(), Some(name));
        let lid = ChatId::lid(contact.lid.as_deref().context("no LID")?);
        let chat = store.chats.chat(&lid).await?.context(name)?;
        assert_eq!((chat.id, chat.name.as_deref()), (ChatId::phone(phone), Some(name)));
    }
    opened.handle.close();
    Ok(())
}

#[tokio::test]
async fn names_and_chats_go_with_the_account_and_come_back_with_it() -> Result<()> {
    let world = World::start()?;
    known(&world, 3, 4).await?;
    ensure!(world.waya(&["logout", "--yes"])?.status.success());
    known(&world, 0, 0).await?;
    let login = world.waya(&["login"])?;
    ensure!(login.status.success(), "{}", String::from_utf8_lossy(&login.stderr));
    known(&world, 3, 4).await
}
