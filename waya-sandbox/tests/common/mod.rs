//! A sandbox for one test, and waiting for what should happen in it.
#![allow(dead_code, clippy::unwrap_used)]

use std::path::Path;
use std::time::Duration;

use waya_sandbox::control::{Local, SandboxControl, SayRequest};
use waya_sandbox::emulator::EmulatorError;
use waya_sandbox::people::inbox::InboxEntry;
use waya_sandbox::{Sandbox, SandboxConfig, SandboxError};

/// Far longer than anything here takes on a busy machine.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// A sandbox with three people (so that all of them are in the group), kept in `data_dir` if given.
pub async fn sandbox(data_dir: Option<&Path>) -> Sandbox {
    let config = SandboxConfig { people: 3, data_dir: data_dir.map(Path::to_owned), ..SandboxConfig::default() };
    let start = async {
        loop {
            match Sandbox::start(config.clone()).await {
                // The one before still closes its connections.
                Err(SandboxError::Emulator(EmulatorError::InUse(_))) => tokio::task::yield_now().await,
                started => return started.unwrap(),
            }
        }
    };
    tokio::time::timeout(PATIENCE, start).await.expect("it starts in time")
}

/// A text from one to another; `group:NAME` addresses a group.
pub async fn say(control: &Local, from: &str, to: &str, text: &str) -> String {
    let (group, to) = match to.strip_prefix("group:") {
        Some(group) => (Some(group.to_owned()), None),
        None => (None, Some(to.to_owned())),
    };
    let request = SayRequest { from: from.to_owned(), text: text.to_owned(), group, to, ..SayRequest::default() };
    control.say(request).await.unwrap().id
}

/// The person's inbox once it looks as expected.
pub async fn inbox_once(sandbox: &Sandbox, who: &str, expected: impl Fn(&[InboxEntry]) -> bool) -> Vec<InboxEntry> {
    let person = sandbox.people().find(who).unwrap();
    let mut changes = person.inbox().subscribe();
    let wait = async {
        loop {
            changes.borrow_and_update();
            let entries = person.inbox().entries();
            if expected(&entries) {
                return entries;
            }
            changes.changed().await.unwrap();
        }
    };
    tokio::time::timeout(PATIENCE, wait)
        .await
        .unwrap_or_else(|_| panic!("{who}'s inbox never looked as expected: {:#?}", person.inbox().entries()))
}

/// Waits until the emulator keeps nothing for anybody: everything was confirmed.
pub async fn all_confirmed(sandbox: &Sandbox) {
    let wait = async {
        while sandbox.emulator().stats().queued > 0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    let waited = tokio::time::timeout(PATIENCE, wait).await;
    assert!(waited.is_ok(), "stanzas were never confirmed: {:?}", sandbox.emulator().accounts());
}

/// Whether every message was read by its reader.
pub fn all_read(entries: &[InboxEntry]) -> bool {
    entries.iter().all(|entry| entry.receipts == ["delivered", "read"])
}
