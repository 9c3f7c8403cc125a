//! The link-state machine: what happened in, the link's state and the next step out. Pure: no clock, no task, no
//! random numbers; `supervisor` carries out what it says.
//!
//! ```text
//!  unpaired ──asked to pair──▶ pairing ──scanned──▶ connecting ──logged in──▶ connected
//!     ▲  ▲                        │                   ▲    │                      │
//!     │  └──nobody scanned────────┘        time's up ─┘    └─▶ offline ◀──ended───┘
//!     └──logged out by the user
//!  from any connection: replaced · logged_out · locked · banned · outdated
//!  from pairing: passkey_required, and from there on as `passkey` says
//! ```
//!
//! Only `offline` and `banned` end by themselves. `replaced` never does: two clients that both came back would take
//! the connection from each other for ever. So `replaced`, `locked`, `banned` and `logged_out` outlive the process:
//! [`Machine::resting`] says what is to be kept, [`Machine::restore`] goes on from there.

use std::time::Duration;

use crate::model::{LinkState, OfflineReason, PairingMethod, Timestamp};

#[path = "state_passkey.rs"]
mod passkey;
#[path = "state_words.rs"]
mod words;

pub use words::{Discard, Ended, Input, PasskeyInput, Plan, Task};

/// How long a pairing that nobody answers goes on; asking again starts it anew.
pub const PAIRING_LASTS: Duration = Duration::from_mins(5);
/// The first wait before a new attempt; it doubles from there …
pub const FIRST_DELAY: Duration = Duration::from_secs(1);
/// … up to this.
pub const LONGEST_DELAY: Duration = Duration::from_mins(5);
/// A connection that lasted this long starts the waits over.
const STABLE_AFTER: Duration = Duration::from_secs(30);
/// A restart that the server or we asked for is at once, but not again within this time.
const RESTART_APART: Duration = Duration::from_secs(10);
/// Being told that we do too much counts as so many failures more.
const THROTTLED_COUNTS: u32 = 5;
/// When to look again after a ban without an end.
const BAN_WITHOUT_END: Duration = Duration::from_hours(1);

#[derive(Debug, Clone)]
struct Pairing {
    method: PairingMethod,
    until: Timestamp,
}

/// The state of one account's link and what it takes to get on from there.
#[derive(Debug)]
pub struct Machine {
    link: LinkState,
    linked: bool,
    pairing: Option<Pairing>,
    failures: u32,
    connected_at: Option<Timestamp>,
    restarted_at: Option<Timestamp>,
    restart: bool,
    retry_at: Option<Timestamp>,
    discard: Option<Discard>,
    stopped: bool,
}

impl Machine {
    /// At start: connecting when there are keys, else unpaired.
    #[must_use]
    pub fn new(linked: bool) -> Self {
        Self {
            link: if linked { LinkState::Connecting } else { LinkState::Unpaired },
            linked,
            pairing: None,
            failures: 0,
            connected_at: None,
            restarted_at: None,
            restart: false,
            retry_at: None,
            discard: None,
            stopped: false,
        }
    }

    /// At start: as it was left by a state of [`Machine::resting`], entered at `since`. One that does not fit what
    /// keys there are, or is over by `now`, counts for nothing.
    #[must_use]
    pub fn restore(linked: bool, link: LinkState, since: Timestamp, now: Timestamp) -> Self {
        let fresh = Self::new(linked);
        match link {
            LinkState::Replaced | LinkState::Locked if linked => Self { link, ..fresh },
            LinkState::LoggedOut { .. } if !linked => Self { link, ..fresh },
            LinkState::Banned { until } if linked => {
                // Not for longer than a ban without an end ever takes: the clock may have been set.
                let looks_again = || since.min(now).plus(BAN_WITHOUT_END);
                match until.unwrap_or_else(looks_again) {
                    over if over <= now => fresh,
                    at => Self { link, retry_at: Some(at), ..fresh },
                }
            }
            _ => fresh,
        }
    }

    /// The state, when a restart must not change it.
    #[must_use]
    pub const fn resting(&self) -> Option<&LinkState> {
        match &self.link {
            link @ (LinkState::Replaced
            | LinkState::Locked
            | LinkState::Banned { .. }
            | LinkState::LoggedOut { .. }) => Some(link),
            _ => None,
        }
    }

    /// The state.
    #[must_use]
    pub const fn link(&self) -> &LinkState {
        &self.link
    }

