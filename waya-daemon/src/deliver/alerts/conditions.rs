//! What needs the owner, and when it begins and ends. Pure.
//!
//! Each condition is told once when it begins and once when it ends. What is about the link ends only with a connection,
//! or when no account is linked any more: a ban that is tried again, or a session that is being linked anew, is no end.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::model::{LinkState, Timestamp};

/// Something that needs the owner.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Condition {
    /// No connection for too long.
    Offline,
    /// The account was unlinked.
    LoggedOut,
    /// WhatsApp banned it.
    Banned,
    /// WhatsApp locked it.
    Locked,
    /// WhatsApp wants a newer client.
    Outdated,
    /// The oldest message waits for too long.
    Queue,
    /// The store takes nothing.
    Store,
    /// Nothing was heard of the phone for too long.
    PhoneUnseen,
    /// Events of this webhook were given up.
    WebhookParked(String),
}

impl Condition {
    /// The contract's word.
    #[must_use]
    pub const fn word(&self) -> &'static str {
        match self {
            Self::Offline => "offline",
            Self::LoggedOut => "logged_out",
            Self::Banned => "banned",
            Self::Locked => "locked",
            Self::Outdated => "outdated",
            Self::Queue => "queue",
            Self::Store => "store",
            Self::PhoneUnseen => "phone_unseen",
            Self::WebhookParked(_) => "webhook_parked",
        }
    }

    /// It is over when the account is connected, or linked no more.
    const fn is_of_the_link(&self) -> bool {
        matches!(self, Self::Offline | Self::LoggedOut | Self::Banned | Self::Locked | Self::Outdated)
    }
}

/// How things stand.
#[derive(Debug, Clone)]
pub struct Facts {
    /// The link.
    pub link: LinkState,
    /// Since when there has been no connection.
    pub cut_off_since: Option<Timestamp>,
    /// Since when the oldest message could have left.
    pub waits_since: Option<Timestamp>,
    /// Why the store takes nothing.
    pub store: Option<String>,
    /// When the linked account's phone was heard of last.
    pub phone_seen: Option<Timestamp>,
    /// How many events are parked, by webhook; those with none may be left out.
    pub parked: BTreeMap<String, u64>,
}

/// After so long without its phone a device has little time left: WhatsApp unlinks it after 14 days.
const PHONE_UNSEEN: Duration = Duration::from_hours(10 * 24);

/// From when on something is too long; zero is never.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// For there being no connection.
    pub offline_after: Duration,
    /// For the oldest message to wait.
    pub queue_age: Duration,
}

/// What was told, and since when each holds.
pub type Told = BTreeMap<Condition, Timestamp>;

/// Something is to be told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// It began.
    Began(Alarm),
    /// It is over.
    Ended(Condition, Timestamp),
}

/// A condition that holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Alarm {
    /// Which.
    pub condition: Condition,
    /// Since when.
    pub since: Timestamp,
    /// In words.
    pub message: String,
}

/// What is to be told now; those that ended come first.
#[must_use]
pub fn changes(told: &Told, facts: &Facts, limits: Limits, now: Timestamp) -> Vec<Change> {
    let holding: BTreeMap<Condition, Alarm> =
        alarms(facts, limits, now).into_iter().map(|alarm| (alarm.condition.clone(), alarm)).collect();
    let link_is_well = matches!(facts.link, LinkState::Connected | LinkState::Unpaired);
    let ended =
        told.iter().filter(
            |(condition, _)| {
                if condition.is_of_the_link() { link_is_well } else { !holding.contains_key(*condition) }
            },
        );
    let ended = ended.map(|(condition, since)| Change::Ended(condition.clone(), *since));
    // Who knows why there is no connection need not be told that there is none, whatever is tried meanwhile.
    let is_explained = told.keys().any(Condition::is_of_the_link);
    let is_news = |alarm: &&Alarm| {
        !(told.contains_key(&alarm.condition) || is_explained && alarm.condition == Condition::Offline)
    };
    let began = holding.values().filter(is_news).cloned().map(Change::Began);
    ended.chain(began).collect()
}

/// When the link's being away becomes too long.
#[must_use]
pub fn offline_at(facts: &Facts, limits: Limits) -> Option<Timestamp> {
    facts.cut_off_since.filter(|_| !limits.offline_after.is_zero()).map(|since| since.plus(limits.offline_after))
}

