//! Why a pending message waits, and until when as far as that can be told. Pure.

use std::time::Duration;

use super::care::forecast::Forecast;
use super::care::limits::Closed;
use crate::model::{LinkState, Timestamp};

/// Why a pending message waits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Hold {
    /// The word of the contract.
    pub reason: &'static str,
    /// Until when, if that is known. What the pace says of one that is not the next to leave is an estimate.
    pub until: Option<Timestamp>,
}

/// What is to be told of a pending message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Outlook {
    /// Why it waits; nothing for one that leaves at once.
    pub hold: Option<Hold>,
    /// How many stand before it in line, and itself; zero when it stands in none.
    pub position: u64,
    /// When it will leave, as things stand; nothing when nobody can tell.
    pub estimated_at: Option<Timestamp>,
}

/// Where a message that is not on its way stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// In no line before its own time.
    Scheduled(Timestamp),
    /// It backs off until then, or the one of its chat that must leave before it does.
    BackingOff(Timestamp),
    /// It goes to a stranger, or the one of its chat that must leave before it does, and WhatsApp lets this account
    /// write to none.
    Cold,
    /// So soon after the last message to the same person, it or the one that must leave before it waits until then.
    Spaced(Timestamp),
    /// In line.
    InLine {
        /// How many that share its pace leave before it, as things stand.
        ahead: u64,
        /// Nothing of its chat must leave before it.
        ready: bool,
    },
}

/// What those that share a pace wait for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pacing {
    /// When the next one may leave; `None`: when the hand-over that is under way has ended.
    pub next: Option<Timestamp>,
    /// From one to the next, with the usual part of the jitter.
    pub gap: Duration,
    /// How many more may be on their way.
    pub room: usize,
}

/// What holds more than one message.
#[derive(Debug)]
pub struct Conditions<'a> {
    /// Nothing leaves until somebody resumes the queue.
    pub paused: bool,
    /// The link, as it says of itself.
    pub link: &'a LinkState,
    /// The link did not take a message although it seemed to be up: nothing is tried before.
    pub rest_until: Option<Timestamp>,
    /// When WhatsApp lets this account write to strangers again, by its word.
    pub locked_until: Option<Timestamp>,
    /// Now.
    pub now: Timestamp,
}

/// How limits hold those that share a pace.
#[derive(Debug)]
pub struct Limited {
    /// Nothing of them leaves.
    pub closed: Option<Closed>,
    /// How many more may leave today; `None`: any number.
    pub left: Option<u64>,
    /// When each of them leaves.
    pub forecast: Forecast,
}

/// Why a message waits, by what outranks what; nothing for one that leaves at once.
#[must_use]
pub fn hold(place: Place, conditions: &Conditions<'_>, pacing: Pacing, limited: Option<&Limited>) -> Option<Hold> {
    let now = conditions.now;
    let because = |reason, until: Option<Timestamp>| Some(Hold { reason, until: until.filter(|at| *at > now) });
    if let Place::Scheduled(until) = place
        && until > now
    {
        return because("scheduled", Some(until));
    }
    if conditions.paused {
        return because("paused", None);
    }
    match conditions.link {
        LinkState::Connected => {}
        LinkState::Offline { retry_at, .. } => return because("offline", *retry_at),
        LinkState::Banned { until } => return because("offline", *until),
        _ => return because("offline", None),
    }
    if let Some(until) = conditions.rest_until.filter(|at| *at > now) {
        return because("offline", Some(until));
    }
    match place {
        Place::BackingOff(until) if until > now => because("backoff", Some(until)),
        // Its time has come this very moment: it is about to join its line.
        Place::Scheduled(_) | Place::BackingOff(_) => None,
        Place::Cold => because("cold_contact", conditions.locked_until),
        Place::Spaced(until) => because("pace", Some(until)),
        Place::InLine { ahead, ready } => match limited {
            Some(Limited { closed: Some(closed), .. }) => because(closed.reason, Some(closed.until)),
            Some(Limited { left: Some(left), forecast, .. }) if ahead >= *left => because("cap", forecast.at(ahead)),
            _ if ready && pacing.takes(ahead, now) => None,
            Some(limited) => because("pace", pacing.departure(ahead).and_then(|_| limited.forecast.at(ahead))),
            None => because("pace", pacing.departure(ahead)),
        },
    }
}

