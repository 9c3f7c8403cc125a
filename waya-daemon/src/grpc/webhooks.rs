//! Webhooks.

use tonic::{Request, Response, Status};
use waya_proto::v1::webhooks_service_server::WebhooksService;
use waya_proto::v1::{
    self, AddWebhookRequest, AddWebhookResponse, EditWebhookRequest, EditWebhookResponse, GetWebhookRequest,
    GetWebhookResponse, ListWebhooksRequest, ListWebhooksResponse, ParkedEventsRequest, ParkedEventsResponse,
    RedeliverRequest, RedeliverResponse, RemoveWebhookRequest, RemoveWebhookResponse, TestWebhookRequest,
    TestWebhookResponse, WebhookLogsRequest, WebhookLogsResponse,
};

use super::convert::{maybe_millis, millis};
use crate::api::view::{DeliveryView, ParkedView, WebhookView};
use crate::api::{Api, WebhookRequest};

/// The service.
#[derive(Debug)]
pub(super) struct Hooks {
    api: Api,
}

impl Hooks {
    pub(super) const fn new(api: Api) -> Self {
        Self { api }
    }
}

#[tonic::async_trait]
impl WebhooksService for Hooks {
    async fn list(&self, _: Request<ListWebhooksRequest>) -> Result<Response<ListWebhooksResponse>, Status> {
        let webhooks = self.api.webhooks().await?.into_iter().map(Into::into).collect();
        Ok(Response::new(ListWebhooksResponse { webhooks }))
    }

    async fn get(&self, request: Request<GetWebhookRequest>) -> Result<Response<GetWebhookResponse>, Status> {
        let webhook = self.api.webhook(&request.get_ref().id).await?.into();
        Ok(Response::new(GetWebhookResponse { webhook: Some(webhook) }))
    }

    async fn add(&self, request: Request<AddWebhookRequest>) -> Result<Response<AddWebhookResponse>, Status> {
        let AddWebhookRequest { url, events, secret, disabled } = request.into_inner();
        let wanted = WebhookRequest { url: Some(url), events, secret, enabled: Some(!disabled), from_now: false };
        let (webhook, secret) = self.api.webhook_add(wanted).await?;
        Ok(Response::new(AddWebhookResponse { webhook: Some(webhook.into()), secret: secret.0 }))
    }

    async fn edit(&self, request: Request<EditWebhookRequest>) -> Result<Response<EditWebhookResponse>, Status> {
        let EditWebhookRequest { id, url, events, secret, enabled, from_now } = request.into_inner();
        let wanted = WebhookRequest { url, events, secret, enabled, from_now };
        let webhook = self.api.webhook_edit(&id, wanted).await?.into();
        Ok(Response::new(EditWebhookResponse { webhook: Some(webhook) }))
    }

    async fn remove(&self, request: Request<RemoveWebhookRequest>) -> Result<Response<RemoveWebhookResponse>, Status> {
        self.api.webhook_remove(&request.get_ref().id).await?;
        Ok(Response::new(RemoveWebhookResponse {}))
    }

    async fn test(&self, request: Request<TestWebhookRequest>) -> Result<Response<TestWebhookResponse>, Status> {
        let delivery = self.api.webhook_test(&request.get_ref().id).await?.into();
        Ok(Response::new(TestWebhookResponse { delivery: Some(delivery) }))
    }

    async fn logs(&self, request: Request<WebhookLogsRequest>) -> Result<Response<WebhookLogsResponse>, Status> {
        let WebhookLogsRequest { id, limit } = request.into_inner();
        let deliveries = self.api.webhook_logs(&id, limit as usize).await?;
        Ok(Response::new(WebhookLogsResponse { deliveries: deliveries.into_iter().map(Into::into).collect() }))
    }

    async fn parked(&self, request: Request<ParkedEventsRequest>) -> Result<Response<ParkedEventsResponse>, Status> {
        let ParkedEventsRequest { id, limit } = request.into_inner();
        let events = self.api.webhook_parked(&id, limit as usize).await?;
        Ok(Response::new(ParkedEventsResponse { events: events.into_iter().map(Into::into).collect() }))
    }

    async fn redeliver(&self, request: Request<RedeliverRequest>) -> Result<Response<RedeliverResponse>, Status> {
        let RedeliverRequest { id, event_id } = request.into_inner();
        let count = self.api.webhook_redeliver(&id, event_id.as_deref()).await?;
        Ok(Response::new(RedeliverResponse { count }))
    }
}

impl From<WebhookView> for v1::Webhook {
    fn from(webhook: WebhookView) -> Self {
        Self {
            id: webhook.id,
            url: webhook.url,
            events: webhook.events.into_iter().map(str::to_owned).collect(),
            enabled: webhook.enabled,
            created_at: millis(webhook.created_at),
            waiting: webhook.waiting,
            parked: webhook.parked,
            missed: webhook.missed,
            succeeded_at: maybe_millis(webhook.succeeded_at),
            failed_at: maybe_millis(webhook.failed_at),
        }
    }
}

impl From<DeliveryView> for v1::Delivery {
    fn from(delivery: DeliveryView) -> Self {
        Self {
            at: millis(delivery.at),
            event_id: delivery.event_id,
            event: delivery.event,
            attempt: delivery.attempt,
            ms: delivery.ms,
            status: delivery.status.map(u32::from),
            error: delivery.error,
        }
    }
}

impl From<ParkedView> for v1::ParkedEvent {
    fn from(parked: ParkedView) -> Self {
        Self {
            event_id: parked.event_id,
            event: parked.event.to_owned(),
            attempts: parked.attempts,
            since: millis(parked.since),
            parked_at: millis(parked.parked_at),
            reason: parked.reason,
        }
    }
}
