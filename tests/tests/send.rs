//! A message leaves for real, end to end: accepted, encrypted, decrypted by the other side's own client, read.

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};
use waya_tests::{BUDI, OWN_PHONE, Options, SITI, World, until};

/// Somebody who shares no group with the own account.
const DEWI: &str = "6281200000005";

#[tokio::test]
async fn a_text_is_sent_decrypted_and_read() -> Result<()> {
    let world = World::start()?;
    let text = "Halo 👋 “kutip” <b>&amp;</b>\n  two lines, tab\t.";
    let id = world.accept(BUDI, text).await?;
    let message = world.until_message(&id, |message| message["ack"] == "read").await?;
    assert_eq!((&message["status"], &message["chatId"]), (&json!("sent"), &json!(format!("{BUDI}@c.us"))));
    for time in ["createdAt", "sentAt", "deliveredAt", "readAt"] {
        assert!(message[time].is_u64(), "{time} of {message}");
    }
    let inbox = world.inbox(BUDI).await?;
    assert_eq!(inbox.len(), 1, "{inbox:?}");
    assert_eq!(inbox[0]["text"], text);
    assert_eq!(inbox[0]["copies"], 1);
    assert_eq!(inbox[0]["id"], message["whatsappId"]);
    assert_eq!(inbox[0]["from"], format!("{OWN_PHONE}@c.us"));
    Ok(())
}

#[tokio::test]
async fn pn_only_accounts_work_as_well() -> Result<()> {
    let options = Options { arguments: vec!["--pn-only".to_owned()], ..Options::default() };
    let world = World::with(options)?;
    let id = world.accept(BUDI, "Halo").await?;
    world.until_message(&id, |message| message["ack"] == "read").await?;
    assert_eq!(world.inbox(BUDI).await?.len(), 1);
    Ok(())
}

#[tokio::test]
async fn a_person_addressed_by_lid_is_shown_by_phone_once_that_is_known() -> Result<()> {
    let world = World::start()?;
    let (_, people) = world.admin.get("/people").await?;
    let people = people["people"].as_array().context("no people")?;
    let dewi = people.iter().find(|person| person["number"] == DEWI).context("no Dewi")?;
    let (by_lid, by_phone) = (dewi["lid"].as_str().context("no LID")?, format!("{DEWI}@c.us"));
    ensure!(world.waya(&["queue", "pause"])?.status.success());
    let id = world.accept(by_lid, "Halo").await?;
    assert_eq!(world.message(&id).await?["chatId"], by_lid, "the phone never heard of her");
    ensure!(world.waya(&["queue", "resume"])?.status.success());
    world.until_message(&id, |message| message["ack"] == "read").await?;
    assert_eq!(world.inbox(DEWI).await?.len(), 1);

    let (status, answer) = world.admin.post("/say", &json!({"from": DEWI, "text": "Halo juga"})).await?;
    ensure!(status.is_success(), "{answer}");
    let message = world.until_message(&id, |message| message["chatId"] == by_phone.as_str()).await?;
    assert_eq!(message["number"], DEWI);
    let (_, queue) = world.api.get("/api/queue").await?;
    assert_eq!(queue["messages"][0]["chatId"], by_phone.as_str(), "{queue}");
    // The pair is learnt ahead of the journal's row, hence the row has to be waited for.
    let chats = until("her answer is in the journal", || async {
        let (_, events) = world.api.get("/api/events?limit=1000").await?;
        let events = events["events"].as_array().context("no events")?;
        ensure!(events.iter().any(|event| event["message"]["body"] == "Halo juga"), "not there yet");
        let chat = |event: &Value| Some(event.get("status").or_else(|| event.get("message"))?["chatId"].clone());
        Ok(events.iter().filter_map(chat).collect::<Vec<_>>())
    })
    .await?;
    assert!(chats.len() > 1 && chats.iter().all(|chat| *chat == by_phone.as_str()), "{chats:?}");
    let next = world.accept(by_lid, "Halo lagi").await?;
    let next = world.until_message(&next, |message| message["ack"] == "read").await?;
    assert_eq!(next["chatId"], by_phone.as_str());
    Ok(())
}

