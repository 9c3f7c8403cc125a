//! The chats' disappearing timers. A message into such a chat must carry the timer, or it stays there for good; the
//! client library tells the timer with what comes in and does not keep it; the phone tells it with its history.

use std::collections::HashMap;
use std::fs;
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use whatsapp_rust::proto_helpers::MessageExt;
use whatsapp_rust::types::events::{GroupUpdate, InboundMessage};
use whatsapp_rust::wacore::stanza::groups::GroupNotificationAction;
use whatsapp_rust::waproto::whatsapp::message::protocol_message::Type;

use crate::model::ChatId;

const FILE: &str = "disappearing.json";

/// Seconds by chat; only chats whose messages disappear are in it.
type Seconds = HashMap<ChatId, u32>;

/// The timers of one account's chats, in memory and in a file.
#[derive(Debug, Clone)]
pub struct Timers(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    path: PathBuf,
    seconds: Mutex<Seconds>,
    /// Held while the file is written, so that the newest state is written last.
    writing: Mutex<()>,
}

impl Timers {
    /// As they were left; none when there is no file, or none that can be read.
    #[must_use]
    pub fn load(folder: &Path) -> Self {
        let path = folder.join(FILE);
        let seconds = match fs::read(&path) {
            Ok(bytes) => serde_json::from_slice(&bytes).unwrap_or_else(|error| {
                tracing::warn!(%error, "the disappearing timers cannot be read; they are learnt anew");
                Seconds::new()
            }),
            Err(_) => Seconds::new(),
        };
        Self(Arc::new(Inner { path, seconds: Mutex::new(seconds), writing: Mutex::new(()) }))
    }

    /// How long a message into `chat` is to stay, when not for good.
    #[must_use]
    pub fn of(&self, chat: &ChatId) -> Option<u32> {
        self.0.seconds().get(chat).copied()
    }

    /// Takes in what a message of `chat` tells; returns when that is on disk.
    pub async fn learn(&self, chat: &ChatId, message: &InboundMessage) {
        if told(message).is_some_and(|seconds| self.set(chat, seconds)) {
            self.write().await;
        }
    }

    /// Takes in what was done to a group.
    pub async fn learn_of_group(&self, update: &GroupUpdate) {
        let GroupNotificationAction::Ephemeral { expiration, .. } = update.action else { return };
        let Ok(chat) = update.group_jid.to_string().parse() else { return };
        if self.set(&chat, expiration) {
            self.write().await;
        }
    }

    /// Takes in the phone's own list; what was told since is newer.
    pub async fn learn_of_history(&self, timers: Vec<(ChatId, u32)>) {
        let is_new = {
            let mut all = self.0.seconds();
            let before = all.len();
            for (chat, seconds) in timers {
                all.entry(chat).or_insert(seconds);
            }
            all.len() > before
        };
        if is_new {
            self.write().await;
        }
    }

    async fn write(&self) {
        let timers = self.clone();
        let saved = tokio::task::spawn_blocking(move || timers.save()).await;
        if let Err(error) = saved.unwrap_or_else(|error| Err(error.into())) {
            tracing::warn!(%error, "the disappearing timers cannot be saved");
        }
    }

    /// They were those of an account that is linked no more.
    pub fn forget(&self) {
        self.0.seconds().clear();
        let _writing = self.0.writing.lock().unwrap_or_else(PoisonError::into_inner);
        if let Err(error) = fs::remove_file(&self.0.path)
            && error.kind() != std::io::ErrorKind::NotFound
        {
            tracing::warn!(%error, "the disappearing timers cannot be deleted");
        }
    }

    /// `0` turns it off. Whether that is new.
    fn set(&self, chat: &ChatId, seconds: u32) -> bool {
        let mut all = self.0.seconds();
        let before = if seconds == 0 { all.remove(chat) } else { all.insert(chat.clone(), seconds) };
        before != (seconds != 0).then_some(seconds)
    }

    fn save(&self) -> std::io::Result<()> {
        let Inner { path, writing, .. } = &*self.0;
        let _writing = writing.lock().unwrap_or_else(PoisonError::into_inner);
        let all = serde_json::to_vec(&*self.0.seconds())?;
        let fresh = path.with_extension("json.new");
        let mut file = fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&fresh)?;
        file.write_all(&all)?;
        file.sync_data()?;
        fs::rename(&fresh, path)
    }
}

impl Inner {
    fn seconds(&self) -> MutexGuard<'_, Seconds> {
        self.seconds.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The timer a message tells: by changing it, or by carrying it. One that carries none says nothing: plain text has no
/// place for it.
fn told(message: &InboundMessage) -> Option<u32> {
    let base = message.message.get_base_message();
    if let Some(protocol) = base.protocol_message.as_option() {
        return (protocol.r#type == Some(Type::EPHEMERAL_SETTING))
            .then(|| protocol.ephemeral_expiration.unwrap_or_default());
    }
    message.info.ephemeral_expiration.or_else(|| base.get_ephemeral_expiration())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_timer_outlives_the_process_until_it_is_turned_off() {
        let folder = tempfile::tempdir().unwrap();
        let chat = ChatId::phone("6281200000002");
        let set = |seconds| {
            let timers = Timers::load(folder.path());
            assert!(timers.set(&chat, seconds) && !timers.set(&chat, seconds));
            timers.save().unwrap();
        };
        set(604_800);
        assert_eq!(Timers::load(folder.path()).of(&chat), Some(604_800));
        set(0);
        assert_eq!(Timers::load(folder.path()).of(&chat), None);
    }

    #[test]
    fn another_account_begins_without_any() {
        let folder = tempfile::tempdir().unwrap();
        let (timers, chat) = (Timers::load(folder.path()), ChatId::phone("6281200000002"));
        timers.forget();
        timers.set(&chat, 60);
        timers.save().unwrap();
        timers.forget();
        assert_eq!((timers.of(&chat), Timers::load(folder.path()).of(&chat)), (None, None));
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
    }

    #[tokio::test]
    async fn a_group_s_timer_goes_on_and_off_and_history_is_older() {
        let folder = tempfile::tempdir().unwrap();
        let timers = Timers::load(folder.path());
        let (group, person) = (ChatId::group("120363041234567890"), ChatId::phone("6281200000002"));
        let action = |seconds| {
            GroupUpdate::builder()
                .group_jid("120363041234567890@g.us".parse().unwrap())
                .timestamp(whatsapp_rust::chrono::DateTime::UNIX_EPOCH)
                .is_lid_addressing_mode(false)
                .action(GroupNotificationAction::Ephemeral { expiration: seconds, trigger: None })
                .build()
        };
        timers.learn_of_group(&action(86_400)).await;
        timers.learn_of_history(vec![(group.clone(), 60), (person.clone(), 604_800)]).await;
        let saved = Timers::load(folder.path());
        assert_eq!((saved.of(&group), saved.of(&person)), (Some(86_400), Some(604_800)));
        timers.learn_of_group(&action(0)).await;
        assert_eq!(Timers::load(folder.path()).of(&group), None);
    }

    #[test]
    fn a_damaged_file_is_no_reason_to_stop() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join(FILE), "{").unwrap();
        let timers = Timers::load(folder.path());
        timers.set(&ChatId::phone("6281200000002"), 60);
        timers.save().unwrap();
        assert_eq!(Timers::load(folder.path()).of(&ChatId::phone("6281200000002")), Some(60));
    }
}
