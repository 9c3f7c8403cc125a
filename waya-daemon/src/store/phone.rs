//! When anything was last heard of the account's phone: a mark among the values, of the account that is linked now.

use super::{KeyValues, MARKS, StoreError};
use crate::model::Timestamp;

const SEEN: &str = "phone.seen";

/// When it was heard of last, if it ever was.
///
/// # Errors
/// When the store cannot be read.
pub async fn seen(values: &dyn KeyValues) -> Result<Option<Timestamp>, StoreError> {
    let mark = values.get(MARKS, SEEN).await?;
    let millis = mark.and_then(|bytes| String::from_utf8(bytes).ok()?.parse().ok());
    Ok(millis.map(Timestamp::from_millis))
}

/// It was heard of then; an older word than the last changes nothing.
///
/// # Errors
/// When the store cannot be read or written.
pub async fn saw(values: &dyn KeyValues, at: Timestamp) -> Result<(), StoreError> {
    if seen(values).await?.is_some_and(|seen| seen >= at) {
        return Ok(());
    }
    values.put(MARKS, SEEN, Some(at.as_millis().to_string().into_bytes())).await
}

/// The account is linked no more: another one has another phone.
///
/// # Errors
/// When the store cannot be written.
pub async fn forget(values: &dyn KeyValues) -> Result<(), StoreError> {
    values.put(MARKS, SEEN, None).await
}