fn alarms(facts: &Facts, limits: Limits, now: Timestamp) -> Vec<Alarm> {
    let mut alarms = Vec::new();
    let mut alarm = |condition, since, message| alarms.push(Alarm { condition, since, message });
    let since = facts.cut_off_since.unwrap_or(now);
    match &facts.link {
        LinkState::Offline { .. } | LinkState::Connecting | LinkState::Replaced => {
            if offline_at(facts, limits).is_some_and(|at| at <= now) {
                let message =
                    format!("no connection to WhatsApp for {}: {}", Length(now.since(since)), why(&facts.link));
                alarm(Condition::Offline, since, message);
            }
        }
        LinkState::LoggedOut { reason } => {
            let message = format!("the account was logged out: {reason}; link it again with `waya login`");
            alarm(Condition::LoggedOut, since, message);
        }
        LinkState::Banned { until } => {
            let until = until.map_or_else(String::new, |until| format!(" until {}", until.to_minute()));
            alarm(Condition::Banned, since, format!("WhatsApp banned the account{until}; look at the phone"));
        }
        LinkState::Locked => {
            alarm(Condition::Locked, since, "WhatsApp locked the account; look at the phone".to_owned());
        }
        LinkState::Outdated => {
            let message = "WhatsApp wants a newer client version; update waya, or set whatsapp.version";
            alarm(Condition::Outdated, since, message.to_owned());
        }
        LinkState::Unpaired | LinkState::Pairing { .. } | LinkState::Connected | LinkState::PasskeyRequired { .. } => {}
    }
    if let Some(since) =
        facts.waits_since.filter(|since| !limits.queue_age.is_zero() && since.plus(limits.queue_age) <= now)
    {
        let message = format!("the oldest message waits for {}; `waya queue list` shows why", Length(now.since(since)));
        alarm(Condition::Queue, since, message);
    }
    if let Some(since) = facts.phone_seen.filter(|since| since.plus(PHONE_UNSEEN) <= now) {
        let message = format!(
            "nothing was heard of the phone for {}; open WhatsApp on it: devices are unlinked when it is away for 14 days",
            Length(now.since(since))
        );
        alarm(Condition::PhoneUnseen, since, message);
    }
    if let Some(reason) = &facts.store {
        alarm(Condition::Store, now, format!("the store takes nothing: {reason}"));
    }
    for (webhook, parked) in facts.parked.iter().filter(|(_, parked)| **parked > 0) {
        let message = format!(
            "{parked} events of webhook {webhook} are parked: nobody took them; `waya webhooks redeliver {webhook} --all` has them told again"
        );
        alarm(Condition::WebhookParked(webhook.clone()), now, message);
    }
    alarms
}

fn why(link: &LinkState) -> &str {
    match link {
        LinkState::Offline { reason, .. } => &reason.0,
        LinkState::Replaced => "another client took it over; `waya login` takes it back",
        _ => "it is being made",
    }
}

/// For people: the largest units that say enough.
struct Length(Duration);

impl fmt::Display for Length {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.as_secs() {
            seconds @ 0..120 => write!(f, "{seconds} s"),
            seconds @ 120..7_200 => write!(f, "{} min", seconds / 60),
            seconds @ 7_200..172_800 => write!(f, "{} h", seconds / 3_600),
            seconds => write!(f, "{} days", seconds / 86_400),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::OfflineReason;
    use proptest::prelude::*;

    const LIMITS: Limits = Limits { offline_after: Duration::from_mins(10), queue_age: Duration::from_hours(1) };

    fn at(seconds: u64) -> Timestamp {
        Timestamp::from_millis(1_800_000_000_000 + seconds * 1_000)
    }

    fn days_before(days: u64) -> Timestamp {
        at(0).minus(Duration::from_hours(days * 24))
    }

    fn links() -> impl Strategy<Value = LinkState> {
        prop_oneof![
            3 => Just(LinkState::Connected),
            2 => Just(LinkState::Offline { reason: OfflineReason("no network".to_owned()), retry_at: None }),
            1 => Just(LinkState::Connecting),
            1 => Just(LinkState::Replaced),
            1 => Just(LinkState::LoggedOut { reason: "device removed".to_owned() }),
            1 => Just(LinkState::Unpaired),
            1 => Just(LinkState::Pairing { qr: None, code: None, expires_at: None }),
            1 => Just(LinkState::Locked),
            1 => Just(LinkState::Banned { until: None }),
            1 => Just(LinkState::Outdated),
        ]
    }

    prop_compose! {
        fn facts()(
            link in links(),
            cut_off in proptest::option::of(0_u64..2_000),
            waits in proptest::option::of(0_u64..8_000),
            store in proptest::option::of(Just("disk full".to_owned())),
            days in proptest::option::of(0_u64..20),
            parked in proptest::collection::btree_map("wh_[ab]", 0_u64..3, 0..3),
        ) -> Facts {
            let cut_off = if link == LinkState::Connected { None } else { cut_off };
            Facts { link, cut_off_since: cut_off.map(at), waits_since: waits.map(at), store, phone_seen: days.map(days_before), parked }
        }
    }

