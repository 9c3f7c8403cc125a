//! From recipients as written to chats that may be written to.

use std::collections::HashSet;

use super::compose::What;
use super::send::{Content, MAX_RECIPIENTS};
use super::{Api, ApiError, RecipientProblem};
use crate::model::{ChatId, ChatKind, MAX_REFERENCE_CHARS, Recipient};
use crate::settings::{AllowList, Snapshot};

/// One recipient of something.
#[derive(Clone)]
pub(super) struct Target {
    /// The recipient as written.
    pub written: String,
    /// Where it goes.
    pub chat: ChatId,
    /// `main` passes any allow-list.
    pub is_main: bool,
    /// Which of the request's contents it gets.
    pub content: usize,
    /// The caller's own id.
    pub reference_id: Option<String>,
}

/// The form a request had, for naming its fields in refusals.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Form {
    /// `number`.
    One,
    /// `recipients`.
    Many,
    /// `messages`.
    Each,
}

impl Form {
    fn recipient(self, index: usize) -> String {
        match self {
            Self::One => "number".to_owned(),
            Self::Many => format!("recipients[{index}]"),
            Self::Each => format!("messages[{index}].number"),
        }
    }

    pub(super) fn each_or(self, index: usize, field: &str) -> String {
        if self == Self::Each { format!("messages[{index}].{field}") } else { field.to_owned() }
    }
}

impl Api {
    /// Checks the form of everything and finds the chats, in the order of the request.
    pub(super) fn resolve(
        &self,
        content: Content,
        reference_id: Option<String>,
    ) -> Result<(Form, Vec<Target>, Vec<What>), ApiError> {
        let settings = self.0.settings.now();
        check_reference(|| "reference_id".to_owned(), reference_id.as_deref())?;
        match content {
            Content::One { number, message } => {
                message.check(Form::One, 0)?;
                Ok((Form::One, vec![target(&settings, Form::One, 0, number, reference_id)?], vec![message]))
            }
            Content::Many { recipients, message } => {
                check_count("recipients", recipients.len())?;
                message.check(Form::Many, 0)?;
                check_size(recipients.len().saturating_mul(message.text.len()))?;
                let target = |(index, number)| {
                    let target = target(&settings, Form::Many, index, number, reference_id.clone())?;
                    Ok(Target { content: 0, ..target })
                };
                let targets = recipients.into_iter().enumerate().map(target).collect::<Result<_, ApiError>>()?;
                Ok((Form::Many, targets, vec![message]))
            }
            Content::Each(messages) => {
                check_count("messages", messages.len())?;
                check_size(messages.iter().map(|one| one.message.text.len()).sum())?;
                let mut contents = Vec::with_capacity(messages.len());
                let mut targets = Vec::with_capacity(messages.len());
                for (index, one) in messages.into_iter().enumerate() {
                    one.message.check(Form::Each, index)?;
                    check_reference(|| Form::Each.each_or(index, "reference_id"), one.reference_id.as_deref())?;
                    let reference_id = one.reference_id.or_else(|| reference_id.clone());
                    targets.push(target(&settings, Form::Each, index, one.number, reference_id)?);
                    contents.push(one.message);
                }
                Ok((Form::Each, targets, contents))
            }
        }
    }

    /// No message goes to a group that this account is not in. Without a connection that is found out when it leaves.
    pub(super) async fn check_groups(&self, form: Form, targets: &[Target]) -> Result<(), ApiError> {
        let mut asked = HashSet::new();
        for (index, target) in targets.iter().enumerate() {
            if target.chat.kind() != ChatKind::Group || !asked.insert(&target.chat) {
                continue;
            }
            if self.0.whatsapp.is_in_group(&target.chat).await == Some(false) {
                let problem = RecipientProblem::NotInGroup(target.chat.clone());
                return Err(ApiError::InvalidRecipient { field: form.recipient(index), problem });
            }
        }
        Ok(())
    }

    /// A person named by LID is the same contact as their phone number, when that is known.
    pub(super) async fn prefer_phones(&self, targets: &mut [Target]) -> Result<(), ApiError> {
        for target in targets.iter_mut().filter(|target| target.chat.kind() == ChatKind::Lid) {
            let contact = self.0.store.contacts.by_lid(target.chat.user()).await?;
            if let Some(phone) = contact.and_then(|contact| contact.phone) {
                target.chat = ChatId::phone(&phone);
            }
        }
        Ok(())
    }

