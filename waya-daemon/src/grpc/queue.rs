//! The outgoing queue.

use std::time::Duration;

use serde_json::json;
use tonic::{Request, Response, Status};
use waya_proto::v1::queue_service_server::QueueService;
use waya_proto::v1::{
    self, CancelRequest, CancelResponse, GetMessageRequest, GetMessageResponse, ListResponse, PauseRequest,
    PauseResponse, ResumeRequest, ResumeResponse, RetryRequest, RetryResponse, SendResponse, WatchRequest,
    WatchResponse,
};

use super::convert;
use super::error::{stopping, unknown_value};
use super::streams::{Answers, answers};
use crate::api::{
    Api, ApiError, Content, IdempotencyKey, ListRequest, Priority, SendRequest, WaitFor, body_hash, time_from_millis,
};
use crate::model::Source;

/// The service.
#[derive(Debug)]
pub(super) struct Queues {
    api: Api,
}

impl Queues {
    pub(super) const fn new(api: Api) -> Self {
        Self { api }
    }
}

#[tonic::async_trait]
impl QueueService for Queues {
    async fn send(&self, request: Request<v1::SendRequest>) -> Result<Response<SendResponse>, Status> {
        let answer = self.api.send(send_request(request.into_inner())?, Source::Cli).await?;
        Ok(Response::new(answer.into()))
    }

    async fn get_message(&self, request: Request<GetMessageRequest>) -> Result<Response<GetMessageResponse>, Status> {
        let request = request.into_inner();
        let message = match wait_for(request.wait)? {
            None => self.api.message(&request.id).await?,
            Some(target) => {
                self.api.wait_message(&request.id, target, Duration::from_millis(request.timeout_ms)).await?
            }
        };
        Ok(Response::new(message.into()))
    }

    async fn list(&self, request: Request<v1::ListRequest>) -> Result<Response<ListResponse>, Status> {
        let v1::ListRequest { statuses, limit, before } = request.into_inner();
        let statuses = convert::statuses(&statuses)?;
        let list = self.api.queue_list(ListRequest { statuses, before, limit: limit as usize }).await?;
        Ok(Response::new(list.into()))
    }

    async fn cancel(&self, request: Request<CancelRequest>) -> Result<Response<CancelResponse>, Status> {
        let message = self.api.cancel(&request.get_ref().id).await?.into();
        Ok(Response::new(CancelResponse { message: Some(message) }))
    }

    async fn retry(&self, request: Request<RetryRequest>) -> Result<Response<RetryResponse>, Status> {
        let message = self.api.retry(&request.get_ref().id).await?.into();
        Ok(Response::new(RetryResponse { message: Some(message) }))
    }

    async fn pause(&self, _: Request<PauseRequest>) -> Result<Response<PauseResponse>, Status> {
        let summary = self.api.pause().await?.into();
        Ok(Response::new(PauseResponse { summary: Some(summary) }))
    }

    async fn resume(&self, _: Request<ResumeRequest>) -> Result<Response<ResumeResponse>, Status> {
        let summary = self.api.resume().await?.into();
        Ok(Response::new(ResumeResponse { summary: Some(summary) }))
    }

    type WatchStream = Answers<WatchResponse>;

    async fn watch(&self, request: Request<WatchRequest>) -> Result<Response<Self::WatchStream>, Status> {
        let wanted = convert::statuses(&request.into_inner().statuses)?;
        let changes = self.api.message_changes();
        let messages = answers((changes, wanted), |(mut changes, wanted)| async move {
            loop {
                let Some(message) = changes.next().await else {
                    return Some((Err(stopping()), (changes, wanted)));
                };
                if wanted.is_empty() || wanted.contains(&message.status) {
                    let message = Some(message.into());
                    return Some((Ok(WatchResponse { message }), (changes, wanted)));
                }
            }
        });
        Ok(Response::new(messages))
    }
}

fn send_request(request: v1::SendRequest) -> Result<SendRequest, Status> {
    let priority = match v1::Priority::try_from(request.priority).map_err(|_| unknown_value("priority"))? {
        v1::Priority::High => Priority::High,
        v1::Priority::Unspecified | v1::Priority::Normal => Priority::Normal,
        v1::Priority::Low => Priority::Low,
    };
    let scheduled_at = request
        .scheduled_at
        .map(time_from_millis)
        .transpose()
        .map_err(|problem| ApiError::field_error("scheduled_at", problem))?;
    let idempotency = request.idempotency_key.clone().map(|key| IdempotencyKey { key, body: hash(&request) });
    let content = match <[String; 1]>::try_from(request.recipients) {
        Ok([number]) => Content::One { number, message: request.message },
        Err(recipients) => Content::Many { recipients, message: request.message },
    };
    Ok(SendRequest {
        content,
        reference_id: request.reference_id,
        priority,
        scheduled_at,
        idempotency,
        dry_run: request.dry_run,
        ..SendRequest::default()
    })
}

/// What makes a repeat the same request.
fn hash(request: &v1::SendRequest) -> [u8; 32] {
    body_hash(&json!({
        "recipients": request.recipients,
        "message": request.message,
        "reference_id": request.reference_id,
        "priority": request.priority,
        "scheduled_at": request.scheduled_at,
    }))
}

fn wait_for(wait: i32) -> Result<Option<WaitFor>, Status> {
    Ok(match v1::WaitFor::try_from(wait).map_err(|_| unknown_value("wait"))? {
        v1::WaitFor::Unspecified => None,
        v1::WaitFor::Sent => Some(WaitFor::Sent),
        v1::WaitFor::Delivered => Some(WaitFor::Delivered),
        v1::WaitFor::Read => Some(WaitFor::Read),
    })
}