    /// There are keys of an account.
    #[must_use]
    pub const fn is_linked(&self) -> bool {
        self.linked
    }

    /// The daemon stops: nothing more is to be done.
    #[must_use]
    pub const fn is_stopped(&self) -> bool {
        self.stopped
    }

    /// What is to become of the keys, once.
    pub const fn take_discard(&mut self) -> Option<Discard> {
        self.discard.take()
    }

    /// What to do next.
    #[must_use]
    pub fn plan(&self, now: Timestamp) -> Plan {
        let task = self.task();
        match (&self.link, task) {
            (LinkState::Pairing { .. } | LinkState::Connecting | LinkState::Connected, Some(task)) => {
                Plan::Connect(task)
            }
            (LinkState::PasskeyRequired { .. }, Some(task)) if self.is_passkey_open() => Plan::Connect(task),
            (LinkState::Offline { .. } | LinkState::Banned { .. }, Some(task)) => match self.retry_at {
                Some(at) if at <= now || self.clock_went_back(at, now) => Plan::Connect(task),
                Some(at) => Plan::Wait(self.pairing.as_ref().map_or(at, |pairing| at.min(pairing.until))),
                None => Plan::Rest,
            },
            _ => Plan::Rest,
        }
    }

    /// No attempt is ever put off for that long. A ban may be.
    fn clock_went_back(&self, retry_at: Timestamp, now: Timestamp) -> bool {
        matches!(self.link, LinkState::Offline { .. }) && retry_at > now.plus(2 * LONGEST_DELAY)
    }

    /// Whether a connection that is up should stay.
    #[must_use]
    pub fn keeps_connection(&self) -> bool {
        let wanted = matches!(self.link, LinkState::Pairing { .. } | LinkState::Connecting | LinkState::Connected);
        (wanted || self.is_passkey_open()) && self.task().is_some()
    }

    /// When a pairing that nobody answers ends.
    #[must_use]
    pub fn pairing_ends(&self) -> Option<Timestamp> {
        self.pairing.as_ref().map(|pairing| pairing.until)
    }

    fn is_pairing(&self) -> bool {
        self.pairing.is_some() && matches!(self.link, LinkState::Pairing { .. })
    }

    fn task(&self) -> Option<Task> {
        match &self.pairing {
            _ if self.stopped => None,
            Some(pairing) => Some(Task::Pair(pairing.method.clone())),
            None => self.linked.then_some(Task::LogIn),
        }
    }

    /// A connection is being made: the state that shows it.
    pub fn dial(&mut self) {
        self.connected_at = None;
        self.link = if self.pairing.is_some() { nothing_to_show() } else { LinkState::Connecting };
    }

    /// Takes in what happened at `now`. `chance` in `0..1` spreads the waits.
    pub fn take(&mut self, input: Input, now: Timestamp, chance: f64) {
        if self.stopped {
            return;
        }
        match input {
            Input::PairAsked(method) => self.pair_asked(method, now),
            Input::Shown { qr, code, expires_at } if self.is_pairing() => {
                self.link = LinkState::Pairing { qr, code, expires_at: Some(expires_at) };
            }
            Input::PairingFailed(reason) if self.is_passkey_open() => self.passkey_over(reason),
            Input::PairingFailed(reason) if self.pairing.is_some() => self.go_offline(&reason, now, chance),
            Input::PairingRefused(reason) if self.pairing.is_some() => {
                // Asking at once again is what such refusals are about.
                self.failures = self.failures.max(THROTTLED_COUNTS);
                self.go_offline(&reason, now, chance);
            }
            Input::Paired if self.pairing.take().is_some() => {
                self.linked = true;
                self.restart = true;
                self.failures = 0;
                self.link = LinkState::Connecting;
            }
            Input::LoggedIn if self.link == LinkState::Connecting => {
                self.link = LinkState::Connected;
                self.connected_at = Some(now);
                self.retry_at = None;
            }
            // The keys came about without a word: there is an account after all.
            Input::LoggedIn if self.is_pairing() => {
                (self.pairing, self.linked, self.failures) = (None, true, 0);
                self.link = LinkState::Connected;
                self.connected_at = Some(now);
            }
            Input::Replaced if self.linked => self.link = LinkState::Replaced,
            // Of a logout that the user asked for, the server may tell as well.
            Input::LoggedOut { reason, certain } if self.linked || self.pairing.is_some() => {
                self.unlink(Some(if certain { Discard::Delete } else { Discard::SetAside }));
                self.link = LinkState::LoggedOut { reason };
            }
            Input::Locked if self.linked => self.link = LinkState::Locked,
            Input::Banned { until } if self.linked => {
                self.retry_at = Some(until.unwrap_or_else(|| now.plus(BAN_WITHOUT_END)));
                self.link = LinkState::Banned { until };
            }
            Input::Outdated => {
                self.pairing = None;
                self.link = LinkState::Outdated;
            }
            Input::VersionRenewed if self.link == LinkState::Outdated => self.start_over(),
            Input::Passkey(input) => self.passkey(input, now),
            Input::Ended(ended) => self.ended(ended, now, chance),
            Input::Tick => self.look_at_the_clock(now),
            Input::ReconnectAsked if self.linked => self.start_over(),
            Input::Forgotten => {
                self.unlink(Some(Discard::Delete));
                self.link = LinkState::Unpaired;
            }
            Input::Stopped => {
                self.stopped = true;
                self.link = offline("the daemon is stopping", None);
            }
            // Late or out of place: what it speaks of is over.
            _ => {}
        }
    }

