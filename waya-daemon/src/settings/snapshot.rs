//! All settings with their types.

use std::collections::HashSet;
use std::time::Duration;

use jiff::civil::Time;
use jiff::tz::TimeZone;

use super::HttpSettings;
use crate::model::ChatId;
use crate::net::Policy;
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
    /// The most messages a day that we start; zero means any number.
    pub daily_cap: u64,
    /// The most of them on the first, second … day since the account was linked.
    pub warm_up: Vec<u64>,
    /// When nothing that we start leaves.
    pub quiet_hours: Option<QuietHours>,
    /// The least time between two messages to the same person that we start.
    pub recipient_gap: Duration,
    /// Where days begin and hours count; `None`: where the machine is.
    pub timezone: Option<TimeZone>,
    /// Who writes one of these wants no more messages; in the form of [`folded`].
    pub opt_out_words: Vec<String>,
    /// Who writes one of these does again.
    pub opt_in_words: Vec<String>,
    /// How long the server's ack may take.
    pub ack_timeout: Duration,
    /// Finished messages younger than this stay …
    pub keep_age: Duration,
    /// … and the newest so many.
    pub keep_newest: usize,
    /// Chats see that an answer is typed before it comes.
    pub typing: bool,
    /// Links in texts get a preview.
    pub previews: bool,
    /// The largest picture, video or sound, in bytes.
    pub max_media: u64,
    /// The largest document, in bytes.
    pub max_document: u64,
    /// The largest file of an incoming message, in bytes.
    pub max_download: u64,
    /// Messages that come in as one of these have their file fetched without being asked.
    pub auto_download: Vec<&'static str>,
    /// The largest such file, in bytes.
    pub auto_download_size: u64,
    /// Files stay for so long after their last use.
    pub keep_media: Duration,
    /// Show the account as online; the owner's phone rings less then.
    pub presence_online: bool,
    /// Where requests to hosts that others name may go.
    pub network: Policy,
    /// A command line that is run when something needs the owner.
    pub alerts_command: Option<String>,
    /// A URL that is told the same.
    pub alerts_webhook: Option<String>,
    /// Being away for so long needs the owner; zero is never.
    pub alerts_offline_after: Duration,
    /// So does a message that waits for so long.
    pub alerts_queue_age: Duration,
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
            daily_cap: 0,
            warm_up: Vec::new(),
            quiet_hours: None,
            recipient_gap: Duration::ZERO,
            timezone: None,
            opt_out_words: Vec::new(),
            opt_in_words: vec!["mulai".to_owned()],
            ack_timeout: Duration::from_secs(20),
            keep_age: Duration::from_hours(30 * 24),
            keep_newest: 100_000,
            typing: false,
            previews: true,
            max_media: 16 << 20,
            max_document: 100 << 20,
            max_download: 100 << 20,
            auto_download: Vec::new(),
            auto_download_size: 16 << 20,
            keep_media: Duration::from_hours(30 * 24),
            presence_online: false,
            network: Policy::default(),
            alerts_command: None,
            alerts_webhook: None,
            alerts_offline_after: Duration::from_mins(10),
            alerts_queue_age: Duration::from_hours(1),
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

    /// Where days begin and hours count.
    #[must_use]
    pub fn zone(&self) -> TimeZone {
        self.timezone.clone().unwrap_or_else(TimeZone::system)
    }
}

/// A part of every day; it may begin on one day and end on the next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct QuietHours {
    /// From this time of the day on …
    pub start: Time,
    /// … until this one, which is another.
    pub end: Time,
}

/// A text in the form in which words are compared: without white space around it, and without case.
#[must_use]
pub fn folded(text: &str) -> String {
    text.trim().to_lowercase()
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
