//! Signs of life of the account's own phone. WhatsApp unlinks devices whose phone stays away for too long.
//!
//! The phone confirms what the account's other devices send, says what was read on it, and sends what is typed on it.
//! All of these carry the account's number and device 0.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use whatsapp_rust::{Client, Jid};

use crate::model::Timestamp;
use crate::session::WaEvent;

/// A sign so soon after the last one that was told says nothing new.
const APART: Duration = Duration::from_hours(1);

/// When the phone was last told to be there, in milliseconds since the Unix epoch.
#[derive(Debug, Default)]
pub struct Phone(AtomicU64);

impl Phone {
    /// What a stanza from there, of that time, tells of the phone, when it is one of its and says anything new. No time is
    /// later than `now`: it is the server's.
    #[must_use]
    pub fn heard(&self, client: &Client, from: &Jid, at: Timestamp, now: Timestamp) -> Option<WaEvent> {
        (from.device == 0 && is_own(client, from)).then(|| self.saw(at.min(now))).flatten()
    }

    fn saw(&self, at: Timestamp) -> Option<WaEvent> {
        let last = self.0.load(Ordering::Relaxed);
        if last > 0 && at < Timestamp::from_millis(last).plus(APART) {
            return None;
        }
        self.0.store(at.as_millis(), Ordering::Relaxed);
        Some(WaEvent::PhoneSeen(at))
    }

    /// The next sign is another account's.
    pub fn forget(&self) {
        self.0.store(0, Ordering::Relaxed);
    }
}

/// Whether that is a device of this account.
#[must_use]
pub fn is_own(client: &Client, jid: &Jid) -> bool {
    let same = |own: Option<Jid>| own.is_some_and(|own| own.server == jid.server && own.user == jid.user);
    same(client.pn()) || same(client.lid())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sign_is_told_once_an_hour_and_never_of_before() {
        let (phone, at) =
            (Phone::default(), |minutes: u64| Timestamp::from_millis(1_800_000_000_000 + minutes * 60_000));
        let told: Vec<u64> =
            [0, 59, 60, 30, 119, 120, 0].into_iter().filter(|minutes| phone.saw(at(*minutes)).is_some()).collect();
        assert_eq!(told, [0, 60, 120]);
        phone.forget();
        assert_eq!(phone.saw(at(5)), Some(WaEvent::PhoneSeen(at(5))));
    }
}
