//! Webhooks and their deliveries.

use serde::Serialize;
use waya_proto::v1;

/// All webhooks.
#[derive(Debug, Clone, Serialize)]
pub struct Webhooks {
    webhooks: Vec<Webhook>,
}

/// One webhook, without its secret.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Webhook {
    id: String,
    url: String,
    events: Vec<String>,
    enabled: bool,
    created_at: i64,
    waiting: u64,
    parked: u64,
    missed: u64,
    succeeded_at: Option<i64>,
    failed_at: Option<i64>,
}

/// A webhook that was just added, with its secret.
#[derive(Debug, Clone, Serialize)]
pub struct Added {
    success: bool,
    #[serde(flatten)]
    webhook: Webhook,
    secret: String,
}

/// The newest deliveries.
#[derive(Debug, Clone, Serialize)]
pub struct Deliveries {
    deliveries: Vec<Delivery>,
}

/// One attempt at a delivery.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Delivery {
    at: i64,
    event_id: String,
    event: String,
    attempt: u32,
    ms: u64,
    status: Option<u32>,
    error: Option<String>,
}

/// What was given up.
#[derive(Debug, Clone, Serialize)]
pub struct Parked {
    events: Vec<ParkedEvent>,
}

#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
struct ParkedEvent {
    event_id: String,
    event: String,
    attempts: u32,
    since: i64,
    parked_at: i64,
    reason: String,
}

/// Something was done.
#[derive(Debug, Clone, Serialize)]
pub struct Done {
    /// Always true: refusals are errors.
    pub success: bool,
    /// To how many, where that may differ.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub count: Option<u64>,
}

impl From<v1::ListWebhooksResponse> for Webhooks {
    fn from(list: v1::ListWebhooksResponse) -> Self {
        Self { webhooks: list.webhooks.into_iter().map(Webhook::from).collect() }
    }
}

impl From<v1::Webhook> for Webhook {
    fn from(webhook: v1::Webhook) -> Self {
        Self {
            id: webhook.id,
            url: webhook.url,
            events: webhook.events,
            enabled: webhook.enabled,
            created_at: webhook.created_at,
            waiting: webhook.waiting,
            parked: webhook.parked,
            missed: webhook.missed,
            succeeded_at: webhook.succeeded_at,
            failed_at: webhook.failed_at,
        }
    }
}

impl From<v1::AddWebhookResponse> for Added {
    fn from(answer: v1::AddWebhookResponse) -> Self {
        Self { success: true, webhook: answer.webhook.unwrap_or_default().into(), secret: answer.secret }
    }
}

impl From<v1::WebhookLogsResponse> for Deliveries {
    fn from(answer: v1::WebhookLogsResponse) -> Self {
        Self { deliveries: answer.deliveries.into_iter().map(Delivery::from).collect() }
    }
}

impl From<v1::Delivery> for Delivery {
    fn from(delivery: v1::Delivery) -> Self {
        Self {
            at: delivery.at,
            event_id: delivery.event_id,
            event: delivery.event,
            attempt: delivery.attempt,
            ms: delivery.ms,
            status: delivery.status,
            error: delivery.error,
        }
    }
}

impl From<v1::ParkedEventsResponse> for Parked {
    fn from(answer: v1::ParkedEventsResponse) -> Self {
        let event = |event: v1::ParkedEvent| ParkedEvent {
            event_id: event.event_id,
            event: event.event,
            attempts: event.attempts,
            since: event.since,
            parked_at: event.parked_at,
            reason: event.reason,
        };
        Self { events: answer.events.into_iter().map(event).collect() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_secret_is_told_when_it_is_made_only() {
        let webhook = v1::Webhook {
            id: "wh_23456789ab".to_owned(),
            url: "https://example.org/hook".to_owned(),
            events: vec!["message.sent".to_owned()],
            enabled: true,
            created_at: 5,
            parked: 2,
            failed_at: Some(7),
            ..v1::Webhook::default()
        };
        let added = v1::AddWebhookResponse { webhook: Some(webhook.clone()), secret: "s3cret".to_owned() };
        insta::assert_json_snapshot!(Added::from(added), @r#"
        {
          "success": true,
          "id": "wh_23456789ab",
          "url": "https://example.org/hook",
          "events": [
            "message.sent"
          ],
          "enabled": true,
          "createdAt": 5,
          "waiting": 0,
          "parked": 2,
          "missed": 0,
          "succeededAt": null,
          "failedAt": 7,
          "secret": "s3cret"
        }
        "#);
        let listed = serde_json::to_string(&Webhooks::from(v1::ListWebhooksResponse { webhooks: vec![webhook] }));
        assert!(!listed.unwrap().contains("s3cret"));
    }
}
