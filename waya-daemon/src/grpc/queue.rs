//! The outgoing queue.

use std::time::Duration;

use tonic::{Request, Response, Status, Streaming};
use waya_proto::v1::queue_service_server::QueueService;
use waya_proto::v1::{
    self, CancelRequest, CancelResponse, ClearRequest, ClearResponse, EditRequest, ForwardRequest, GetMessageRequest,
    GetMessageResponse, ListResponse, MediaRequest, MediaResponse, PauseRequest, PauseResponse, ReactRequest,
    ResumeRequest, ResumeResponse, RetryRequest, RetryResponse, RevokeRequest, SendResponse, UploadResponse,
    WatchRequest, WatchResponse,
};

use super::error::{stopping, unknown_value};
use super::send::send_request;
use super::streams::{Answers, answers};
use super::{convert, media};
use crate::api::{Api, ApiError, ListRequest, WaitFor};
use crate::model::{self, Source};

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

    async fn clear(&self, request: Request<ClearRequest>) -> Result<Response<ClearResponse>, Status> {
        let status = match request.into_inner().status {
            0 => model::Status::Pending,
            status => convert::status_named("status", status)?,
        };
        let cleared = self.api.clear(status).await?.cleared;
        Ok(Response::new(ClearResponse { cleared }))
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

    async fn upload(&self, request: Request<Streaming<v1::UploadRequest>>) -> Result<Response<UploadResponse>, Status> {
        let mut pieces = request.into_inner();
        let mut writer = self.api.take_file()?;
        while let Some(piece) = pieces.message().await? {
            let written = writer.write(&piece.content);
            written.map_err(|problem| ApiError::InvalidMedia { field: "media".to_owned(), problem })?;
        }
        let (file, size) = self.api.kept("media", writer).await?;
        Ok(Response::new(UploadResponse { file: file.to_string(), size }))
    }

    type MediaStream = Answers<MediaResponse>;

    async fn media(&self, request: Request<MediaRequest>) -> Result<Response<Self::MediaStream>, Status> {
        let file = self.api.message_media(&request.into_inner().id).await?;
        Ok(Response::new(media::pieces(file).await?))
    }

    async fn react(&self, request: Request<ReactRequest>) -> Result<Response<SendResponse>, Status> {
        let ReactRequest { id, emoji } = request.into_inner();
        Ok(Response::new(self.api.react(&id, emoji, Source::Cli).await?.into()))
    }

    async fn edit(&self, request: Request<EditRequest>) -> Result<Response<SendResponse>, Status> {
        let EditRequest { id, message } = request.into_inner();
        Ok(Response::new(self.api.edit(&id, message, Source::Cli).await?.into()))
    }

    async fn revoke(&self, request: Request<RevokeRequest>) -> Result<Response<SendResponse>, Status> {
        Ok(Response::new(self.api.revoke(&request.into_inner().id, Source::Cli).await?.into()))
    }

    async fn forward(&self, request: Request<ForwardRequest>) -> Result<Response<SendResponse>, Status> {
        let ForwardRequest { id, recipients } = request.into_inner();
        Ok(Response::new(self.api.forward(&id, recipients, Source::Cli).await?.into()))
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

fn wait_for(wait: i32) -> Result<Option<WaitFor>, Status> {
    Ok(match v1::WaitFor::try_from(wait).map_err(|_| unknown_value("wait"))? {
        v1::WaitFor::Unspecified => None,
        v1::WaitFor::Sent => Some(WaitFor::Sent),
        v1::WaitFor::Delivered => Some(WaitFor::Delivered),
        v1::WaitFor::Read => Some(WaitFor::Read),
    })
}