/// When a message will leave, as things stand; nothing when that depends on what nobody can tell.
#[must_use]
pub fn estimate(
    place: Place,
    conditions: &Conditions<'_>,
    pacing: Pacing,
    limited: Option<&Limited>,
) -> Option<Timestamp> {
    let at = match place {
        Place::Scheduled(at) => Some(at),
        _ if conditions.paused || !conditions.link.is_connected() => None,
        Place::BackingOff(at) | Place::Spaced(at) => Some(at),
        Place::Cold => conditions.locked_until,
        Place::InLine { ahead, .. } => match limited {
            Some(limited) => limited.forecast.at(ahead),
            None => Some(pacing.begins(conditions.now).plus(pacing.gap.saturating_mul(as_u32(ahead)))),
        },
    };
    at.map(|at| at.max(conditions.now))
}

fn as_u32(count: u64) -> u32 {
    u32::try_from(count).unwrap_or(u32::MAX)
}

impl Pacing {
    /// Whether one behind so many others leaves with them now.
    fn takes(self, ahead: u64, now: Timestamp) -> bool {
        let room = if self.gap.is_zero() { self.room } else { self.room.min(1) };
        self.next.is_some_and(|at| at <= now) && ahead < room as u64
    }

    /// When one behind so many others leaves; unknown while room is missing, and without a pace.
    fn departure(self, ahead: u64) -> Option<Timestamp> {
        let next = self.next.filter(|_| self.room > 0 && !self.gap.is_zero())?;
        Some(next.plus(self.gap.saturating_mul(as_u32(ahead))))
    }

