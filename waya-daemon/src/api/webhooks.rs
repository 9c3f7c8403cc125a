//! Webhooks as callers see and steer them.

use std::collections::BTreeSet;

use super::view::{DeliveryView, ParkedView, WebhookView};
use super::{Api, ApiError};
use crate::deliver::{Deliver, DeliverError, Parked};
use crate::model::{Secret, Topic, Topics, Webhook, WebhookId};
use crate::store::webhooks::{Delivery, KEPT_DELIVERIES, StandingWebhook};

/// The longest URL, in bytes.
const MAX_URL: usize = 2048;
/// How long a secret may be, in bytes: shorter ones are guessed.
const SECRET: std::ops::RangeInclusive<usize> = 8..=256;
/// Parked events of one answer when the caller does not say.
const DEFAULT_PARKED: usize = 100;
/// The most parked events of one answer.
const MAX_PARKED: usize = 1_000;

/// A webhook as a caller wants it; what is absent stays as it is, or becomes the default.
#[derive(Clone, Default)]
pub struct WebhookRequest {
    /// Where it is told.
    pub url: Option<String>,
    /// The words of what it is told of; `*` is all. Empty: as it is, or all.
    pub events: Vec<String>,
    /// What deliveries are signed with; a new one is made when there is none.
    pub secret: Option<String>,
    /// Whether it is told.
    pub enabled: Option<bool>,
    /// What it is behind with is let go.
    pub from_now: bool,
}

impl Api {
    /// All webhooks, oldest first.
    ///
    /// # Errors
    /// The store.
    pub async fn webhooks(&self) -> Result<Vec<WebhookView>, ApiError> {
        Ok(self.0.deliver.list().await?.into_iter().map(Into::into).collect())
    }

    /// One webhook.
    ///
    /// # Errors
    /// There is none of this id, or the store.
    pub async fn webhook(&self, id: &str) -> Result<WebhookView, ApiError> {
        Ok(self.0.deliver.get(&webhook_id(id)?).await?.into())
    }

    /// Adds one, which is told what happens from now on; with its secret, which is shown only here.
    ///
    /// # Errors
    /// A URL, event or secret that does not fit, too many webhooks, or the store.
    pub async fn webhook_add(&self, request: WebhookRequest) -> Result<(WebhookView, Secret), ApiError> {
        let (id, made) = Deliver::fresh();
        let url = request.url.ok_or_else(|| ApiError::field_error("url", "is missing"))?;
        let webhook = Webhook {
            id: id.clone(),
            url: checked_url(url)?,
            topics: topics(&request.events)?.unwrap_or(Topics::All),
            secret: request.secret.map(checked_secret).transpose()?.unwrap_or(made),
            enabled: request.enabled.unwrap_or(true),
            created_at: self.0.clock.now(),
        };
        let secret = webhook.secret.clone();
        self.0.deliver.add(webhook).await?;
        Ok((self.0.deliver.get(&id).await?.into(), secret))
    }

    /// Changes what the request names.
    ///
    /// # Errors
    /// There is none of this id, a URL, event or secret that does not fit, or the store.
    pub async fn webhook_edit(&self, id: &str, request: WebhookRequest) -> Result<WebhookView, ApiError> {
        let id = webhook_id(id)?;
        let before = self.0.deliver.get(&id).await?.webhook;
        let webhook = Webhook {
            url: request.url.map(checked_url).transpose()?.unwrap_or(before.url),
            topics: topics(&request.events)?.unwrap_or(before.topics),
            secret: request.secret.map(checked_secret).transpose()?.unwrap_or(before.secret),
            enabled: request.enabled.unwrap_or(before.enabled),
            ..before
        };
        self.0.deliver.change(webhook, request.from_now).await?;
        Ok(self.0.deliver.get(&id).await?.into())
    }

    /// Removes one, with what it was still to be told.
    ///
    /// # Errors
    /// There is none of this id, or the store.
    pub async fn webhook_remove(&self, id: &str) -> Result<(), ApiError> {
        Ok(self.0.deliver.remove(&webhook_id(id)?).await?)
    }

    /// Posts a test event now; how that went.
    ///
    /// # Errors
    /// There is none of this id, or the store.
    pub async fn webhook_test(&self, id: &str) -> Result<DeliveryView, ApiError> {
        Ok(self.0.deliver.test(&webhook_id(id)?).await?.into())
    }

