//! Accepting messages: everything is checked first, then all of it is queued, or nothing.

use std::collections::HashSet;

use super::compose::{Prepared, What};
use super::idempotency::{self, MAX_KEY_CHARS, key_hash};
use super::recipients::{Form, Target};
use super::view::{AcceptedView, SendAnswer};
use super::{Api, ApiError};
use crate::model::{Lane, Source, Status, Timestamp};
use crate::queue::{Accepted, Draft, Known, Placed};
use crate::store::{Enqueued, Idempotency};

/// The most recipients of one request.
pub const MAX_RECIPIENTS: usize = 10_000;

/// A request to send.
#[derive(Debug, Clone, Default)]
pub struct SendRequest {
    /// To whom, and what.
    pub content: Content,
    /// The caller's own id; with [`Content::Each`] for those that bring none.
    pub reference_id: Option<String>,
    /// Which lane it waits in.
    pub priority: Priority,
    /// Not before this time.
    pub scheduled_at: Option<Timestamp>,
    /// Makes repeats of this request harmless.
    pub idempotency: Option<IdempotencyKey>,
    /// Check everything, queue nothing.
    pub dry_run: bool,
    /// [`super::ApiKey::identity`] of the API key that the request came with, where there is one.
    pub api_key: Option<[u8; 32]>,
}

/// To whom, and what.
#[derive(Clone)]
pub enum Content {
    /// One recipient.
    One {
        /// The recipient as written.
        number: String,
        /// What it gets.
        message: What,
    },
    /// The same for several; repeats are sent once.
    Many {
        /// The recipients as written.
        recipients: Vec<String>,
        /// What they get.
        message: What,
    },
    /// Something of its own for each.
    Each(Vec<PersonalMessage>),
}

/// One of several messages, each with its own content.
#[derive(Clone)]
pub struct PersonalMessage {
    /// The recipient as written.
    pub number: String,
    /// What it gets.
    pub message: What,
    /// The caller's own id.
    pub reference_id: Option<String>,
}

/// How urgent a message is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Priority {
    /// Before the others.
    High,
    /// In order.
    #[default]
    Normal,
    /// After the others.
    Low,
}

impl Priority {
    /// From the contract's word.
    #[must_use]
    pub fn from_word(word: &str) -> Option<Self> {
        match word {
            "high" => Some(Self::High),
            "normal" => Some(Self::Normal),
            "low" => Some(Self::Low),
            _ => None,
        }
    }

    const fn lane(self) -> Lane {
        match self {
            Self::High => Lane::High,
            Self::Normal => Lane::Normal,
            Self::Low => Lane::Low,
        }
    }
}

/// The caller's key, and what its request was.
#[derive(Debug, Clone)]
pub struct IdempotencyKey {
    /// The key as the caller chose it.
    pub key: String,
    /// [`super::body_hash`] of the request as it came.
    pub body: [u8; 32],
}

impl Default for Content {
    fn default() -> Self {
        Self::Each(Vec::new())
    }
}

/// Without texts and numbers, because debug output reaches logs.
impl std::fmt::Debug for Content {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (kind, messages) = match self {
            Self::One { .. } => ("One", 1),
            Self::Many { recipients, .. } => ("Many", recipients.len()),
            Self::Each(messages) => ("Each", messages.len()),
        };
        f.debug_tuple(kind).field(&messages).finish()
    }
}

impl Api {
    /// Checks the whole request, queues all of it in one transaction and answers once it is on disk. It does not
    /// matter whether WhatsApp is connected; whether this account is in a group is then found out when the message
    /// leaves.
    ///
    /// # Errors
    /// One bad recipient, text or field refuses the whole request; so do a used idempotency key and the store.
    pub async fn send(&self, request: SendRequest, source: Source) -> Result<SendAnswer, ApiError> {
        let api_key = request.api_key.as_ref();
        let idempotency =
            request.idempotency.as_ref().map(|given| self.idempotency(given, source, api_key)).transpose()?;
        if let Some(asked) = idempotency.as_ref().filter(|_| !request.dry_run) {
            match self.0.store.outbox.known(asked).await? {
                // Whatever has changed since: a repeat is not asked for anything.
                Some(Enqueued::Repeat(known)) => return self.again(request, known).await,
                Some(Enqueued::Conflict) => return Err(ApiError::IdempotencyConflict),
                Some(Enqueued::Fresh) | None => {}
            }
        }
        let (form, mut targets, contents) = self.resolve(request.content, request.reference_id)?;
        self.prefer_phones(&mut targets).await?;
        self.admit(form, &targets)?;
        self.respect_opt_outs(form, &targets, &contents).await?;
        self.check_groups(form, &targets).await?;
        let duplicates = if form == Form::Many { sift(&mut targets) } else { Vec::new() };
        let contents = self.prepare(form, contents, &targets).await?;
        check_rows(form, &targets, &contents)?;
        let rows = targets
            .into_iter()
            .flat_map(|target| contents[target.content].iter().map(move |one| (target.clone(), one)));
        let (lane, not_before) = (request.priority.lane(), request.scheduled_at);
        let (targets, drafts): (Vec<Target>, Vec<Draft>) = rows
            .map(|(target, one)| {
                let draft = Draft {
                    chat: target.chat.clone(),
                    text: one.text.clone(),
                    content: one.content.clone(),
                    reference_id: target.reference_id.clone(),
                    lane: if one.content.is_started(&one.text) { lane } else { Lane::Reply },
                    source,
                    not_before,
                };
                (target, draft)
            })
            .unzip();
        if request.dry_run {
            let fits = self.fits(&drafts, not_before).await?;
            let messages = targets.into_iter().map(|target| accepted(target, None)).collect();
            return Ok(SendAnswer { dry_run: true, fits: Some(fits), ..answer(messages, duplicates) });
        }
        let messages = match self.0.queue.enqueue(drafts, idempotency).await? {
            Accepted::Fresh(placed) => {
                targets.into_iter().zip(placed).map(|(target, placed)| accepted(target, Some(placed))).collect()
            }
            Accepted::Repeat(known) => accepted_before(known),
            Accepted::Conflict => return Err(ApiError::IdempotencyConflict),
        };
        Ok(answer(messages, duplicates))
    }