    /// When the next one leaves, also when that is not known to the second.
    #[must_use]
    pub fn begins(self, now: Timestamp) -> Timestamp {
        self.next.unwrap_or_else(|| now.plus(self.gap)).max(now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::OfflineReason;

    const NOW: Timestamp = Timestamp::from_millis(1_000_000);
    const GAP: Duration = Duration::from_secs(5);
    const NEXT: Place = Place::InLine { ahead: 0, ready: true };

    fn at(seconds: u64) -> Timestamp {
        NOW.plus(Duration::from_secs(seconds))
    }

    fn offline(retry_at: Option<Timestamp>) -> LinkState {
        LinkState::Offline { reason: OfflineReason("no route".to_owned()), retry_at }
    }

    /// `(reason, until)` of a message at `place`, when everything else is as told.
    fn held(
        place: Place,
        paused: bool,
        link: &LinkState,
        rest: Option<Timestamp>,
        pacing: Pacing,
    ) -> Option<(&'static str, Option<Timestamp>)> {
        let conditions = Conditions { paused, link, rest_until: rest, locked_until: None, now: NOW };
        hold(place, &conditions, pacing, None).map(|hold| (hold.reason, hold.until))
    }

    const IDLE: Pacing = Pacing { next: Some(NOW), gap: GAP, room: 64 };

    #[test]
    fn the_strongest_reason_is_told() {
        let scheduled = Place::Scheduled(at(60));
        let backing_off = Place::BackingOff(at(7));
        let (up, down) = (LinkState::Connected, offline(Some(at(3))));
        let scheduled_hold = Some(("scheduled", Some(at(60))));
        for (paused, link) in [(true, &down), (true, &up), (false, &down), (false, &up)] {
            assert_eq!(held(scheduled, paused, link, Some(at(1)), IDLE), scheduled_hold);
        }
        for place in [backing_off, NEXT] {
            assert_eq!(held(place, true, &down, Some(at(1)), IDLE), Some(("paused", None)));
            assert_eq!(held(place, false, &down, Some(at(1)), IDLE), Some(("offline", Some(at(3)))));
            assert_eq!(held(place, false, &up, Some(at(1)), IDLE), Some(("offline", Some(at(1)))));
        }
        assert_eq!(held(backing_off, false, &up, None, IDLE), Some(("backoff", Some(at(7)))));
        assert_eq!(held(NEXT, false, &up, None, IDLE), None);
    }

    #[test]
    fn a_link_that_waits_for_something_is_offline_until_then_if_that_is_known() {
        let banned = LinkState::Banned { until: Some(at(600)) };
        let states = [
            (offline(None), None),
            (offline(Some(NOW)), None),
            (banned, Some(at(600))),
            (LinkState::Unpaired, None),
            (LinkState::Connecting, None),
            (LinkState::Replaced, None),
        ];
        for (link, until) in states {
            assert_eq!(held(NEXT, false, &link, None, IDLE), Some(("offline", until)), "{link:?}");
        }
    }

    #[test]
    fn only_the_next_one_is_told_the_next_departure() {
        let busy = Pacing { next: Some(at(2)), ..IDLE };
        let line = |ahead| Place::InLine { ahead, ready: true };
        let until = |place, pacing| held(place, false, &LinkState::Connected, None, pacing);
        assert_eq!(until(line(0), busy), Some(("pace", Some(at(2)))));
        assert_eq!(until(line(1), busy), Some(("pace", Some(at(7)))));
        assert_eq!(until(line(999), busy), Some(("pace", Some(at(2 + 999 * 5)))));
        assert_eq!(until(line(1), IDLE), Some(("pace", Some(at(5)))), "behind one that leaves now");
        // The one before it in its chat is on its way, and its ack may take any time.
        assert_eq!(until(Place::InLine { ahead: 0, ready: false }, IDLE), Some(("pace", None)));
        let handing_over = Pacing { next: None, ..IDLE };
        assert_eq!(until(line(0), handing_over), Some(("pace", None)));
        let full = Pacing { room: 0, ..busy };
        assert_eq!(until(line(0), full), Some(("pace", None)), "it waits for an ack");
    }

    #[test]
    fn without_a_pace_all_that_fit_leave_at_once() {
        let pacing = Pacing { gap: Duration::ZERO, room: 3, ..IDLE };
        let until = |ahead, ready| held(Place::InLine { ahead, ready }, false, &LinkState::Connected, None, pacing);
        assert_eq!(until(2, true), None);
        assert_eq!(until(3, true), Some(("pace", None)));
        assert_eq!(until(0, false), Some(("pace", None)));
    }

    #[test]
    fn limits_and_strangers_have_words_of_their_own() {
        let settings = crate::settings::Snapshot { daily_cap: 3, ..crate::settings::Snapshot::default() };
        let limits = super::super::care::limits::Limits::new(&settings);
        let forecast = Forecast::new(NOW, GAP, &limits, NOW, 100);
        let tomorrow = limits.end_of_day(NOW);
        let closed = Closed { reason: "quiet_hours", until: at(60) };
        let conditions = |paused| Conditions {
            paused,
            link: &LinkState::Connected,
            rest_until: None,
            locked_until: Some(at(600)),
            now: NOW,
        };
        let line = |ahead| Place::InLine { ahead, ready: true };
        let told = |place, limited: &Limited| {
            let hold = hold(place, &conditions(false), IDLE, Some(limited)).map(|hold| (hold.reason, hold.until));
            (hold, estimate(place, &conditions(false), IDLE, Some(limited)))
        };
        let open = Limited { closed: None, left: Some(3), forecast: forecast.clone() };
        assert_eq!(told(line(0), &open), (None, Some(NOW)));
        assert_eq!(told(line(2), &open), (Some(("pace", Some(at(10)))), Some(at(10))));
        assert_eq!(told(line(3), &open), (Some(("cap", Some(tomorrow))), Some(tomorrow)));
        assert_eq!(told(Place::Cold, &open), (Some(("cold_contact", Some(at(600)))), Some(at(600))));
        assert_eq!(told(Place::Spaced(at(7)), &open), (Some(("pace", Some(at(7)))), Some(at(7))));
        let quiet = Limited { closed: Some(closed), ..open };
        assert_eq!(told(line(0), &quiet).0, Some(("quiet_hours", Some(at(60)))));
        // Nobody knows when somebody resumes it; a time of its own is known all the same.
        assert_eq!(estimate(line(0), &conditions(true), IDLE, None), None);
        assert_eq!(estimate(Place::Scheduled(at(9)), &conditions(true), IDLE, None), Some(at(9)));
    }
}
