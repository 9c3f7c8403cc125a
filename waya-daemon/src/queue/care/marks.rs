//! Small facts of the queue that outlive the process, as JSON in the store's marks.

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::queue::MARKS;
use crate::queue::ledger::Ledger;

/// How far WhatsApp's refusal of messages to strangers has got.
pub const COLD_CONTACT: &str = "queue.cold_contact";
/// How many messages left on which day.
pub const USED: &str = "queue.used";
/// Which account is linked, and since when.
pub const LINKED: &str = "queue.linked";

/// What was written; nothing when it was not, or cannot be read.
pub async fn read<T: DeserializeOwned>(ledger: &Ledger, name: &str) -> Option<T> {
    let bytes = loop {
        match ledger.store.values.get(MARKS, name).await {
            Ok(bytes) => break bytes?,
            Err(crate::store::StoreError::Damaged(_)) => return None,
            Err(error) => ledger.wait(&error).await,
        }
    };
    serde_json::from_slice(&bytes).ok()
}

/// Writes it, or removes it; however long the store takes to do it.
pub async fn write<T: Serialize + Sync>(ledger: &Ledger, name: &str, value: Option<&T>) {
    let bytes = value.and_then(|value| serde_json::to_vec(value).ok());
    while let Err(error) = ledger.store.values.put(MARKS, name, bytes.clone()).await {
        ledger.wait(&error).await;
    }
}
