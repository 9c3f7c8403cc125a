//! `kill -9` at fifty moments while five hundred messages go out: nothing is lost, nothing is doubled, no status lies.
//!
//! The daemon and the emulator are processes of their own, so that either can be killed alone. The emulator holds its
//! acks for 200 ms, which makes "handed over, not acknowledged" a state that a kill hits on purpose; what was on its
//! way at a kill is read from the dead daemon's own store. Most people send no receipts: one that overtakes the ack
//! would settle the message before it.

#![expect(clippy::print_stdout, reason = "the figures are for who reads the output")]

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use tokio::sync::Semaphore;
use waya_tests::apart::{Address, Apart};
use waya_tests::{Api, OWN_PHONE};

const MESSAGES: usize = 500;
const KILLS: usize = 50;
/// More kills than `KILLS` come only while too few have hit the state they aim at.
const MOST_KILLS: usize = 100;
/// Messages let go before each kill, so that each finds work; one before each kill beyond `KILLS`.
const SHARE: usize = (MESSAGES - (MOST_KILLS - KILLS)) / KILLS;
const KILLS_OF_THE_EMULATOR: usize = 5;
const KILLS_BETWEEN_HAND_OVER_AND_ACK: usize = 20;
const ACK_DELAY: Duration = Duration::from_millis(200);
/// People whose receipts go nowhere, of five.
const SILENT: usize = 3;
/// All of it; a quiet machine needs about a minute and a half.
const PATIENCE: Duration = Duration::from_secs(600);

