//! What is done to messages that are there: reacting, editing, taking back, passing on. Each is a message of its own
//! and waits in the queue like any other.

use super::compose::What;
use super::found::Found;
use super::send::{Content, Priority, SendRequest, answer_alone};
use super::view::SendAnswer;
use super::{Api, ApiError};
use crate::model::{self, Body, Forward, Lane, MAX_TEXT_CHARS, MediaHash, Message, Source};
use crate::queue::{Accepted, Draft, Known};
use crate::store::ByPhone;

impl Api {
    /// Puts an emoji under a message, or takes it back when it is empty.
    ///
    /// # Errors
    /// There is no such message, or nothing can be done to it.
    pub async fn react(&self, id: &str, emoji: String, source: Source) -> Result<SendAnswer, ApiError> {
        if emoji.chars().count() > 32 {
            return Err(ApiError::field_error("emoji", "is no emoji"));
        }
        let found = self.known(id).await?;
        self.deed(&found, emoji, found.reaction(), source).await
    }

    /// Replaces the text of a message of ours.
    ///
    /// # Errors
    /// There is no such message, or it is none of ours.
    pub async fn edit(&self, id: &str, text: String, source: Source) -> Result<SendAnswer, ApiError> {
        if text.is_empty() {
            return Err(ApiError::NothingToSend { field: "message".to_owned() });
        }
        if text.chars().count() > MAX_TEXT_CHARS {
            return Err(ApiError::field_error("message", "is too long"));
        }
        let found = self.known(id).await?;
        let Found::Ours(message) = &found else {
            return Err(ApiError::NotPossible("only messages that waya sent can be edited"));
        };
        if !message.content.body.is_text() {
            return Err(ApiError::NotPossible("only texts can be edited"));
        }
        // What answered somebody answers them still.
        let content = model::Content { answers: message.content.answers, ..Body::Edit(found.key()).into() };
        self.deed(&found, text, content, source).await
    }

    /// Takes a message back for everybody. One that has not left yet is cancelled by `DELETE /api/queue/:id`.
    ///
    /// # Errors
    /// There is no such message.
    pub async fn revoke(&self, id: &str, source: Source) -> Result<SendAnswer, ApiError> {
        let found = self.known(id).await?;
        if let Found::Theirs(incoming) = &found
            && !incoming.from_me
            && !incoming.chat.as_str().ends_with("@g.us")
        {
            return Err(ApiError::NotPossible("messages of others can be taken back in groups only, by an admin"));
        }
        self.deed(&found, String::new(), Body::Revoke(found.key()).into(), source).await
    }

    /// Passes a message on.
    ///
    /// # Errors
    /// There is no such message, and whatever [`Api::send`] refuses.
    pub async fn forward(&self, id: &str, recipients: Vec<String>, source: Source) -> Result<SendAnswer, ApiError> {
        let (text, body) = match self.known(id).await? {
            Found::Ours(message) => passed_on(*message)?,
            Found::Theirs(incoming) => {
                let mut writer = self.0.media.writer_up_to(u64::MAX).map_err(unkept)?;
                writer.write(&incoming.raw).map_err(unkept)?;
                let stored = writer.finish().await.map_err(unkept)?;
                (String::new(), Body::Forward(Forward { hash: stored.hash, what: incoming.kind }))
            }
        };
        let message = What { text, ready: Some(body), ..What::default() };
        let content = Content::Many { recipients, message };
        self.send(SendRequest { content, priority: Priority::Normal, ..SendRequest::default() }, source).await
    }

    async fn known(&self, id: &str) -> Result<Found, ApiError> {
        let found = self.named(id).await?.ok_or_else(|| ApiError::NoSuchMessage(id.to_owned()))?;
        match &found {
            Found::Ours(message) if !message.claimed => {
                Err(ApiError::NotPossible("the message has not left yet; cancel it, or wait until it is sent"))
            }
            _ => Ok(found),
        }
    }

    /// Queues what is done to a message, before what else waits for its chat. Those who want no messages get it only
    /// where it takes something back, or has to do with what they wrote since.
    async fn deed(
        &self,
        found: &Found,
        text: String,
        content: model::Content,
        source: Source,
    ) -> Result<SendAnswer, ApiError> {
        let mut chat = found.chat().clone();
        if !content.takes_back(&text) && self.0.queue.opt_outs().refuses(&chat, content.answers).await? {
            ByPhone::new(&self.0.store).name(&mut chat).await;
            return Err(ApiError::RecipientOptedOut { field: "id".to_owned(), number: chat.number().to_owned() });
        }
        let lane = if content.is_started(&text) { Lane::High } else { Lane::Reply };
        let draft = Draft { chat: chat.clone(), text, lane, content, reference_id: None, source, not_before: None };
        let accepted = self.0.queue.enqueue(vec![draft], None).await?;
        let Accepted::Fresh(placed) = accepted else { return Err(ApiError::IdempotencyConflict) };
        let Some(placed) = placed.first().copied() else { return Err(ApiError::IdempotencyConflict) };
        Ok(answer_alone(Known { placed, chat, reference_id: None }))
    }
}

fn unkept(problem: crate::media::MediaError) -> ApiError {
    ApiError::InvalidMedia { field: "message".to_owned(), problem }
}

/// What of a message of ours goes again to somebody else.
fn passed_on(message: Message) -> Result<(String, Body), ApiError> {
    match message.content.body {
        Body::Reaction(_) | Body::Edit(_) | Body::Revoke(_) => {
            Err(ApiError::NotPossible("there is nothing in it to pass on"))
        }
        body => Ok((message.text, body)),
    }
}

/// Files that callers hand over before they name them.
impl Api {
    /// Where pieces of a file go; [`Api::kept`] follows.
    ///
    /// # Errors
    /// When the disk says no.
    pub fn take_file(&self) -> Result<crate::media::Writer, ApiError> {
        self.0.media.writer().map_err(|problem| ApiError::InvalidMedia { field: "media".to_owned(), problem })
    }

    /// The file is whole: how a request names it.
    ///
    /// # Errors
    /// When it is empty, and what the disk says.
    pub async fn kept(&self, field: &str, writer: crate::media::Writer) -> Result<(MediaHash, u64), ApiError> {
        let stored = writer.finish().await;
        let stored = stored.map_err(|problem| ApiError::InvalidMedia { field: field.to_owned(), problem })?;
        Ok((stored.hash, stored.size))
    }
}
