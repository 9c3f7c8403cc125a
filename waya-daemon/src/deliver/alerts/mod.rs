//! Tells the owner when something needs them.
//!
//! Owns what was told, with a mark in the store, so that a restart tells nothing again. Woken by the link, the store's
//! health, webhooks, settings and time; without a command or a URL to tell by it looks at nothing. An alert that cannot
//! be posted (the network may be what is wrong) is kept and tried again.

mod conditions;
mod tell;

use std::collections::{BTreeMap, VecDeque};
use std::fmt::{self, Debug};
use std::sync::Arc;
use std::time::Duration;

use serde_json::json;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::envelope::Envelope;
use super::{Deliver, attempt};
use crate::model::{LinkState, Timestamp};
use crate::settings::Snapshot;
use crate::store::{MARKS, StoreError, phone};
use conditions::{Alarm, Change, Condition, Facts, Limits, Told, changes, offline_at};

/// Where the store keeps what was told.
const TOLD: &str = "alerts";
/// What has no wake-up of its own is looked at this often.
const LOOK_EVERY: Duration = Duration::from_mins(1);
/// A store that opens itself again within this is no trouble.
const STORE_MENDS_WITHIN: Duration = Duration::from_secs(5);
/// More alerts than this do not wait to be told; the oldest go.
const MOST_WAITING: usize = 100;
/// The first wait after an alert could not be posted; it doubles …
const FIRST_RETRY: Duration = Duration::from_secs(5);
/// … up to this.
const LONGEST_RETRY: Duration = Duration::from_mins(5);

/// Acceptance time of the oldest message in line, asked of the queue.
pub type OldestWaiting = Arc<dyn Fn() -> Option<Timestamp> + Send + Sync>;

/// What alerts stand on, beside webhooks.
pub struct Watched {
    /// How the owner is told, and from when on.
    pub settings: watch::Receiver<Snapshot>,
    /// The queue.
    pub oldest_waiting: OldestWaiting,
}

impl Debug for Watched {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Watched")
    }
}

/// An alert on its way.
struct Alert {
    id: String,
    change: Change,
    at: Timestamp,
    /// The command is run once, whatever becomes of it.
    command_ran: bool,
    tries: u32,
    /// Not before this time.
    next: Timestamp,
}

struct Watcher {
    deliver: Deliver,
    watched: Watched,
    told: Told,
    waiting: VecDeque<Alert>,
    cut_off_since: Option<Timestamp>,
    phone_seen: Option<Timestamp>,
    parked: BTreeMap<String, u64>,
    /// The mark in the store is not what it should be.
    unsaved: bool,
}

/// Watches until `shutdown`.
pub async fn run(deliver: Deliver, watched: Watched, shutdown: CancellationToken) {
    let mut watcher = Watcher {
        deliver,
        watched,
        told: Told::new(),
        waiting: VecDeque::new(),
        cut_off_since: None,
        phone_seen: None,
        parked: BTreeMap::new(),
        unsaved: false,
    };
    let watching = async {
        watcher.remember().await;
        loop {
            watcher.turn().await;
        }
    };
    tokio::select! {
        () = shutdown.cancelled() => {}
        () = watching => {}
    }
}

