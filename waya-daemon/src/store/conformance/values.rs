//! What the named values must do.

use crate::store::Store;

async fn put(store: &Store, namespace: &str, key: &str, value: Option<&[u8]>) {
    store.values.put(namespace, key, value.map(<[u8]>::to_vec)).await.unwrap();
}

pub async fn values_are_set_replaced_and_removed(store: &Store) {
    put(store, "settings", "a", None).await;
    assert_eq!(store.values.get("settings", "a").await, Ok(None));
    put(store, "settings", "a", Some(b"1")).await;
    put(store, "settings", "a", Some(b"2")).await;
    put(store, "settings", "b", Some(b"")).await;
    assert_eq!(store.values.get("settings", "a").await, Ok(Some(b"2".to_vec())));
    let all = vec![("a".to_owned(), b"2".to_vec()), ("b".to_owned(), Vec::new())];
    assert_eq!(store.values.all("settings").await, Ok(all));
    put(store, "settings", "a", None).await;
    assert_eq!(store.values.all("settings").await, Ok(vec![("b".to_owned(), Vec::new())]));
}

pub async fn namespaces_are_apart(store: &Store) {
    put(store, "ab", "c", Some(b"1")).await;
    put(store, "a", "bc", Some(b"2")).await;
    assert_eq!(store.values.all("a").await, Ok(vec![("bc".to_owned(), b"2".to_vec())]));
    assert_eq!(store.values.get("ab", "c").await, Ok(Some(b"1".to_vec())));
    assert_eq!(store.values.all("b").await, Ok(Vec::new()));
}

pub async fn a_long_value_comes_back(store: &Store) {
    let long = vec![9; 100_000];
    put(store, "marks", "long", Some(&long)).await;
    assert_eq!(store.values.get("marks", "long").await, Ok(Some(long.clone())));
    assert_eq!(store.values.all("marks").await, Ok(vec![("long".to_owned(), long)]));
    put(store, "marks", "long", Some(b"short")).await;
    assert_eq!(store.values.get("marks", "long").await, Ok(Some(b"short".to_vec())));
}
