//! The chats' disappearing timers. A message into such a chat must carry the timer, or it stays there for good; the
//! client library tells the timer with what comes in and does not keep it.

use std::collections::HashMap;
use std::fs;
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use whatsapp_rust::proto_helpers::MessageExt;
use whatsapp_rust::types::events::InboundMessage;
use whatsapp_rust::waproto::whatsapp::message::protocol_message::Type;

use crate::model::ChatId;

const FILE: &str = "disappearing.json";

/// Seconds by chat; only chats whose messages disappear are in it.
#[derive(Debug)]
pub struct Timers {
    path: PathBuf,
    seconds: Mutex<HashMap<ChatId, u32>>,
}

impl Timers {
    /// As they were left; none when there is no file, or none that can be read.
    #[must_use]
    pub fn load(folder: &Path) -> Self {
        let path = folder.join(FILE);
        let seconds = match fs::read(&path) {
            Ok(bytes) => serde_json::from_slice(&bytes).unwrap_or_else(|error| {
                tracing::warn!(%error, "the disappearing timers cannot be read; they are learnt anew");
                HashMap::new()
            }),
            Err(_) => HashMap::new(),
        };
        Self { path, seconds: Mutex::new(seconds) }
    }

    /// How long a message into `chat` is to stay, when not for good.
    #[must_use]
    pub fn of(&self, chat: &ChatId) -> Option<u32> {
        self.seconds.lock().unwrap_or_else(PoisonError::into_inner).get(chat).copied()
    }

    /// Takes in what a message of `chat` tells.
    pub fn learn(&self, chat: &ChatId, message: &InboundMessage) {
        if let Some(seconds) = told(message) {
            self.set(chat, seconds);
        }
    }

    /// `0` turns it off.
    fn set(&self, chat: &ChatId, seconds: u32) {
        let mut all = self.seconds.lock().unwrap_or_else(PoisonError::into_inner);
        let before = if seconds == 0 { all.remove(chat) } else { all.insert(chat.clone(), seconds) };
        if before != (seconds != 0).then_some(seconds)
            && let Err(error) = self.save(&all)
        {
            tracing::warn!(%error, "the disappearing timers cannot be saved");
        }
    }

    fn save(&self, all: &HashMap<ChatId, u32>) -> std::io::Result<()> {
        let fresh = self.path.with_extension("json.new");
        let mut file = fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&fresh)?;
        file.write_all(&serde_json::to_vec(all)?)?;
        file.sync_data()?;
        fs::rename(&fresh, &self.path)
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
        Timers::load(folder.path()).set(&chat, 604_800);
        assert_eq!(Timers::load(folder.path()).of(&chat), Some(604_800));
        Timers::load(folder.path()).set(&chat, 0);
        assert_eq!(Timers::load(folder.path()).of(&chat), None);
    }

    #[test]
    fn a_damaged_file_is_no_reason_to_stop() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join(FILE), "{").unwrap();
        let timers = Timers::load(folder.path());
        timers.set(&ChatId::phone("6281200000002"), 60);
        assert_eq!(Timers::load(folder.path()).of(&ChatId::phone("6281200000002")), Some(60));
    }
}
