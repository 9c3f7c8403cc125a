//! Who wants no more messages that we start: the do-not-send list.
//!
//! Owns the namespace `opt_outs` of the store and a copy of it in memory. A person is on it by phone and by LID, under
//! whichever was known. Being taken off is written down too, with its time, so that a word that WhatsApp delivers again
//! later does not undo it. Nothing wakes it; it never looks at messages, only at when those were sent that they answer.

use std::collections::HashMap;
use std::sync::{Arc, PoisonError, RwLock};

use serde::{Deserialize, Serialize};

use crate::model::{ChatId, ChatKind, Timestamp};
use crate::store::{Store, StoreError};

/// Where the store keeps it, a row a person.
const NAMESPACE: &str = "opt_outs";

/// What a user reads of a message that did not leave because of it.
pub const OPTED_OUT: &str =
    "recipient_opted_out: the recipient asked for no more messages; `waya opt-outs remove` takes that back";

/// The last word of a person.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
struct Word {
    /// No more messages.
    out: bool,
    at: Timestamp,
    by: By,
}

/// Whose word it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum By {
    /// The person's own.
    Person,
    /// An administrator's.
    Hand,
}

impl By {
    /// The word of the contract.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Person => "person",
            Self::Hand => "hand",
        }
    }
}

/// Somebody who wants no more messages.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OptOut {
    /// Who.
    pub chat: ChatId,
    /// Since when.
    pub at: Timestamp,
    /// Whose word that was.
    pub by: By,
}

/// A cheap handle to the list.
#[derive(Debug, Clone)]
pub struct OptOuts(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    store: Store,
    words: RwLock<HashMap<ChatId, Word>>,
    /// One change at a time, so that memory and disk agree.
    writing: tokio::sync::Mutex<()>,
}

impl OptOuts {
    /// Reads the list.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub async fn open(store: Store) -> Result<Self, StoreError> {
        let mut words = HashMap::new();
        for (chat, word) in store.values.all(NAMESPACE).await? {
            if let (Ok(chat), Ok(word)) = (chat.parse::<ChatId>(), serde_json::from_slice(&word)) {
                words.insert(chat, word);
            } else {
                // Without the address: it is somebody's number.
                tracing::warn!("an entry of the do-not-send list cannot be read; it is left out");
            }
        }
        Ok(Self(Arc::new(Inner { store, words: RwLock::new(words), writing: tokio::sync::Mutex::default() })))
    }

    /// Everybody on it, the newest first.
    #[must_use]
    pub fn list(&self) -> Vec<OptOut> {
        let words = self.0.words.read().unwrap_or_else(PoisonError::into_inner);
        let out = words.iter().filter(|(_, word)| word.out);
        let mut list: Vec<_> =
            out.map(|(chat, word)| OptOut { chat: chat.clone(), at: word.at, by: word.by }).collect();
        list.sort_by(|a, b| b.at.cmp(&a.at).then_with(|| a.chat.cmp(&b.chat)));
        list
    }

    /// Whether this person is on it, by either address.
    ///
    /// # Errors
    /// When the store cannot say who is who.
    pub async fn has(&self, chat: &ChatId) -> Result<bool, StoreError> {
        self.refuses(chat, None).await
    }

    /// Whether this person wants nothing of the kind: is on the list, and has written nothing since that it answers.
    /// `answers`: when the message was sent that it answers.
    ///
    /// # Errors
    /// When the store cannot say who is who.
    pub async fn refuses(&self, chat: &ChatId, answers: Option<Timestamp>) -> Result<bool, StoreError> {
        if !chat.is_person() || self.0.words.read().unwrap_or_else(PoisonError::into_inner).is_empty() {
            return Ok(false);
        }
        // The word to stop itself is not later than itself.
        Ok(self.word(chat).await?.is_some_and(|word| word.out && answers.is_none_or(|at| at <= word.at)))
    }

    /// Writes a word down unless a later one is known; whether anything changed. With `repeated`, WhatsApp may have
    /// delivered it before: then a known one of the same second is the later one.
    ///
    /// # Errors
    /// When the store does not take it; then nothing changed.
    pub async fn said(
        &self,
        chat: &ChatId,
        out: bool,
        at: Timestamp,
        by: By,
        repeated: bool,
    ) -> Result<bool, StoreError> {
        let _alone = self.0.writing.lock().await;
        let word = Word { out, at, by };
        match self.word(chat).await? {
            Some(known) if known.at > at || (known.at == at && repeated) => return Ok(false),
            // Said once more, a word to stop counts from then on: what it follows is no question to answer.
            Some(known) if known.out == out && !out && by == By::Person => return Ok(false),
            None if !out => return Ok(false),
            _ => {}
        }
        let bytes = serde_json::to_vec(&word).map_err(|error| StoreError::Unavailable(error.to_string()))?;
        let addresses = self.addresses(chat).await?;
        let name = addresses.iter().find(|address| address.kind() == ChatKind::Phone).unwrap_or(chat);
        self.0.store.values.put(NAMESPACE, name.as_str(), Some(bytes)).await?;
        self.0.words.write().unwrap_or_else(PoisonError::into_inner).insert(name.clone(), word);
        // An earlier word may stand under the other address; should it stay there, the later one counts.
        for other in addresses.iter().filter(|address| *address != name) {
            if self.knows(other) {
                self.0.store.values.put(NAMESPACE, other.as_str(), None).await?;
                self.0.words.write().unwrap_or_else(PoisonError::into_inner).remove(other);
            }
        }
        Ok(true)
    }

    fn knows(&self, chat: &ChatId) -> bool {
        self.0.words.read().unwrap_or_else(PoisonError::into_inner).contains_key(chat)
    }

    /// The last word of a person, under whichever address it was written.
    async fn word(&self, chat: &ChatId) -> Result<Option<Word>, StoreError> {
        let by_lid_only = {
            let words = self.0.words.read().unwrap_or_else(PoisonError::into_inner);
            if let (Some(word), ChatKind::Phone) = (words.get(chat), chat.kind()) {
                return Ok(Some(*word));
            }
            words.keys().any(|known| known.kind() == ChatKind::Lid)
        };
        // Nobody is there by LID: a phone that is not there is not on the list, and no question need be asked.
        if !by_lid_only && chat.kind() == ChatKind::Phone {
            return Ok(None);
        }
        let addresses = self.addresses(chat).await?;
        let words = self.0.words.read().unwrap_or_else(PoisonError::into_inner);
        Ok(addresses.iter().filter_map(|address| words.get(address)).copied().max_by_key(|word| word.at))
    }

    /// Both addresses of a person, as far as they are known.
    async fn addresses(&self, chat: &ChatId) -> Result<Vec<ChatId>, StoreError> {
        let contacts = &self.0.store.contacts;
        let contact = match chat.kind() {
            ChatKind::Lid => contacts.by_lid(chat.user()).await?,
            _ => contacts.by_phone(chat.user()).await?,
        };
        let contact = contact.unwrap_or_default();
        let known = [contact.phone.map(|phone| ChatId::phone(&phone)), contact.lid.map(|lid| ChatId::lid(&lid))];
        let mut addresses = vec![chat.clone()];
        addresses.extend(known.into_iter().flatten().filter(|address| address != chat));
        Ok(addresses)
    }
}
