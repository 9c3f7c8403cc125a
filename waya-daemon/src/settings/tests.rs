#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;

use super::keys::KEYS;
use super::{AllowList, Origin, Pin, Settings, SettingsError, Snapshot, validate};
use crate::model::ChatId;
use crate::net::{HostPattern, Policy};
use crate::store::{KeyValues, StoreError};

/// Values in memory; refuses writes while `down`.
#[derive(Debug, Default)]
struct Values {
    rows: Mutex<BTreeMap<String, Vec<u8>>>,
    down: Mutex<bool>,
}

#[async_trait]
impl KeyValues for Values {
    async fn all(&self, _namespace: &str) -> Result<Vec<(String, Vec<u8>)>, StoreError> {
        Ok(self.rows.lock().unwrap().clone().into_iter().collect())
    }

    async fn get(&self, _namespace: &str, key: &str) -> Result<Option<Vec<u8>>, StoreError> {
        Ok(self.rows.lock().unwrap().get(key).cloned())
    }

    async fn put(&self, _namespace: &str, key: &str, value: Option<Vec<u8>>) -> Result<(), StoreError> {
        if *self.down.lock().unwrap() {
            return Err(StoreError::Unavailable("test".to_owned()));
        }
        let mut rows = self.rows.lock().unwrap();
        match value {
            Some(value) => rows.insert(key.to_owned(), value),
            None => rows.remove(key),
        };
        Ok(())
    }
}

fn pin(key: &str, value: &str) -> Pin {
    Pin { key: key.to_owned(), value: value.to_owned(), origin: "waya.toml:3".to_owned() }
}

#[test]
fn the_written_defaults_are_the_typed_ones() {
    let mut snapshot = Snapshot::default();
    for key in KEYS {
        (key.apply)(&mut snapshot, key.default).unwrap();
        assert_eq!(snapshot, Snapshot::default(), "{}", key.name);
    }
}

#[test]
fn values_that_do_not_fit_are_refused_with_what_would() {
    for (key, value) in [
        ("queue.delay", "soon"),
        ("queue.delay", "5"),
        ("queue.delay", "-5s"),
        ("queue.delay", "5 s"),
        ("queue.delay", "99999999999999999999s"),
        ("queue.max_attempts", "0"),
        ("queue.ack_timeout", "500ms"),
        ("queue.keep_days", "1.5"),
        ("allowed_numbers", ""),
        ("allowed_numbers", "628111,me"),
        ("main_number", "08123456789"),
        ("main_number", "main"),
        ("default_country", "0"),
        ("default_country", "6281"),
        ("presence.online", "maybe"),
        ("queue.typing", "maybe"),
        ("media.auto_download", ""),
        ("media.auto_download", "image,gif"),
        ("media.auto_download_size", "0"),
        ("network.allow_private", "maybe"),
        ("network.allow_hosts", "*"),
        ("network.allow_hosts", "files.example.com, http://example.com"),
        ("network.deny_hosts", "10.0.0.0/33"),
        ("network.deny_hosts", "example.com:443"),
        ("queue.daily_cap", "-1"),
        ("queue.daily_cap", "many"),
        ("queue.warm_up", "20,0"),
        ("queue.warm_up", "20;40"),
        ("queue.quiet_hours", "22:00"),
        ("queue.quiet_hours", "22:00-22:00"),
        ("queue.quiet_hours", "22:00-24:00"),
        ("queue.quiet_hours", "9:00-10:00"),
        ("queue.quiet_hours", "+1:00-10:00"),
        ("queue.recipient_gap", "1"),
        ("timezone", "Jakarta"),
        ("alerts.webhook", "ftp://example.org/"),
        ("alerts.webhook", "example.org/alerts"),
        ("alerts.offline_after", "soon"),
    ] {
        let expected = validate(key, value).unwrap_err();
        assert!(!expected.is_empty(), "{key} = {value}");
    }
    assert!(validate("queue.delai", "5s").unwrap_err().contains("queue.delay"));
}

#[tokio::test]
async fn a_change_is_stored_seen_and_outlives_a_restart() {
    let values = Arc::new(Values::default());
    let settings = Settings::load(values.clone(), Vec::new()).await.unwrap();
    let mut watch = settings.watch();
    let set = settings.set("queue.delay", Some("250ms")).await.unwrap();
    assert_eq!((set.value.as_str(), set.origin), ("250ms", Origin::Stored));
    assert!(watch.has_changed().unwrap());
    assert_eq!(watch.borrow_and_update().delay, Duration::from_millis(250));

    let settings = Settings::load(values, Vec::new()).await.unwrap();
    assert_eq!(settings.now().delay, Duration::from_millis(250));
    settings.set("queue.delay", None).await.unwrap();
    assert_eq!(settings.now().delay, Duration::from_secs(5));
    assert_eq!(settings.get("queue.delay").await.unwrap().origin, Origin::Default);
}