    /// The answer to a repeat of a request that was accepted as `known`.
    async fn again(&self, request: SendRequest, known: Vec<Known>) -> Result<SendAnswer, ApiError> {
        let messages = accepted_before(known);
        let duplicates = match self.resolve(request.content, request.reference_id) {
            Ok((Form::Many, mut targets, _)) => {
                self.prefer_phones(&mut targets).await?;
                sift(&mut targets)
            }
            // What makes a recipient may have changed; what was queued then has not.
            Ok(_) | Err(_) => Vec::new(),
        };
        Ok(answer(messages, duplicates))
    }

    fn idempotency(
        &self,
        given: &IdempotencyKey,
        source: Source,
        api_key: Option<&[u8; 32]>,
    ) -> Result<Idempotency, ApiError> {
        let chars = given.key.chars().count();
        if chars == 0 || chars > MAX_KEY_CHARS {
            let problem = format!("has {chars} characters; 1 to {MAX_KEY_CHARS} fit");
            return Err(ApiError::field_error("idempotency_key", problem));
        }
        Ok(Idempotency {
            key: key_hash(source, api_key, &given.key),
            body: given.body,
            at: self.0.clock.now(),
            keep: idempotency::KEEP,
            positions: Vec::new(),
        })
    }
}

/// The answer to one message that is no recipient's share of a request.
pub(super) fn answer_alone(message: Known) -> SendAnswer {
    answer(accepted_before(vec![message]), Vec::new())
}

/// The first answer again, whatever became of the rows: what was accepted then was pending then.
fn accepted_before(known: Vec<Known>) -> Vec<AcceptedView> {
    let view = |Known { placed: Placed { id, position }, chat, reference_id }| AcceptedView {
        id: Some(id),
        reference_id,
        number: chat.number().to_owned(),
        chat_id: chat,
        status: Status::Pending,
        position,
    };
    known.into_iter().map(view).collect()
}

/// The most messages of one request: recipients times files.
const MAX_ROWS: usize = 20_000;

fn check_rows(form: Form, targets: &[Target], contents: &[Vec<Prepared>]) -> Result<(), ApiError> {
    let rows: usize = targets.iter().map(|target| contents[target.content].len()).sum();
    if rows <= MAX_ROWS {
        return Ok(());
    }
    let problem = format!("makes {rows} messages, at most {MAX_ROWS} fit; split the request into several");
    Err(ApiError::field_error(if form == Form::Each { "messages" } else { "media" }, problem))
}

fn answer(messages: Vec<AcceptedView>, duplicates: Vec<String>) -> SendAnswer {
    let first = messages.first();
    SendAnswer {
        success: true,
        id: first.and_then(|first| first.id),
        reference_id: first.and_then(|first| first.reference_id.clone()),
        status: Status::Pending,
        dry_run: false,
        messages,
        duplicates,
        fits: None,
    }
}

fn accepted(target: Target, placed: Option<Placed>) -> AcceptedView {
    AcceptedView {
        id: placed.as_ref().map(|placed| placed.id),
        reference_id: target.reference_id,
        number: target.chat.number().to_owned(),
        chat_id: target.chat,
        status: Status::Pending,
        position: placed.map_or(0, |placed| placed.position),
    }
}

/// Leaves each chat in once, the first time; the others as they were written.
fn sift(targets: &mut Vec<Target>) -> Vec<String> {
    if targets.len() < 2 {
        return Vec::new();
    }
    let mut seen = HashSet::with_capacity(targets.len());
    let mut duplicates = Vec::new();
    targets.retain_mut(|target| {
        let fresh = seen.insert(target.chat.clone());
        if !fresh {
            duplicates.push(std::mem::take(&mut target.written));
        }
        fresh
    });
    duplicates
}
