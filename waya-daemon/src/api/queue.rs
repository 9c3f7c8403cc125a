//! The queue as callers see and steer it.

use super::view::{ClearView, MessageView, QueueSummary, QueueView};
use super::{Api, ApiError};
use crate::model::{Message, MessageId, Refusal, Status};
use crate::store::{ByPhone, Changed, ListFilter, StoreError};

/// Messages of one answer when the caller does not say.
pub const DEFAULT_LIST: usize = 100;
/// The most messages of one answer.
pub const MAX_LIST: usize = 1_000;

/// Which messages to list, newest first.
#[derive(Debug, Clone, Default)]
pub struct ListRequest {
    /// Only these statuses; empty means all.
    pub statuses: Vec<Status>,
    /// Only older than this one, by queue id.
    pub before: Option<String>,
    /// At most so many, up to [`MAX_LIST`]; 0 means [`DEFAULT_LIST`].
    pub limit: usize,
}

impl Api {
    /// Messages by status, newest first, and how many stand where.
    ///
    /// # Errors
    /// `before` is no queue id, or the store.
    pub async fn queue_list(&self, request: ListRequest) -> Result<QueueView, ApiError> {
        let before = match request.before {
            Some(id) => Some(
                id.parse()
                    .map_err(|error: crate::model::InvalidId| ApiError::field_error("before", error.to_string()))?,
            ),
            None => None,
        };
        let limit = if request.limit == 0 { DEFAULT_LIST } else { request.limit.min(MAX_LIST) };
        let filter = ListFilter { statuses: request.statuses, before, limit };
        let messages = self.0.store.outbox.list(filter).await?;
        let next = messages.last().filter(|_| messages.len() == limit).map(|message| message.id);
        Ok(QueueView { summary: self.queue_summary().await?, messages: self.views(messages).await, next })
    }

    /// How many messages stand where.
    ///
    /// # Errors
    /// The store.
    pub async fn queue_summary(&self) -> Result<QueueSummary, ApiError> {
        let counts = self.0.store.outbox.counts().await?;
        Ok(QueueSummary {
            paused: self.0.queue.is_paused(),
            pending: counts.pending,
            sending: counts.sending,
            sent: counts.sent,
            failed: counts.failed,
            cancelled: counts.cancelled,
            oldest_pending_at: self.0.queue.oldest_pending(),
        })
    }

    /// Takes a message back before it leaves; a cancelled one stays so.
    ///
    /// # Errors
    /// There is none with this queue id, or it is not pending any more.
    pub async fn cancel(&self, id: &str) -> Result<MessageView, ApiError> {
        let changed = self.0.queue.cancel(queue_id(id)?).await;
        self.changed(id, changed, ApiError::NotCancellable).await
    }

    /// Clears the queue of what stands at `status` now: takes back what waits, removes what is finished. What comes to
    /// that meanwhile stays.
    ///
    /// # Errors
    /// What is on its way cannot be cleared; the store. What was cleared by then stays so.
    pub async fn clear(&self, status: Status) -> Result<ClearView, ApiError> {
        match status {
            Status::Pending => self.clear_pending().await,
            Status::Sending => {
                Err(ApiError::field_error("status", "cannot be sending: what is on its way is not cleared"))
            }
            Status::Sent | Status::Failed | Status::Cancelled => self.clear_finished(status).await,
        }
    }

    /// Nobody finds them by id or reference any more; their events stay, and a repeat of their request queues nothing.
    async fn clear_finished(&self, status: Status) -> Result<ClearView, ApiError> {
        let (mut before, mut cleared) = (None, 0);
        loop {
            let filter = ListFilter { statuses: vec![status], before, limit: MAX_LIST };
            let page = self.0.store.outbox.list(filter).await?;
            let Some(oldest) = page.last() else { return Ok(ClearView { cleared }) };
            before = Some(oldest.id);
            let ids = page.iter().map(|message| message.id).collect();
            cleared += self.0.store.outbox.remove(ids, status).await? as u64;
        }
    }

    /// Takes back all that wait now; what is accepted meanwhile stays, and so does what has left.
    async fn clear_pending(&self) -> Result<ClearView, ApiError> {
        let (mut before, mut cleared) = (None, 0);
        loop {
            let filter = ListFilter { statuses: vec![Status::Pending], before, limit: MAX_LIST };
            let page = self.0.store.outbox.list(filter).await?;
            let Some(oldest) = page.last() else { return Ok(ClearView { cleared }) };
            before = Some(oldest.id);
            let cancels = page.iter().map(|message| self.0.queue.cancel(message.id));
            for changed in futures_util::future::join_all(cancels).await {
                cleared += u64::from(matches!(changed?, Changed::Yes(_)));
            }
        }
    }

    /// Tries a failed or cancelled message again, under the same WhatsApp id.
    ///
    /// # Errors
    /// There is none with this queue id, or it neither failed nor was cancelled.
    pub async fn retry(&self, id: &str) -> Result<MessageView, ApiError> {
        let changed = self.0.queue.retry(queue_id(id)?).await;
        self.changed(id, changed, ApiError::NotRetryable).await
    }

    /// Nothing leaves until [`Api::resume`]; a restart does not change that.
    ///
    /// # Errors
    /// The store.
    pub async fn pause(&self) -> Result<QueueSummary, ApiError> {
        self.0.queue.pause().await?;
        self.queue_summary().await
    }

    /// Messages leave again.
    ///
    /// # Errors
    /// The store.
    pub async fn resume(&self) -> Result<QueueSummary, ApiError> {
        self.0.queue.resume().await?;
        self.queue_summary().await
    }

    /// A row as it is shown.
    pub(super) async fn view(&self, mut message: Message) -> MessageView {
        ByPhone::new(&self.0.store).name(&mut message.chat).await;
        let waits = message.status == Status::Pending;
        let outlooks = self.0.queue.outlooks(if waits { vec![message.id] } else { Vec::new() }).await;
        MessageView::new(message, outlooks.into_iter().next().unwrap_or_default())
    }

    /// Rows as they are shown.
    pub(super) async fn views(&self, mut messages: Vec<Message>) -> Vec<MessageView> {
        let mut by_phone = ByPhone::new(&self.0.store);
        for message in &mut messages {
            by_phone.name(&mut message.chat).await;
        }
        let waiting = messages.iter().filter(|message| message.status == Status::Pending).map(|message| message.id);
        let mut outlooks = self.0.queue.outlooks(waiting.collect()).await.into_iter();
        let view = |message: Message| {
            let waits = message.status == Status::Pending;
            let outlook = if waits { outlooks.next() } else { None };
            MessageView::new(message, outlook.unwrap_or_default())
        };
        messages.into_iter().map(view).collect()
    }

    async fn changed(
        &self,
        id: &str,
        changed: Result<Changed, StoreError>,
        refusal: fn(Status) -> ApiError,
    ) -> Result<MessageView, ApiError> {
        match changed? {
            Changed::Yes(message) | Changed::Already(message) => Ok(self.view(*message).await),
            Changed::Refused(Refusal { status }) => Err(refusal(status)),
            Changed::Unknown => Err(ApiError::NoSuchMessage(id.to_owned())),
        }
    }
}

/// Only queue ids steer: a reference may mean several messages.
pub(super) fn queue_id(id: &str) -> Result<MessageId, ApiError> {
    id.parse().map_err(|_| ApiError::NoSuchMessage(id.to_owned()))
}