    /// The newest deliveries, newest first; `limit` 0 is all that are kept.
    ///
    /// # Errors
    /// There is none of this id, or the store.
    pub async fn webhook_logs(&self, id: &str, limit: usize) -> Result<Vec<DeliveryView>, ApiError> {
        let limit = if limit == 0 { KEPT_DELIVERIES as usize } else { limit };
        let deliveries = self.0.deliver.deliveries(&webhook_id(id)?, limit).await?;
        Ok(deliveries.into_iter().map(Into::into).collect())
    }

    /// What was given up, oldest first.
    ///
    /// # Errors
    /// There is none of this id, or the store.
    pub async fn webhook_parked(&self, id: &str, limit: usize) -> Result<Vec<ParkedView>, ApiError> {
        let limit = if limit == 0 { DEFAULT_PARKED } else { limit.min(MAX_PARKED) };
        let parked = self.0.deliver.parked(&webhook_id(id)?, limit).await?;
        Ok(parked.into_iter().map(Into::into).collect())
    }

    /// Has one parked event, or all of them, told again; how many.
    ///
    /// # Errors
    /// There is no such webhook or parked event, or the store.
    pub async fn webhook_redeliver(&self, id: &str, event_id: Option<&str>) -> Result<u64, ApiError> {
        Ok(self.0.deliver.redeliver(&webhook_id(id)?, event_id).await?)
    }
}

fn webhook_id(id: &str) -> Result<WebhookId, ApiError> {
    id.parse().map_err(ApiError::NoSuchWebhook)
}

fn checked_url(url: String) -> Result<String, ApiError> {
    let wrong = |problem: &'static str| ApiError::field_error("url", problem);
    if url.len() > MAX_URL {
        return Err(wrong("is longer than 2048 bytes"));
    }
    let parsed = reqwest::Url::parse(&url).map_err(|_| wrong("must be a URL such as https://example.org/waya"))?;
    if !matches!(parsed.scheme(), "http" | "https") || !parsed.has_host() {
        return Err(wrong("must begin with http:// or https://"));
    }
    Ok(url)
}

fn checked_secret(secret: String) -> Result<Secret, ApiError> {
    if !SECRET.contains(&secret.len()) || secret.chars().any(char::is_control) {
        return Err(ApiError::field_error("secret", "must be 8 to 256 bytes without control characters"));
    }
    Ok(Secret(secret))
}

/// `None` when the caller does not say.
fn topics(words: &[String]) -> Result<Option<Topics>, ApiError> {
    if words.is_empty() {
        return Ok(None);
    }
    if words.iter().any(|word| word == "*") {
        return Ok(Some(Topics::All));
    }
    let one = |word: &String| {
        Topic::from_word(word).ok_or_else(|| {
            let known = Topic::ALL.map(Topic::as_str).join(", ");
            ApiError::field_error("events", format!("{word:?} is no event; there are *, {known}"))
        })
    };
    Ok(Some(Topics::Only(words.iter().map(one).collect::<Result<BTreeSet<_>, _>>()?)))
}

impl From<StandingWebhook> for WebhookView {
    fn from(StandingWebhook { webhook, place }: StandingWebhook) -> Self {
        Self {
            id: webhook.id.to_string(),
            events: webhook.topics.words(),
            url: webhook.url,
            enabled: webhook.enabled,
            created_at: webhook.created_at,
            waiting: place.waiting,
            parked: place.parked,
            missed: place.missed,
            succeeded_at: place.succeeded_at,
            failed_at: place.failed_at,
        }
    }
}

impl From<Delivery> for DeliveryView {
    fn from(delivery: Delivery) -> Self {
        Self {
            at: delivery.at,
            event_id: delivery.event_id,
            event: delivery.event,
            attempt: delivery.attempt,
            ms: delivery.millis,
            status: delivery.status,
            error: delivery.error,
        }
    }
}

impl From<Parked> for ParkedView {
    fn from(Parked { event_id, row }: Parked) -> Self {
        Self {
            event_id,
            event: row.notice.topic.as_str(),
            attempts: row.attempts,
            since: row.since,
            parked_at: row.at,
            reason: row.reason,
        }
    }
}

impl From<DeliverError> for ApiError {
    fn from(error: DeliverError) -> Self {
        match error {
            DeliverError::Store(error) => Self::Store(error),
            error => Self::Webhook(error),
        }
    }
}

/// Without secret and URL, because debug output reaches logs.
impl std::fmt::Debug for WebhookRequest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("WebhookRequest").field("events", &self.events).finish_non_exhaustive()
    }
}
