//! One attempt to tell one thing. Everything it needs is read anew, so that waiting takes no memory.

use std::sync::Arc;
use std::time::Duration;

use super::Parts;
use super::envelope::{self, Envelope};
use super::poster::{Post, PostError};
use crate::model::{Notice, Secret, Timestamp, Webhook};
use crate::store::webhooks::Delivery;

/// The receiver wants no more of it.
const GONE: u16 = 410;

/// How an attempt went.
#[derive(Debug)]
pub(super) struct Attempt {
    pub(super) notice: Notice,
    pub(super) outcome: Outcome,
    /// For the log of deliveries, when something was posted.
    pub(super) delivery: Option<Delivery>,
}

#[derive(Debug)]
pub(super) enum Outcome {
    /// It was taken.
    Told,
    /// The journal does not have it any more.
    Gone,
    /// It was not taken.
    Refused { reason: String, for_good: bool },
}

/// Reads the event, posts it, and says what came of it.
pub(super) async fn carry_out(parts: Arc<Parts>, webhook: Webhook, notice: Notice, number: u32) -> Attempt {
    let later =
        |reason: String| Attempt { notice, outcome: Outcome::Refused { reason, for_good: false }, delivery: None };
    let event = match parts.event(notice.cursor).await {
        Ok(Some(event)) => event,
        Ok(None) => return Attempt { notice, outcome: Outcome::Gone, delivery: None },
        Err(error) => return later(error.to_string()),
    };
    let at = event.at;
    let payload = match parts.render.payload(notice.topic, event).await {
        Ok(payload) => payload,
        Err(error) => return later(error.to_string()),
    };
    let id = parts.names.name(notice);
    let word = notice.topic.as_str();
    let envelope =
        Envelope { id: &id, timestamp: at, event: word, session: &parts.session_name, me: parts.account(), payload };
    let mut delivery = post(&parts, &webhook.url, &envelope, Some(&webhook.secret)).await;
    delivery.attempt = number;
    let outcome = match &delivery.error {
        None => Outcome::Told,
        Some(reason) => Outcome::Refused { reason: reason.clone(), for_good: delivery.status == Some(GONE) },
    };
    Attempt { notice, outcome, delivery: Some(delivery) }
}

/// Posts an envelope; how that went.
pub(super) async fn post(parts: &Parts, url: &str, envelope: &Envelope<'_>, secret: Option<&Secret>) -> Delivery {
    let body = envelope.bytes();
    let begun: Timestamp = parts.clock.now();
    let headers = envelope::headers(envelope.id, begun, &body, secret);
    let timer = tokio::time::Instant::now();
    let answer = parts.poster.post(Post { url: url.to_owned(), headers, body }).await;
    let took: Duration = timer.elapsed();
    let (status, error) = verdict(&answer);
    Delivery {
        at: parts.clock.now(),
        event_id: envelope.id.to_owned(),
        event: envelope.event.to_owned(),
        attempt: 1,
        millis: u64::try_from(took.as_millis()).unwrap_or(u64::MAX),
        status,
        error,
    }
}

/// Any 2xx is a yes.
fn verdict(answer: &Result<u16, PostError>) -> (Option<u16>, Option<String>) {
    match answer {
        Ok(status @ 200..=299) => (Some(*status), None),
        Ok(status @ 300..=399) => (Some(*status), Some(format!("it answered {status}: redirects are not followed"))),
        Ok(status) => (Some(*status), Some(format!("it answered {status}"))),
        Err(PostError(reason)) => (None, Some(reason.clone())),
    }
}
