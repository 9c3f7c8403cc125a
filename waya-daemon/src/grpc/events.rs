//! The journal, by cursor. Followers read it, page by page, so that a slow one misses nothing.

use std::collections::VecDeque;
use std::time::Duration;

use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status};
use waya_proto::v1::events_service_server::EventsService;
use waya_proto::v1::{FollowRequest, FollowResponse, ReadRequest, ReadResponse};

use super::error::stopping;
use super::streams::{Answers, answers};
use crate::api::view::EventView;
use crate::api::{Api, DEFAULT_EVENTS, MAX_WAIT};

/// The service.
#[derive(Debug)]
pub(super) struct Journal {
    api: Api,
    shutdown: CancellationToken,
}

impl Journal {
    pub(super) const fn new(api: Api, shutdown: CancellationToken) -> Self {
        Self { api, shutdown }
    }
}

#[tonic::async_trait]
impl EventsService for Journal {
    async fn read(&self, request: Request<ReadRequest>) -> Result<Response<ReadResponse>, Status> {
        let ReadRequest { after, limit } = request.into_inner();
        let after = if after.is_empty() { "0" } else { &after };
        let limit = if limit == 0 { DEFAULT_EVENTS } else { limit as usize };
        Ok(Response::new(self.api.events(after, limit, Duration::ZERO).await?.into()))
    }

    type FollowStream = Answers<FollowResponse>;

    async fn follow(&self, request: Request<FollowRequest>) -> Result<Response<Self::FollowStream>, Status> {
        let after = request.into_inner().after.unwrap_or_else(|| self.api.newest_cursor());
        let mut follower =
            Follower { api: self.api.clone(), shutdown: self.shutdown.clone(), next: after, page: VecDeque::new() };
        // A wrong cursor is refused at once, not in the stream.
        follower.turn(Duration::ZERO).await?;
        let events = answers(follower, |mut follower| async move {
            let answer = follower.event().await.map(|event| FollowResponse { event: Some(event.into()) });
            Some((answer, follower))
        });
        Ok(Response::new(events))
    }
}

/// A reader that goes on where it stopped.
struct Follower {
    api: Api,
    shutdown: CancellationToken,
    /// The cursor behind `page`.
    next: String,
    /// Read, and not handed out yet.
    page: VecDeque<EventView>,
}

impl Follower {
    async fn event(&mut self) -> Result<EventView, Status> {
        loop {
            if let Some(event) = self.page.pop_front() {
                return Ok(event);
            }
            if self.shutdown.is_cancelled() {
                return Err(stopping());
            }
            self.turn(MAX_WAIT).await?;
        }
    }

    async fn turn(&mut self, wait: Duration) -> Result<(), Status> {
        let page = self.api.events(&self.next, DEFAULT_EVENTS, wait).await?;
        self.next = page.next;
        self.page = page.events.into();
        Ok(())
    }
}
