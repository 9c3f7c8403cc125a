//! Small named values.

use async_trait::async_trait;
use sled::IVec;

use super::codec::{self, MAX_PAYLOAD};
use super::group::Group;
use super::rows::Rows;
use super::trees::{Tree, value_key, value_prefix};
use crate::store::{KeyValues, StoreError};

#[async_trait]
impl KeyValues for Rows {
    async fn all(&self, namespace: &str) -> Result<Vec<(String, Vec<u8>)>, StoreError> {
        let prefix = value_prefix(namespace);
        let read = move |shared: &super::shared::Shared, engine: &super::engine::Engine| {
            let mut found = Vec::new();
            for row in engine.tree(Tree::Values).scan_prefix(&prefix) {
                let (key, record) = row?;
                let Ok(name) = std::str::from_utf8(&key[prefix.len()..]) else { continue };
                match shared.payload(Tree::Values, &key, &record) {
                    Ok(value) => found.push((name.to_owned(), value)),
                    Err(StoreError::Damaged(_)) => {}
                    Err(error) => return Err(error.into()),
                }
            }
            Ok(found)
        };
        self.0.read_many(read).await
    }

    async fn get(&self, namespace: &str, key: &str) -> Result<Option<Vec<u8>>, StoreError> {
        let key = value_key(namespace, key);
        let Some(record) = self.0.read(|engine| Ok(engine.tree(Tree::Values).get(&key)?))? else { return Ok(None) };
        match codec::unseal(&key, &record) {
            Ok(codec::Payload::Inline(value)) => Ok(Some(value.to_vec())),
            _ => self.0.read_many(move |shared, _| Ok(shared.payload(Tree::Values, &key, &record)?)).await.map(Some),
        }
    }

    async fn put(&self, namespace: &str, key: &str, value: Option<Vec<u8>>) -> Result<(), StoreError> {
        let key = value_key(namespace, key);
        let Some(value) = value else {
            return self.0.commit(move |group| replace(group, key, None)).await;
        };
        if value.len() <= MAX_PAYLOAD {
            let record = codec::seal(&key, &value);
            return self.0.commit(move |group| replace(group, key, Some(record))).await;
        }
        let pin = self.0.store_bodies(vec![value]).await?.pop().ok_or_else(|| self.0.unavailable())?;
        let record = codec::seal_body(&key, pin.hash());
        let work = move |group: &mut Group<'_>| {
            group.name_body(pin, 1)?;
            replace(group, key, Some(record))
        };
        self.0.commit(work).await
    }
}

/// In the committer.
fn replace(group: &mut Group<'_>, key: IVec, record: Option<IVec>) -> Result<(), StoreError> {
    let old = group.get(Tree::Values, &key)?;
    if let Some(old) = &old {
        group.unname_payload(&key, old)?;
    }
    match (old.is_some(), record) {
        (false, None) => Ok(()),
        (true, None) => {
            group.remove(Tree::Values, key);
            Ok(())
        }
        (false, Some(record)) => group.insert(Tree::Values, key, record),
        (true, Some(record)) => group.update(Tree::Values, key, record),
    }
}