#[tokio::test]
async fn a_pin_wins_and_cannot_be_changed() {
    let values = Arc::new(Values::default());
    values.rows.lock().unwrap().insert("queue.delay".to_owned(), b"1s".to_vec());
    let settings = Settings::load(values, vec![pin("queue.delay", "2s")]).await.unwrap();
    assert_eq!(settings.now().delay, Duration::from_secs(2));
    let error = settings.set("queue.delay", Some("3s")).await.unwrap_err();
    assert_eq!(error.to_string(), "queue.delay is pinned by waya.toml:3; change it there");
    assert_eq!(settings.now().delay, Duration::from_secs(2));
}

#[tokio::test]
async fn what_is_not_stored_does_not_count() {
    let values = Arc::new(Values::default());
    let settings = Settings::load(values.clone(), Vec::new()).await.unwrap();
    *values.down.lock().unwrap() = true;
    assert!(matches!(settings.set("queue.delay", Some("1s")).await, Err(SettingsError::Store(_))));
    assert_eq!(settings.get("queue.delay").await.unwrap().value, "5s");
    assert_eq!(settings.now().delay, Duration::from_secs(5));
}

#[tokio::test]
async fn stored_values_that_mean_nothing_do_not_stop_the_start() {
    let values = Arc::new(Values::default());
    for (key, value) in [("queue.delay", &b"soon"[..]), ("from.tomorrow", b"1"), ("queue.jitter", b"\xff")] {
        values.rows.lock().unwrap().insert(key.to_owned(), value.to_vec());
    }
    let settings = Settings::load(values, Vec::new()).await.unwrap();
    assert_eq!(*settings.now(), Snapshot::default());
}

#[tokio::test]
async fn a_wrong_pin_stops_the_start() {
    let load = |pin| Settings::load(Arc::new(Values::default()), vec![pin]);
    assert!(matches!(load(pin("queue.delay", "soon")).await, Err(SettingsError::Invalid { .. })));
    assert!(matches!(load(pin("queue.dely", "1s")).await, Err(SettingsError::Unknown(_))));
}

#[tokio::test]
async fn the_allow_list_takes_every_usual_spelling() {
    let settings = Settings::load(Arc::new(Values::default()), Vec::new()).await.unwrap();
    assert_eq!(settings.now().allowed, AllowList::Anyone);
    settings.set("allowed_numbers", Some("+62 821-4672-7409\n1203630@g.us, 6281200000001@c.us")).await.unwrap();
    let snapshot = settings.now().clone();
    for chat in ["6282146727409@c.us", "1203630@g.us", "6281200000001@c.us"] {
        assert!(snapshot.allowed.allows(&chat.parse().unwrap()), "{chat}");
    }
    assert!(!snapshot.allowed.allows(&ChatId::phone("6281200000002")));
}

#[tokio::test]
async fn the_network_settings_become_a_policy_at_once() {
    let settings = Settings::load(Arc::new(Values::default()), Vec::new()).await.unwrap();
    assert_eq!(settings.now().network, Policy::default());
    settings.set("network.allow_private", Some("yes")).await.unwrap();
    settings.set("network.allow_hosts", Some(" Files.Example.COM,*.corp.example\n10.0.0.0/8 , ")).await.unwrap();
    settings.set("network.deny_hosts", Some("169.254.169.254")).await.unwrap();
    let hosts = |hosts: &[&str]| hosts.iter().map(|host| host.parse().unwrap()).collect::<Vec<HostPattern>>();
    let expected = Policy {
        allow_private: true,
        allow_hosts: hosts(&["files.example.com", "*.corp.example", "10.0.0.0/8"]),
        deny_hosts: hosts(&["169.254.169.254"]),
    };
    assert_eq!(settings.now().network, expected);
    settings.set("network.allow_hosts", Some("")).await.unwrap();
    assert!(settings.now().network.allow_hosts.is_empty());
}

#[tokio::test]
async fn limits_and_words_are_read_as_they_are_written() {
    let settings = Settings::load(Arc::new(Values::default()), Vec::new()).await.unwrap();
    for (key, value) in [
        ("queue.warm_up", "20, 40,80"),
        ("queue.quiet_hours", "22:00 - 07:30"),
        ("timezone", "Asia/Jakarta"),
        ("automation.opt_out_words", "STOP, Berhenti ,"),
    ] {
        settings.set(key, Some(value)).await.unwrap();
    }
    let snapshot = settings.now().clone();
    assert_eq!(snapshot.warm_up, [20, 40, 80]);
    let hours = snapshot.quiet_hours.unwrap();
    assert_eq!((hours.start, hours.end), (jiff::civil::time(22, 0, 0, 0), jiff::civil::time(7, 30, 0, 0)));
    assert_eq!(snapshot.zone().iana_name(), Some("Asia/Jakarta"));
    assert_eq!(snapshot.opt_out_words, ["stop", "berhenti"]);
    assert_eq!(super::folded(" Stop\n"), "stop");
}