    fn apply(told: &mut Told, changes: &[Change]) {
        for change in changes {
            match change {
                Change::Began(alarm) => {
                    assert_eq!(told.insert(alarm.condition.clone(), alarm.since), None, "told twice: {alarm:?}");
                }
                Change::Ended(condition, _) => assert!(told.remove(condition).is_some(), "never began: {condition:?}"),
            }
        }
    }

    #[test]
    fn who_knows_of_a_ban_is_not_told_that_there_is_no_connection() {
        let facts = |link| Facts { link, cut_off_since: Some(at(0)), ..well() };
        let mut told = Told::new();
        let began = changes(&told, &facts(LinkState::Banned { until: None }), LIMITS, at(1));
        apply(&mut told, &began);
        assert_eq!(told.keys().collect::<Vec<_>>(), [&Condition::Banned]);
        assert_eq!(changes(&told, &facts(LinkState::Connecting), LIMITS, at(7_200)), []);
        let over = changes(&told, &facts(LinkState::Connected), LIMITS, at(7_201));
        assert_eq!(over, [Change::Ended(Condition::Banned, at(0))]);
        assert_eq!(changes(&Told::new(), &facts(LinkState::Connecting), LIMITS, at(7_200)).len(), 1);
    }

    proptest! {
        #[test]
        fn each_is_told_once_when_it_begins_and_once_when_it_ends(lives in proptest::collection::vec(facts(), 1..30)) {
            let mut told = Told::new();
            for (n, facts) in lives.iter().enumerate() {
                let now = at(n as u64 * 300);
                let changes = changes(&told, facts, LIMITS, now);
                apply(&mut told, &changes);
                prop_assert_eq!(super::changes(&told, facts, LIMITS, now), vec![], "the same is told again");
                if facts.link == LinkState::Connected {
                    prop_assert!(!told.keys().any(Condition::is_of_the_link));
                }
                // As it would be read back after a restart.
                let stored = serde_json::to_vec(&told.iter().collect::<Vec<_>>()).unwrap();
                let read: Vec<(Condition, Timestamp)> = serde_json::from_slice(&stored).unwrap();
                prop_assert_eq!(read.into_iter().collect::<Told>(), told.clone());
            }
        }
    }

    fn well() -> Facts {
        Facts {
            link: LinkState::Connected,
            cut_off_since: None,
            waits_since: None,
            store: None,
            phone_seen: None,
            parked: BTreeMap::new(),
        }
    }

    #[test]
    fn a_short_absence_and_a_short_wait_are_nothing() {
        let offline = LinkState::Offline { reason: OfflineReason("no network".to_owned()), retry_at: None };
        let facts = Facts { link: offline, cut_off_since: Some(at(0)), waits_since: Some(at(0)), ..well() };
        assert_eq!(changes(&Told::new(), &facts, LIMITS, at(599)), vec![]);
        let [Change::Began(alarm)] = &changes(&Told::new(), &facts, LIMITS, at(600))[..] else { panic!("no alarm") };
        assert_eq!(alarm.message, "no connection to WhatsApp for 10 min: no network");
        assert_eq!(changes(&Told::new(), &facts, LIMITS, at(3_600)).len(), 2);
        let never = Limits { offline_after: Duration::ZERO, queue_age: Duration::ZERO };
        assert_eq!(changes(&Told::new(), &facts, never, at(1_000_000)), vec![]);
    }

    #[test]
    fn linking_anew_is_no_end_but_a_connection_is() {
        let told = Told::from([(Condition::LoggedOut, at(0))]);
        let pairing = LinkState::Pairing { qr: None, code: None, expires_at: None };
        for link in [pairing, LinkState::Connecting] {
            assert_eq!(changes(&told, &Facts { link, ..well() }, LIMITS, at(5)), vec![]);
        }
        let ended = vec![Change::Ended(Condition::LoggedOut, at(0))];
        assert_eq!(changes(&told, &well(), LIMITS, at(5)), ended);
    }

    #[test]
    fn a_phone_that_is_away_for_ten_days_is_told_of_until_it_is_back() {
        let facts = |days| Facts { phone_seen: Some(days_before(days)), ..well() };
        assert_eq!(changes(&Told::new(), &facts(9), LIMITS, at(0)), vec![]);
        let [Change::Began(alarm)] = &changes(&Told::new(), &facts(10), LIMITS, at(0))[..] else { panic!("no alarm") };
        assert_eq!((&alarm.condition, alarm.since), (&Condition::PhoneUnseen, days_before(10)));
        assert!(alarm.message.starts_with("nothing was heard of the phone for 10 days; "), "{}", alarm.message);
        let told = Told::from([(Condition::PhoneUnseen, days_before(10))]);
        assert_eq!(
            changes(&told, &facts(0), LIMITS, at(0)),
            vec![Change::Ended(Condition::PhoneUnseen, days_before(10))]
        );
    }
}