    fn pair_asked(&mut self, method: PairingMethod, now: Timestamp) {
        if self.linked {
            return;
        }
        let until = now.plus(PAIRING_LASTS);
        match &mut self.pairing {
            Some(pairing) if pairing.method == method => pairing.until = until,
            _ => {
                self.pairing = Some(Pairing { method, until });
                self.failures = 0;
                self.link = nothing_to_show();
            }
        }
    }

    fn unlink(&mut self, discard: Option<Discard>) {
        self.linked = false;
        self.pairing = None;
        self.restart = false;
        self.discard = discard;
    }

    /// Tries afresh: by logging in, or by what the state of an unlinked account is.
    fn start_over(&mut self) {
        self.failures = 0;
        self.retry_at = None;
        self.link = if self.linked { LinkState::Connecting } else { LinkState::Unpaired };
    }

    fn look_at_the_clock(&mut self, now: Timestamp) {
        if self.pairing.as_ref().is_some_and(|pairing| pairing.until <= now) {
            if self.is_passkey_open() {
                return self.passkey_over("nobody answered WhatsApp's request for a passkey in time".to_owned());
            }
            self.pairing = None;
            self.link = LinkState::Unpaired;
        }
    }

    fn ended(&mut self, ended: Ended, now: Timestamp, chance: f64) {
        if self.connected_at.take().is_some_and(|since| now.since(since) >= STABLE_AFTER) {
            self.failures = 0;
        }
        if !self.keeps_connection() {
            return;
        }
        if self.is_passkey_open() {
            let why = ended.trouble.unwrap_or_else(|| "WhatsApp ended the connection".to_owned());
            return self.passkey_over(format!("{why}, before the request for a passkey was dealt with"));
        }
        if ended.throttled {
            self.failures = self.failures.saturating_add(THROTTLED_COUNTS);
        }
        let restart = std::mem::take(&mut self.restart);
        match ended.trouble {
            None if restart || self.may_restart(now) => {
                self.restarted_at = Some(now);
                self.dial();
            }
            None => self.go_offline("the connection keeps ending; waiting a little", now, chance),
            Some(reason) => self.go_offline(&reason, now, chance),
        }
    }

    fn may_restart(&self, now: Timestamp) -> bool {
        self.restarted_at.is_none_or(|last| now.since(last) >= RESTART_APART)
    }

    fn go_offline(&mut self, reason: &str, now: Timestamp, chance: f64) {
        let at = now.plus(delay(self.failures, chance));
        self.failures = self.failures.saturating_add(1);
        self.retry_at = Some(at);
        self.link = offline(reason, Some(at));
    }
}

fn nothing_to_show() -> LinkState {
    LinkState::Pairing { qr: None, code: None, expires_at: None }
}

fn offline(reason: &str, retry_at: Option<Timestamp>) -> LinkState {
    LinkState::Offline { reason: OfflineReason(reason.to_owned()), retry_at }
}

/// How long to wait after so many failures in a row: doubling, and spread over the upper half, so that many daemons
/// that lost the same server do not come back together.
#[must_use]
pub fn delay(failures: u32, chance: f64) -> Duration {
    let full = FIRST_DELAY.saturating_mul(1 << failures.min(16)).min(LONGEST_DELAY);
    full.mul_f64(0.5 + chance.clamp(0.0, 1.0) / 2.0)
}

#[cfg(test)]
#[path = "state_tests.rs"]
mod tests;
