//! Care for the account as callers see and steer it: what would fit today, and who wants no more messages.

use super::view::{FitsView, HeldView, OptOutView, OptOutsView};
use super::{Api, ApiError, RecipientProblem};
use crate::model::{ChatId, ChatKind, Lane, Recipient, Timestamp};
use crate::queue::{By, Draft, OptOut};

impl Api {
    /// When these would leave, were they accepted now.
    pub(super) async fn fits(&self, drafts: &[Draft], not_before: Option<Timestamp>) -> Result<FitsView, ApiError> {
        let (mut today, mut later, mut cold_contact, mut last) = (0, 0, 0, Vec::new());
        for lane in Lane::ALL {
            let of_lane = drafts.iter().filter(|draft| draft.lane == lane);
            let chats: Vec<ChatId> = of_lane.map(|draft| draft.chat.clone()).collect();
            if chats.is_empty() {
                continue;
            }
            let fits = self.0.queue.fits(&chats, lane, not_before).await?;
            today += fits.today;
            later += fits.later;
            cold_contact += fits.strangers;
            last.push(fits.last_leaves_at);
        }
        // Unless it is known of all of them, nobody knows.
        let last_leaves_at = last.into_iter().collect::<Option<Vec<_>>>().and_then(|last| last.into_iter().max());
        Ok(FitsView { today, later, last_leaves_at, held: HeldView { cold_contact } })
    }

    /// Everybody who wants no more messages, the newest first.
    #[must_use]
    pub fn opt_outs(&self) -> OptOutsView {
        OptOutsView { opt_outs: self.0.queue.opt_outs().list().into_iter().map(OptOutView::from).collect() }
    }

    /// Puts somebody on the do-not-send list; what waits for them is given up.
    ///
    /// # Errors
    /// It names no person, or the store.
    pub async fn opt_out(&self, number: &str) -> Result<OptOutView, ApiError> {
        let (chat, at) = (self.listed(number).await?, self.0.clock.now());
        self.0.queue.opt_outs().said(&chat, true, at, By::Hand, false).await?;
        self.0.queue.on_opted_out(chat.clone());
        Ok(OptOut { chat, at, by: By::Hand }.into())
    }

    /// Takes somebody off it.
    ///
    /// # Errors
    /// Nobody of that address is on it, or the store.
    pub async fn opt_in(&self, number: &str) -> Result<(), ApiError> {
        let chat = self.listed(number).await?;
        let list = self.0.queue.opt_outs();
        if !list.has(&chat).await? {
            return Err(ApiError::NotOptedOut(chat.number().to_owned()));
        }
        list.said(&chat, false, self.0.clock.now(), By::Hand, false).await?;
        Ok(())
    }

    /// A person as users write one, by phone when that is known.
    async fn listed(&self, written: &str) -> Result<ChatId, ApiError> {
        let wrong = |problem| ApiError::InvalidRecipient { field: "number".to_owned(), problem };
        let country = self.0.settings.now().default_country.clone();
        let recipient = Recipient::parse(written, country.as_deref()).map_err(|error| wrong(error.into()))?;
        let chat = match recipient {
            Recipient::Chat(chat) => chat,
            Recipient::Main => {
                let main = self.0.settings.now().main_number.clone();
                main.ok_or_else(|| wrong(RecipientProblem::NoMainNumber))?
            }
            Recipient::Category(name) => return Err(wrong(RecipientProblem::Category(name))),
        };
        if !chat.is_person() {
            return Err(ApiError::field_error("number", "must name a person; a group cannot opt out"));
        }
        let contact = match chat.kind() {
            ChatKind::Lid => self.0.store.contacts.by_lid(chat.user()).await?,
            _ => None,
        };
        Ok(contact.and_then(|contact| contact.phone).map_or(chat, |phone| ChatId::phone(&phone)))
    }
}