    /// Holds the do-not-send list, for `main` too. Answers to what somebody on it wrote since pass.
    pub(super) async fn respect_opt_outs(
        &self,
        form: Form,
        targets: &[Target],
        contents: &[What],
    ) -> Result<(), ApiError> {
        let opt_outs = self.0.queue.opt_outs();
        for (index, target) in targets.iter().enumerate() {
            let (what, content) = (&contents[target.content], target.content);
            if what.takes_back() || !opt_outs.has(&target.chat).await? {
                continue;
            }
            let answers = self.answered(&|name| form.each_or(content, name), what, &target.chat).await?;
            if opt_outs.refuses(&target.chat, answers).await? {
                let number = target.chat.number().to_owned();
                return Err(ApiError::RecipientOptedOut { field: form.recipient(index), number });
            }
        }
        Ok(())
    }

    /// Holds the allow-list; `main` always passes.
    pub(super) fn admit(&self, form: Form, targets: &[Target]) -> Result<(), ApiError> {
        let settings = self.0.settings.now();
        if settings.allowed == AllowList::Anyone {
            return Ok(());
        }
        match targets.iter().position(|target| !target.is_main && !settings.allowed.allows(&target.chat)) {
            None => Ok(()),
            Some(index) => Err(ApiError::RecipientNotAllowed {
                field: form.recipient(index),
                number: targets[index].chat.number().to_owned(),
            }),
        }
    }
}

fn target(
    settings: &Snapshot,
    form: Form,
    index: usize,
    written: String,
    reference_id: Option<String>,
) -> Result<Target, ApiError> {
    let wrong = |problem: RecipientProblem| ApiError::InvalidRecipient { field: form.recipient(index), problem };
    if written.len() > MAX_WRITTEN {
        return Err(wrong(RecipientProblem::TooLong(written.len())));
    }
    let recipient = Recipient::parse(&written, settings.default_country.as_deref()).map_err(|e| wrong(e.into()))?;
    let (chat, is_main) = match recipient {
        Recipient::Chat(chat) => (chat, false),
        Recipient::Main => (settings.main_number.clone().ok_or_else(|| wrong(RecipientProblem::NoMainNumber))?, true),
        Recipient::Category(name) => return Err(wrong(RecipientProblem::Category(name))),
    };
    Ok(Target { written, chat, is_main, content: index, reference_id })
}

/// No spelling of a recipient is longer, in bytes.
const MAX_WRITTEN: usize = 256;

fn check_count(field: &'static str, count: usize) -> Result<(), ApiError> {
    match count {
        0 => Err(ApiError::field_error(field, "is empty; give at least one")),
        1..=MAX_RECIPIENTS => Ok(()),
        _ => Err(ApiError::field_error(
            field,
            format!("has {count} entries, at most {MAX_RECIPIENTS} fit; split the request into several"),
        )),
    }
}

/// The most bytes of text that one request may put into the queue, counted once for each recipient.
const MAX_TOTAL_BYTES: usize = 64 << 20;

fn check_size(bytes: usize) -> Result<(), ApiError> {
    if bytes <= MAX_TOTAL_BYTES {
        return Ok(());
    }
    let mebibytes = bytes >> 20;
    Err(ApiError::TooLarge(format!(
        "the texts of this request are {mebibytes} MiB in all, at most 64 MiB fit; split it into several"
    )))
}

fn check_reference(field: impl Fn() -> String, reference: Option<&str>) -> Result<(), ApiError> {
    let Some(reference) = reference else { return Ok(()) };
    if reference.is_empty() {
        return Err(ApiError::field_error(field(), "is empty; leave it out or give 1 to 128 characters"));
    }
    if reference.chars().count() > MAX_REFERENCE_CHARS {
        return Err(ApiError::field_error(field(), format!("is longer than {MAX_REFERENCE_CHARS} characters")));
    }
    if reference.chars().any(char::is_control) {
        return Err(ApiError::field_error(field(), "has control characters; use printable ones"));
    }
    Ok(())
}
