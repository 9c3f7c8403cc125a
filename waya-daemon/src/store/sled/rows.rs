//! The handle that stands behind all the store's traits; one file a trait.

use std::sync::Arc;

use super::bodies::{BodyError, BodyHash};
use super::codec::{self, Bad, Payload};
use super::quarantine;
use super::records::MessageRecord;
use super::shared::Shared;
use super::trees::{Tree, message_key};
use crate::model::{Message, MessageId};
use crate::store::{Store, StoreError};

/// All the rows.
#[derive(Debug, Clone)]
pub struct Rows(pub(super) Arc<Shared>);

impl Rows {
    /// The handles of the contract.
    pub fn store(shared: &Arc<Shared>) -> Store {
        let rows = Arc::new(Self(Arc::clone(shared)));
        Store {
            outbox: Arc::clone(&rows) as _,
            journal: Arc::clone(&rows) as _,
            contacts: Arc::clone(&rows) as _,
            chats: Arc::clone(&rows) as _,
            values: Arc::clone(&rows) as _,
            webhooks: rows,
            health: shared.health.subscribe(),
        }
    }
}

/// A message whose text may lie in a body file.
#[derive(Debug)]
pub struct Stored {
    /// The message; its text is empty when it lies in a body file.
    pub message: Message,
    /// That file.
    pub body: Option<BodyHash>,
}

impl Stored {
    /// From a record.
    pub fn read(id: MessageId, record: &[u8]) -> Result<Self, Bad> {
        let payload = codec::unseal_inline(&message_key(id), record)?;
        let record = MessageRecord::read(payload)?;
        let body = record.body()?;
        Ok(Self { message: record.into_model(id)?, body })
    }

    /// To a record.
    pub fn write(&self) -> sled::IVec {
        let key = message_key(self.message.id);
        let mut record = MessageRecord::from_model(self.message.clone());
        if let Some(hash) = self.body {
            record.text_body = Some(hash.0.to_vec());
            record.text = String::new();
        }
        codec::seal(&key, &prost::Message::encode_to_vec(&record))
    }
}

impl Shared {
    /// Fetches the text if it lies in a body file. Blocks then.
    pub fn with_text(&self, stored: Stored, record: &[u8]) -> Result<Message, StoreError> {
        let Stored { mut message, body } = stored;
        if let Some(hash) = body {
            let text = self.body(hash, Tree::Messages, &message_key(message.id), record)?;
            message.text = String::from_utf8(text)
                .map_err(|_| self.set_aside(Tree::Messages, &message_key(message.id), record, &Bad::Content))?;
        }
        Ok(message)
    }

    /// The payload of a record, wherever it lies. Blocks when that is a body file.
    pub fn payload(&self, tree: Tree, key: &[u8], record: &[u8]) -> Result<Vec<u8>, StoreError> {
        match codec::unseal(key, record) {
            Ok(Payload::Inline(payload)) => Ok(payload.to_vec()),
            Ok(Payload::Body(hash)) => self.body(hash, tree, key, record),
            Err(bad) => Err(self.set_aside(tree, key, record, &bad)),
        }
    }

    /// The content of a body file that a record names. Blocks.
    pub fn body(&self, hash: BodyHash, tree: Tree, key: &[u8], record: &[u8]) -> Result<Vec<u8>, StoreError> {
        self.bodies.read(hash).map_err(|error| match error {
            BodyError::Io(error) => StoreError::Unavailable(error.to_string()),
            BodyError::Missing | BodyError::Changed => self.set_aside(tree, key, record, &error),
        })
    }

    /// A record cannot be read: it goes to the quarantine, and whoever asked is told.
    pub fn set_aside(&self, tree: Tree, key: &[u8], record: &[u8], why: &dyn std::fmt::Display) -> StoreError {
        tracing::error!(tree = tree.name(), key = ?sled::IVec::from(key), %why, "setting a damaged record aside");
        let (key, record) = (sled::IVec::from(key), sled::IVec::from(record));
        self.commit_unheard(move |group| quarantine::set_aside(group, tree, &key, &record));
        StoreError::Damaged(format!("a record of {}: {why}", tree.name()))
    }
}