impl Watcher {
    async fn turn(&mut self) {
        let parts = Arc::clone(&self.deliver.parts);
        let (mut link, mut health, mut changed) =
            (parts.link.clone(), parts.store.health.clone(), parts.changed.subscribe());
        let mut settings = self.watched.settings.clone();
        let (is_on, limits) = {
            let settings = settings.borrow_and_update();
            let is_on = settings.alerts_command.is_some() || settings.alerts_webhook.is_some();
            (is_on, Limits { offline_after: settings.alerts_offline_after, queue_age: settings.alerts_queue_age })
        };
        if !is_on {
            self.waiting.clear();
            let _ = settings.changed().await;
            return;
        }
        link.mark_unchanged();
        health.mark_unchanged();
        let facts = self.facts(limits).await;
        let now = parts.clock.now();
        for change in changes(&self.told, &facts, limits, now) {
            self.note(change, now);
        }
        self.tell_all().await;
        self.save().await;

        let now = parts.clock.now();
        let next = self.waiting.front().map(|alert| alert.next);
        let offline_at = offline_at(&facts, limits).filter(|at| *at > now);
        let soonest = [next, offline_at].into_iter().flatten().min().map_or(LOOK_EVERY, |at| at.since(now));
        let mut moves = parts.clock.moves();
        tokio::select! {
            _ = link.changed() => {}
            _ = health.changed() => {}
            _ = changed.changed() => {}
            _ = settings.changed() => {}
            () = tokio::time::sleep(soonest.clamp(Duration::from_millis(10), LOOK_EVERY)) => {}
            () = moves.next() => {}
        }
    }

    /// How things stand now.
    async fn facts(&mut self, limits: Limits) -> Facts {
        let parts = Arc::clone(&self.deliver.parts);
        let store = self.store_trouble().await;
        if store.is_none() {
            match parts.store.webhooks.all().await {
                Ok(all) => {
                    let parked = |standing: crate::store::webhooks::StandingWebhook| {
                        (standing.webhook.id.to_string(), standing.place.parked)
                    };
                    self.parked = all.into_iter().map(parked).collect();
                }
                Err(error) => tracing::debug!(%error, "alerts look at webhooks later"),
            }
        }
        let (link, since) = {
            let link = parts.link.borrow();
            (link.state.clone(), link.since)
        };
        self.cut_off_since = match (&link, self.cut_off_since) {
            (LinkState::Connected | LinkState::Unpaired, _) => None,
            (_, known @ Some(_)) => known,
            (_, None) => Some(since),
        };
        let waits_since = self.waits_since(limits).await.unwrap_or_default();
        match self.phone_seen(link.is_connected()).await {
            Ok(seen) => self.phone_seen = seen,
            Err(error) => tracing::debug!(%error, "alerts look later when the phone was there"),
        }
        let (parked, phone_seen) = (self.parked.clone(), self.phone_seen);
        Facts { link, cut_off_since: self.cut_off_since, waits_since, store, phone_seen, parked }
    }

    /// When the phone was heard of last. The time of one that never was counts from its first connection on.
    async fn phone_seen(&self, connected: bool) -> Result<Option<Timestamp>, StoreError> {
        let parts = &self.deliver.parts;
        let seen = phone::seen(&*parts.store.values).await?;
        if seen.is_none() && connected {
            phone::saw(&*parts.store.values, parts.clock.now()).await?;
        }
        Ok(seen)
    }

    /// Why the store takes nothing, if it does not mend itself at once.
    async fn store_trouble(&self) -> Option<String> {
        let outbox = &self.deliver.parts.store.outbox;
        outbox.accepts().err()?;
        tokio::time::sleep(STORE_MENDS_WITHIN).await;
        Some(outbox.accepts().err()?.to_string())
    }

    /// Since when the oldest message could have left: one with a time of its own since then. The rows are looked at only
    /// when the queue's own word gives reason to.
    async fn waits_since(&self, limits: Limits) -> Result<Option<Timestamp>, StoreError> {
        let parts = &self.deliver.parts;
        let now = parts.clock.now();
        let suspicious = (self.watched.oldest_waiting)().filter(|oldest| now.since(*oldest) >= limits.queue_age);
        if suspicious.is_none() || limits.queue_age.is_zero() {
            return Ok(None);
        }
        let open = parts.store.outbox.open().await?;
        let since =
            open.iter().map(|message| message.not_before.map_or(message.created_at, |at| at.max(message.created_at)));
        Ok(since.filter(|since| *since <= now).min())
    }