/// Posts every message until it is accepted, through all the deaths of the daemon; text → queue id.
async fn produce(address: Address, people: Vec<String>, allowed: Arc<Semaphore>) -> Result<BTreeMap<String, String>> {
    let mut accepted = BTreeMap::new();
    for n in 0..MESSAGES {
        allowed.acquire().await?.forget();
        let text = format!("message {n}");
        let body = json!({"number": people[n % people.len()], "message": text, "reference_id": format!("ref-{n}")});
        let request = |api: &Api| {
            let request = api.request(Method::POST, "/api/send-message");
            request.header("Idempotency-Key", format!("key-{n}")).json(&body)
        };
        let (status, answer) = address.ask(request).await?;
        ensure!(status == StatusCode::ACCEPTED, "{status}: {answer}");
        accepted.insert(text, answer["id"].as_str().context("no id")?.to_owned());
    }
    Ok(accepted)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_lost_or_doubled_through_fifty_kills() -> Result<()> {
    let root = tempfile::tempdir()?;
    let seed: u64 = rand::random();
    println!("seed {seed}");
    let mut random = StdRng::seed_from_u64(seed);
    let mut world = Apart::start(root.path(), ACK_DELAY, SILENT).await?;
    let allowed = Arc::new(Semaphore::new(0));
    let producer = tokio::spawn(produce(world.address.clone(), world.people.clone(), Arc::clone(&allowed)));

    let started = Instant::now();
    let (mut between, mut of_the_emulator) = (0, 0);
    let mut kill = 0;
    while kill < KILLS || (between < KILLS_BETWEEN_HAND_OVER_AND_ACK && kill < MOST_KILLS) {
        ensure!(started.elapsed() < PATIENCE, "the kills took too long");
        allowed.add_permits(if kill < KILLS { SHARE } else { 1 });
        let emulator = kill % (KILLS / KILLS_OF_THE_EMULATOR) == 4;
        // Most kills wait for the interesting state; every fourth comes at any moment, also while starting.
        if kill % 4 == 3 && !emulator {
            tokio::time::sleep(Duration::from_millis(random.random_range(0..700))).await;
        } else {
            world.until_in_flight().await?;
            tokio::time::sleep(Duration::from_millis(random.random_range(0..100))).await;
        }
        if emulator {
            of_the_emulator += 1;
            world.kill_emulator().await?;
        } else {
            between += usize::from(world.kill_daemon().await?);
            world.start_daemon()?;
        }
        kill += 1;
    }
    // What is left may go at its own speed.
    world.fault(&json!({"kind": "ack-delay", "args": ["0"], "target": OWN_PHONE})).await?;
    allowed.add_permits(MESSAGES);
    let accepted = producer.await??;
    assert_eq!(accepted.len(), MESSAGES);
    assert!(
        between >= KILLS_BETWEEN_HAND_OVER_AND_ACK,
        "only {between} of {kill} kills fell between hand-over and ack (seed {seed})"
    );
    assert!(of_the_emulator >= KILLS_OF_THE_EMULATOR);
    println!(
        "{between} of {kill} kills between hand-over and ack, {of_the_emulator} of the emulator, {:?}",
        started.elapsed()
    );

    verify(&world, &accepted).await.with_context(|| format!("seed {seed}"))
}

/// The end of it: every status, every inbox, every id.
async fn verify(world: &Apart, accepted: &BTreeMap<String, String>) -> Result<()> {
    let api = world.address.now().context("no daemon runs")?;
    let mut messages = BTreeMap::new();
    for (text, id) in accepted {
        let (_, message) = api.get(&format!("/api/message-status/{id}?wait=sent&timeout=120")).await?;
        ensure!(message["status"] == "sent" && message["ack"] != "none", "{text} ends as {message}");
        ensure!(message["message"] == text.as_str(), "{id} is {message}");
        messages.insert(text.clone(), message);
    }
    let mut seen: BTreeMap<String, (&String, Value)> = BTreeMap::new();
    for person in &world.people {
        for row in world.inbox(person).await? {
            let text = row["text"].as_str().unwrap_or_default().to_owned();
            let before = seen.insert(text.clone(), (person, row.clone()));
            ensure!(before.is_none(), "{text} stands twice in an inbox: {before:?} and {row}");
        }
    }
    let (mut read, mut readable) = (0, 0);
    for (text, message) in &messages {
        let (person, row) = seen.get(text).with_context(|| format!("{text} is in nobody's inbox"))?;
        let id = message["whatsappId"].as_str().context("no WhatsApp id")?;
        ensure!(row["id"] == id, "{text} arrived as {row} and is known as {id}");
        let kills = world.kills_of(id);
        ensure!(
            row["copies"].as_u64().unwrap_or(0) <= 1 + kills,
            "{row} arrived too often, with {kills} kills on its way"
        );
        // A receipt that came in the very moment of a kill is lost with the process: an ack may lag, never lead.
        let receipts = row["receipts"].to_string();
        let (says_read, was_read) = (message["ack"] == "read", receipts.contains("read"));
        ensure!(!says_read || was_read, "{text} says {message}, and the other side has {row}");
        ensure!(
            message["ack"] != "device" || receipts.contains("delivered"),
            "{text} says {message}, and the other side has {row}"
        );
        if !world.people[..SILENT].contains(person) {
            readable += 1;
            read += usize::from(says_read);
        }
    }
    ensure!(read * 10 >= readable * 8, "only {read} of {readable} are known to be read");
    println!("{read} of {readable} are known to be read");
    ensure!(seen.len() == accepted.len(), "the inboxes hold {} texts, {} were accepted", seen.len(), accepted.len());

    let (_, stats) = world.admin.get("/stats").await?;
    let repeated = stats["senders"][OWN_PHONE]["repeated_ids"].as_object().context("no repeated ids in the stats")?;
    for (id, times) in repeated {
        let kills = world.kills_of(id);
        ensure!(
            times.as_u64().unwrap_or(0) <= 1 + kills,
            "{id} was handed over {times} times, with {kills} kills on its way"
        );
    }
    ensure!(!repeated.is_empty(), "no kill made a message go again: the interesting state was never hit");
    ensure!(stats["senders"][OWN_PHONE]["distinct_ids"] == accepted.len(), "more ids than messages: {stats}");
    println!("{} ids were handed over again, all of them on their way at a kill", repeated.len());
    Ok(())
}
