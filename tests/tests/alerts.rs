//! What needs the owner is posted to `alerts.webhook`, once when it begins and once when it ends.
#![expect(clippy::unwrap_used, reason = "tests")]

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use anyhow::{Result, ensure};
use axum::Router;
use axum::extract::{Json, State};
use axum::http::StatusCode;
use axum::routing::post;
use reqwest::Method;
use serde_json::{Value, json};
use waya_tests::receiver::{Manner, Receiver, SECRET};
use waya_tests::{BUDI, Options, World, answer, until};

/// Who is told; it may refuse the first few times.
#[derive(Default)]
struct Owner {
    refuses: AtomicUsize,
    refused: AtomicUsize,
    told: Mutex<Vec<Value>>,
}

impl Owner {
    /// Gives its URL beside itself.
    async fn listen(refuses: usize) -> Result<(Arc<Self>, String)> {
        let owner = Arc::new(Self { refuses: refuses.into(), ..Self::default() });
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
        let url = format!("http://{}/alerts", listener.local_addr()?);
        let router = Router::new().route("/alerts", post(hear)).with_state(Arc::clone(&owner));
        tokio::spawn(axum::serve(listener, router).into_future());
        Ok((owner, url))
    }

    /// What it was told: event and condition.
    fn told(&self) -> Vec<String> {
        let told = self.told.lock().unwrap();
        let word = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        told.iter().map(|alert| format!("{} {}", word(&alert["event"]), word(&alert["payload"]["condition"]))).collect()
    }

    async fn until_told(&self, expected: &[&str]) -> Result<Value> {
        until("the owner is told", || async {
            let told = self.told();
            ensure!(told == expected, "{told:?}");
            Ok(self.told.lock().unwrap().last().cloned().unwrap_or_default())
        })
        .await
    }
}

async fn hear(State(owner): State<Arc<Owner>>, Json(alert): Json<Value>) -> StatusCode {
    if owner.refuses.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1)).is_ok() {
        owner.refused.fetch_add(1, Ordering::SeqCst);
        return StatusCode::SERVICE_UNAVAILABLE;
    }
    owner.told.lock().unwrap().push(alert);
    StatusCode::OK
}

/// A connected world whose alerts go to an owner.
async fn watched(options: Options) -> Result<(World, Arc<Owner>)> {
    let (owner, url) = Owner::listen(0).await?;
    let world = World::with(options.env("WAYA_ALERTS_WEBHOOK", &url))?;
    world.until_session("connected").await?;
    Ok((world, owner))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_whatsapp_says_of_the_account_is_told_and_is_over_with_a_connection() -> Result<()> {
    for (code, condition, state) in [("402", "banned", "banned"), ("405", "outdated", "outdated")] {
        let (mut world, owner) = watched(Options::default()).await?;
        world.fault("refuse-logins", &[code]).await?;
        world.fault("cut", &[]).await?;
        world.until_session(state).await?;
        let began = format!("alert.began {condition}");
        let alert = owner.until_told(&[&began]).await?;
        ensure!(alert["payload"]["message"].as_str().is_some_and(|words| words.starts_with("WhatsApp")), "{alert}");
        ensure!(alert["id"].as_str().is_some_and(|id| id.starts_with("evt_alert_")), "{alert}");
        assert_eq!(alert["session"], "default");
        world.no_faults().await?;
        if state == "outdated" {
            // Somebody has to do something about it.
            world.restart()?;
        } else {
            world.waya_json(&["sandbox", "clock", "advance", "2h"])?;
        }
        world.until_session("connected").await?;
        owner.until_told(&[&began, &format!("alert.ended {condition}")]).await?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_that_stays_away_and_what_waits_for_it_are_told() -> Result<()> {
    let options = Options::default().env("WAYA_ALERTS_OFFLINE_AFTER", "30m").env("WAYA_ALERTS_QUEUE_AGE", "2h");
    let (world, owner) = watched(options).await?;
    world.fault("refuse", &[]).await?;
    world.fault("cut", &[]).await?;
    world.until_session("offline").await?;
    world.accept(BUDI, "is anybody there?").await?;
    assert_eq!(owner.told(), [] as [&str; 0]);
    world.waya_json(&["sandbox", "clock", "advance", "31m"])?;
    let alert = owner.until_told(&["alert.began offline"]).await?;
    ensure!(alert["payload"]["message"].as_str().is_some_and(|words| words.contains("for 31 min")), "{alert}");
    world.waya_json(&["sandbox", "clock", "advance", "2h"])?;
    owner.until_told(&["alert.began offline", "alert.began queue"]).await?;
    world.no_faults().await?;
    world.waya_json(&["sandbox", "clock", "advance", "2m"])?;
    world.until_received(BUDI, 1).await?;
    world.waya_json(&["sandbox", "clock", "advance", "2m"])?;
    until("both are over", || async {
        let mut told = owner.told();
        told.sort();
        ensure!(
            told == ["alert.began offline", "alert.began queue", "alert.ended offline", "alert.ended queue"],
            "{told:?}"
        );
        Ok(())
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn events_that_nobody_takes_are_told() -> Result<()> {
    let (world, owner) = watched(Options::default()).await?;
    let receiver = Receiver::start().await?;
    receiver.behave(Manner::Refuses);
    let added =
        world.waya_json(&["webhooks", "add", &receiver.url(), "--event", "message.sent", "--secret", SECRET])?;
    world.accept(BUDI, "nobody hears of it").await?;
    until("it is refused", || async {
        ensure!(!receiver.refused().is_empty(), "not yet");
        Ok(())
    })
    .await?;
    let parked = until("it is parked and told", || async {
        world.waya_json(&["sandbox", "clock", "advance", "6h"])?;
        ensure!(owner.told() == ["alert.began webhook_parked"], "{:?}", owner.told());
        Ok(owner.told.lock().unwrap()[0].clone())
    })
    .await?;
    assert_eq!(parked["payload"]["webhook"], added["id"], "{parked}");
    receiver.behave(Manner::Takes);
    let id = added["id"].as_str().unwrap_or_default();
    world.waya_json(&["webhooks", "redeliver", id, "--all"])?;
    owner.until_told(&["alert.began webhook_parked", "alert.ended webhook_parked"]).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_without_room_is_told() -> Result<()> {
    let (owner, url) = Owner::listen(0).await?;
    let full = Options::default().env("WAYA_STORE_MIN_FREE", "1048576GiB").env("WAYA_ALERTS_WEBHOOK", &url);
    let world = World::with(full)?;
    let body = json!({"number": BUDI, "message": "no room"});
    let (status, refused) = answer(world.api.request(Method::POST, "/api/send-message").json(&body)).await?;
    assert_eq!((status, &refused["code"]), (StatusCode::SERVICE_UNAVAILABLE, &json!("store_unavailable")), "{refused}");
    let alert = owner.until_told(&["alert.began store"]).await?;
    ensure!(alert["payload"]["message"].as_str().is_some_and(|words| words.contains("takes nothing")), "{alert}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_owner_who_does_not_answer_is_told_again() -> Result<()> {
    let (owner, url) = Owner::listen(2).await?;
    let world = World::with(Options::default().env("WAYA_ALERTS_WEBHOOK", &url))?;
    world.until_session("connected").await?;
    world.fault("logged-out", &[]).await?;
    until("it is tried until it is taken", || async {
        world.waya_json(&["sandbox", "clock", "advance", "30s"])?;
        ensure!(owner.told() == ["alert.began logged_out"], "{:?}", owner.told());
        Ok(())
    })
    .await?;
    assert_eq!(owner.refused.load(Ordering::SeqCst), 2);
    Ok(())
}
