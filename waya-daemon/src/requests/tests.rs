//! The log as a whole, on temporary folders.

#![allow(clippy::unwrap_used)]

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use axum::http::HeaderMap;
use uuid::Uuid;

use super::{Passed, RequestLog, Seen, files};
use crate::model::{MessageId, Timestamp};

fn message(n: u128) -> MessageId {
    MessageId(Uuid::from_u128(n))
}

fn passed(name: &str, body: &str, messages: &[u128]) -> Box<Passed> {
    let mut seen = Seen::new(&HeaderMap::new());
    seen.feed(body.as_bytes());
    let messages: Arc<[_]> = messages.iter().map(|n| message(*n)).collect();
    Box::new(Passed {
        request_id: name.to_owned(),
        at: Timestamp::from_millis(1_800_000_000_000),
        took: Duration::from_millis(7),
        method: "POST".parse().unwrap(),
        uri: "/api/send-message".parse().unwrap(),
        status: Some(202),
        ip: [127, 0, 0, 1].into(),
        key: Some("shop".into()),
        headers: HeaderMap::new(),
        body: seen,
        answer_headers: HeaderMap::new(),
        answer_body: Seen::new(&HeaderMap::new()),
        messages: Some(messages),
    })
}

fn log(dir: &Path) -> RequestLog {
    RequestLog::start(dir).unwrap()
}

async fn names(log: &RequestLog) -> Vec<String> {
    log.list(None, 2000).await.rows.into_iter().map(|row| row.request_id).collect()
}

#[tokio::test]
async fn rows_outlive_a_restart_and_are_found_three_ways() {
    let dir = tempfile::tempdir().unwrap();
    let first = log(dir.path());
    first.record(passed("a", r#"{"password":"x"}"#, &[10, 11]));
    first.record(passed("b", "", &[]));
    // A repeat of the first.
    first.record(passed("c", "{}", &[10, 11]));
    first.close().await;
    first.record(passed("late", "", &[]));
    assert_eq!(first.dropped(), 1);

    let second = log(dir.path());
    second.record(passed("b", "", &[12]));
    assert_eq!(names(&second).await, ["b", "c", "b", "a"]);
    let row = second.find("1").await.unwrap().unwrap();
    assert_eq!((row.summary.request_id.as_str(), row.request.body.as_deref()), ("a", Some(r#"{"password":"***"}"#)));
    assert_eq!(second.find("b").await.unwrap().unwrap().summary.id, "4");
    assert_eq!(second.of_message(message(11)).await.unwrap().unwrap(), row);
    assert_eq!(second.find(&message(12).to_string()).await.unwrap().unwrap().summary.id, "4");
    assert_eq!(second.find("nothing").await.unwrap(), None);
    let page = second.list(Some(4), 2).await;
    assert_eq!((page.rows.len(), page.rows[0].id.as_str(), page.more), (2, "3", true));
    assert!(!second.list(Some(2), 2).await.more);
}

#[tokio::test]
async fn the_newest_thousand_are_kept_in_files_for_their_owner() {
    let dir = tempfile::tempdir().unwrap();
    let first = log(dir.path());
    for n in 0..files::KEPT + 700 {
        first.record(passed(&n.to_string(), "{}", &[n as u128]));
    }
    let kept = names(&first).await;
    assert_eq!(first.dropped(), 0, "what was written over would not have been kept");
    assert_eq!((kept.len(), kept[0].as_str(), kept[999].as_str()), (1000, "1699", "700"));
    assert_eq!(first.of_message(message(699)).await.unwrap(), None);
    assert!(first.of_message(message(700)).await.unwrap().is_some());
    let folder = dir.path().join("requests");
    let files: Vec<_> = std::fs::read_dir(&folder).unwrap().map(|file| file.unwrap().metadata().unwrap()).collect();
    assert!(files.len() <= 6, "{}", files.len());
    assert!(files.iter().all(|file| file.permissions().mode() & 0o777 == 0o600));
    assert_eq!(std::fs::metadata(&folder).unwrap().permissions().mode() & 0o777, 0o700);
    assert_eq!(first.clear().await.unwrap(), 1000);
    assert!(names(&first).await.is_empty() && std::fs::read_dir(&folder).unwrap().next().is_none());
    first.record(passed("after", "", &[]));
    assert_eq!(names(&first).await, ["after"]);
}

#[tokio::test]
async fn a_torn_line_costs_that_line_only() {
    let dir = tempfile::tempdir().unwrap();
    let first = log(dir.path());
    for name in ["a", "b"] {
        first.record(passed(name, "{}", &[]));
    }
    first.close().await;
    let file = std::fs::read_dir(dir.path().join("requests")).unwrap().next().unwrap().unwrap().path();
    let bytes = std::fs::read(&file).unwrap();
    std::fs::write(&file, &bytes[..bytes.len() - 20]).unwrap();
    let second = log(dir.path());
    second.record(passed("c", "{}", &[]));
    assert_eq!(names(&second).await, ["c", "a"]);
    assert!(second.find("c").await.unwrap().is_some());
}

#[tokio::test]
async fn what_does_not_fit_is_dropped_and_counted() {
    let dir = tempfile::tempdir().unwrap();
    // A file stands where the folder should be.
    std::fs::write(dir.path().join("requests"), "").unwrap();
    let log = log(dir.path());
    log.record(passed("a", "{}", &[]));
    assert!(names(&log).await.is_empty());
    assert_eq!(log.dropped(), 1);
    assert!(log.clear().await.is_err());
}