#[tokio::test]
async fn ack_stays_at_server_while_nobody_sends_receipts() -> Result<()> {
    let world = World::start()?;
    let (status, answer) = world.admin.post("/fault", &json!({"kind": "no-receipts"})).await?;
    ensure!(status.is_success(), "{answer}");
    let id = world.accept(BUDI, "Halo").await?;
    let message = world.until_message(&id, |message| message["status"] == "sent").await?;
    assert_eq!(message["ack"], "server");
    // The person's client has it and says so; the emulator drops the receipt, hence nothing may change.
    until("it arrived", || async { world.inbox(BUDI).await?.first().cloned().context("not there yet") }).await?;
    let second = world.accept(BUDI, "Halo again").await?;
    world.until_message(&second, |message| message["status"] == "sent").await?;
    assert_eq!(world.message(&id).await?["ack"], "server");
    Ok(())
}

#[tokio::test]
async fn a_number_that_is_not_on_whatsapp_fails_and_the_rest_goes_on() -> Result<()> {
    let world = World::start()?;
    let nobody = world.accept("6289999999999", "Halo").await?;
    let budi = world.accept(BUDI, "Halo").await?;
    let failed = world.until_message(&nobody, |message| message["status"] == "failed").await?;
    assert_eq!(failed["error"], "6289999999999 is not on WhatsApp");
    world.until_message(&budi, |message| message["ack"] == "read").await?;
    Ok(())
}

#[tokio::test]
async fn a_group_gets_it_once_each() -> Result<()> {
    let world = World::start()?;
    let (_, people) = world.admin.get("/people").await?;
    let group = people["groups"][0]["id"].as_str().context("no group")?.to_owned();
    let members: Vec<String> = people["groups"][0]["members"]
        .as_array()
        .context("no members")?
        .iter()
        .filter_map(|member| member.as_str().map(str::to_owned))
        .filter(|member| member != OWN_PHONE)
        .collect();
    assert_eq!(members.len(), 3, "{people}");
    let id = world.accept(&group, "Halo semua").await?;
    world.until_message(&id, |message| message["status"] == "sent" && message["ack"] != "server").await?;
    for member in &members {
        until("every member has it", || async {
            let inbox = world.inbox(member).await?;
            ensure!(
                inbox.len() == 1 && inbox[0]["text"] == "Halo semua" && inbox[0]["chat"] == group.as_str(),
                "{inbox:?}"
            );
            Ok(())
        })
        .await?;
    }
    Ok(())
}

#[tokio::test]
async fn what_people_say_is_in_the_journal_with_a_cursor() -> Result<()> {
    let mut world = World::start()?;
    for (who, text) in [(BUDI, "first"), (SITI, "second")] {
        let (status, answer) = world.admin.post("/say", &json!({"from": who, "text": text})).await?;
        ensure!(status.is_success(), "{answer}");
        until("it is journalled", || async {
            let texts = incoming(&world, "0").await?.0;
            ensure!(texts.iter().any(|t| t.1 == text), "{texts:?}");
            Ok(())
        })
        .await?;
    }
    let (all, next) = incoming(&world, "0").await?;
    assert_eq!(all, [(format!("{BUDI}@c.us"), "first".to_owned()), (format!("{SITI}@c.us"), "second".to_owned())]);
    assert_eq!(incoming(&world, &next).await?.0, []);
    world.restart()?;
    assert_eq!(incoming(&world, "0").await?.0, all, "the journal survives a restart, and nothing is journalled twice");
    Ok(())
}

/// The incoming messages after a cursor as (chat, text), and where to go on.
async fn incoming(world: &World, after: &str) -> Result<(Vec<(String, String)>, String)> {
    let (_, page) = world.api.get(&format!("/api/events?after={after}&limit=1000")).await?;
    let events = page["events"].as_array().with_context(|| page.to_string())?;
    let text = |value: &serde_json::Value| value.as_str().unwrap_or_default().to_owned();
    let incoming = events.iter().filter(|event| event["type"] == "message");
    let incoming = incoming.map(|event| (text(&event["message"]["chatId"]), text(&event["message"]["body"])));
    Ok((incoming.collect(), text(&page["next"])))
}