    /// From now on it counts as told; what is on its way is told before anything else.
    fn note(&mut self, change: Change, now: Timestamp) {
        match &change {
            Change::Began(alarm) => {
                tracing::warn!(condition = alarm.condition.word(), "an alert begins");
                self.told.insert(alarm.condition.clone(), alarm.since);
            }
            Change::Ended(condition, _) => {
                tracing::info!(condition = condition.word(), "an alert is over");
                self.told.remove(condition);
            }
        }
        if self.waiting.len() == MOST_WAITING {
            self.waiting.pop_front();
        }
        let id = format!("evt_alert_{}", uuid::Uuid::now_v7().simple());
        self.waiting.push_back(Alert { id, change, at: now, command_ran: false, tries: 0, next: now });
        self.unsaved = true;
    }

    /// In order; one that cannot be posted holds the others.
    async fn tell_all(&mut self) {
        while let Some(mut alert) = self.waiting.pop_front() {
            if alert.next > self.deliver.parts.clock.now() || !self.tell(&mut alert).await {
                self.waiting.push_front(alert);
                return;
            }
        }
    }

    /// Whether that is done with.
    async fn tell(&self, alert: &mut Alert) -> bool {
        let (command, url) = {
            let settings = self.watched.settings.borrow();
            (settings.alerts_command.clone(), settings.alerts_webhook.clone())
        };
        let parts = &self.deliver.parts;
        let envelope = Envelope {
            id: &alert.id,
            timestamp: alert.at,
            event: word(&alert.change),
            session: &parts.session_name,
            me: parts.account(),
            payload: payload(&alert.change),
        };
        if let Some(command) = command.filter(|_| !std::mem::replace(&mut alert.command_ran, true)) {
            tell::command(&command, &envelope.bytes()).await;
        }
        let Some(url) = url else { return true };
        let delivery = attempt::post(parts, &url, &envelope, None).await;
        let Some(error) = delivery.error else { return true };
        if alert.tries == 0 {
            tracing::warn!(%error, "alerts.webhook does not take an alert; it is tried again");
        }
        let pause = FIRST_RETRY.saturating_mul(1 << alert.tries.min(10)).min(LONGEST_RETRY);
        alert.tries += 1;
        alert.next = parts.clock.now().plus(pause);
        false
    }

    /// What was told before the daemon started.
    async fn remember(&mut self) {
        let store = &self.deliver.parts.store;
        let stored = loop {
            match store.values.get(MARKS, TOLD).await {
                Ok(stored) => break stored,
                Err(_) => store.come_back().await,
            }
        };
        let read = stored.and_then(|bytes| serde_json::from_slice::<Vec<(Condition, Timestamp)>>(&bytes).ok());
        self.told = read.unwrap_or_default().into_iter().collect();
    }

    /// Writes down what was told to its end; what is on its way begins anew after a crash.
    async fn save(&mut self) {
        if !self.unsaved {
            return;
        }
        let mut told = self.told.clone();
        for alert in self.waiting.iter().rev() {
            match &alert.change {
                Change::Began(Alarm { condition, .. }) => drop(told.remove(condition)),
                Change::Ended(condition, since) => drop(told.insert(condition.clone(), *since)),
            }
        }
        let Ok(bytes) = serde_json::to_vec(&told.iter().collect::<Vec<_>>()) else { return };
        match self.deliver.parts.store.values.put(MARKS, TOLD, Some(bytes)).await {
            Ok(()) => self.unsaved = !self.waiting.is_empty(),
            Err(error) => tracing::debug!(%error, "what alerts told is written down later"),
        }
    }
}

fn word(change: &Change) -> &'static str {
    match change {
        Change::Began(_) => "alert.began",
        Change::Ended(..) => "alert.ended",
    }
}

fn payload(change: &Change) -> serde_json::Value {
    let (condition, since, message) = match change {
        Change::Began(alarm) => (&alarm.condition, alarm.since, alarm.message.clone()),
        Change::Ended(condition, since) => (condition, *since, format!("{} is over", condition.word())),
    };
    let webhook = match condition {
        Condition::WebhookParked(webhook) => Some(webhook),
        _ => None,
    };
    json!({"condition": condition.word(), "since": since, "message": message, "webhook": webhook})
}
