//! All settings with their types.

use std::collections::HashSet;
use std::time::Duration;

use super::HttpSettings;
use crate::model::ChatId;
use crate::store::Keep;

/// All settings as they stand at one moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Snapshot {
    /// Where `main` goes.
    pub main_number: Option<ChatId>,
    /// Whom messages may go to.
    pub allowed: AllowList,
    /// Country code digits for numbers written the national way.
    pub default_country: Option<String>,
    /// From one hand-over to the next.
    pub delay: Duration,
    /// The random part on top goes up to this.
    pub jitter: Duration,
    /// The same for automatic replies.
    pub reply_delay: Duration,
    /// Attempts before a message is given up.
    pub max_attempts: u32,
    /// How long a message may wait offline or backing off; zero means for ever.
    pub max_age: Duration,
    /// How long the server's ack may take.
    pub ack_timeout: Duration,
    /// Finished messages younger than this stay …
    pub keep_age: Duration,
    /// … and the newest so many.
    pub keep_newest: usize,
    /// Show the account as online; the owner's phone rings less then.
    pub presence_online: bool,
    /// What the HTTP door is told.
    pub http: HttpSettings,
}

impl Default for Snapshot {
    fn default() -> Self {
        Self {
            main_number: None,
            allowed: AllowList::Anyone,
            default_country: None,
            delay: Duration::from_secs(5),
            jitter: Duration::from_secs(1),
            reply_delay: Duration::from_millis(500),
            max_attempts: 5,
            max_age: Duration::from_hours(24),
            ack_timeout: Duration::from_secs(20),
            keep_age: Duration::from_hours(30 * 24),
            keep_newest: 100_000,
            presence_online: false,
            http: HttpSettings::default(),
        }
    }
}

impl Snapshot {
    /// What retention keeps.
    #[must_use]
    pub fn keep(&self) -> Keep {
        Keep { age: self.keep_age, newest: self.keep_newest }
    }
}

/// Whom messages may go to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AllowList {
    /// No limit.
    Anyone,
    /// Only these chats.
    Only(HashSet<ChatId>),
}

impl AllowList {
    /// Whether a message may go there.
    #[must_use]
    pub fn allows(&self, chat: &ChatId) -> bool {
        match self {
            Self::Anyone => true,
            Self::Only(chats) => chats.contains(chat),
        }
    }
}
