//! The faults that can be switched on while the emulator runs.
//!
//! Owns which fault holds for whom, how many times more and until when. Lasting faults are asked for at the place where
//! they bite, and counted there; one-shot faults act on the connections alive at that moment and are never stored.

mod kind;
mod on_the_way;
mod target;

use std::collections::BTreeMap;
use std::sync::RwLock;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use axum::http::StatusCode;

pub use kind::{FAULT_KINDS, Fault, FaultError, FaultKind};
pub(super) use on_the_way::{OVERTAKEN, Passed, Way};
use target::Active;
pub use target::{ActiveFault, FaultLimit, FaultTarget};

use super::lock;

/// What happens to the ack of one message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum AckFate {
    Prompt,
    After(Duration),
    Lost,
    Refused(u16),
}

/// Somebody a fault may be on for: a phone, and the device where one is known.
#[derive(Debug, Clone, Copy)]
pub(super) struct Whom<'a>(pub(super) &'a str, pub(super) Option<u16>);

impl Whom<'_> {
    /// Everything that a fault may have been set for to hit this one, the narrowest first.
    fn targets(self) -> Vec<FaultTarget> {
        let Self(phone, device) = self;
        let device = device.map(|device| FaultTarget::Device(phone.to_owned(), device));
        device.into_iter().chain([FaultTarget::Phone(phone.to_owned()), FaultTarget::All]).collect()
    }
}

/// The lasting faults that are switched on; at most one of a kind for each target.
#[derive(Debug, Default)]
pub(super) struct Faults {
    active: RwLock<BTreeMap<FaultTarget, Vec<Active>>>,
    /// Whether one bites on the way to clients: asked for every stanza.
    on_the_way: AtomicBool,
}

impl Faults {
    pub(super) fn set(&self, fault: Fault, target: FaultTarget, limit: FaultLimit) {
        let mut active = lock::write(&self.active);
        let faults = active.entry(target).or_default();
        faults.retain(|known| std::mem::discriminant(&known.fault) != std::mem::discriminant(&fault));
        faults.push(Active::new(fault, limit));
        self.look_again(&active);
    }

    /// Switches off what was set for exactly this target; `All` switches off everything.
    pub(super) fn clear(&self, target: &FaultTarget) {
        let mut active = lock::write(&self.active);
        match target {
            FaultTarget::All => active.clear(),
            one => drop(active.remove(one)),
        }
        self.look_again(&active);
    }

    fn look_again(&self, active: &BTreeMap<FaultTarget, Vec<Active>>) {
        let any = active.values().flatten().any(|active| active.fault.is_on_the_way());
        self.on_the_way.store(any, Ordering::Release);
    }

    pub(super) fn list(&self) -> Vec<ActiveFault> {
        let mut active = lock::write(&self.active);
        active.values_mut().for_each(|faults| faults.retain(Active::is_on));
        active.retain(|_, faults| !faults.is_empty());
        self.look_again(&active);
        let shown = |(target, faults): (&FaultTarget, &Vec<Active>)| -> Vec<ActiveFault> {
            let one = |active: &Active| ActiveFault {
                fault: active.fault,
                target: target.clone(),
                left: active.left,
                ends_in: active.until.map(|until| until.saturating_duration_since(Instant::now())),
            };
            faults.iter().map(one).collect()
        };
        active.iter().flat_map(shown).collect()
    }

    /// The first answer of `pick` over the faults of the device, of its phone and of everybody. It counts as a strike.
    fn strike<T>(&self, whom: Whom<'_>, pick: impl Fn(Fault) -> Option<T>) -> Option<T> {
        if lock::read(&self.active).is_empty() {
            return None;
        }
        let mut active = lock::write(&self.active);
        for target in whom.targets() {
            let Some(faults) = active.get_mut(&target) else { continue };
            let found = faults.iter_mut().filter(|active| active.is_on()).find_map(|active| {
                let picked = pick(active.fault)?;
                active.left = active.left.map(|left| left - 1);
                Some(picked)
            });
            if found.is_some() {
                return found;
            }
        }
        None
    }

    fn is_on(&self, whom: Whom<'_>, fault: Fault) -> bool {
        self.strike(whom, |known| (known == fault).then_some(())).is_some()
    }

    /// Whether a message of this device to somebody who does not vouch for it is refused.
    pub(super) fn refuses_strangers(&self, whom: Whom<'_>) -> bool {
        self.is_on(whom, Fault::Strangers)
    }

    /// Whether this device may not write to strangers at the moment; looking is no strike.
    pub(super) fn is_time_locked(&self, whom: Whom<'_>) -> bool {
        let active = lock::read(&self.active);
        whom.targets()
            .iter()
            .filter_map(|target| active.get(target))
            .flatten()
            .any(|active| [Fault::Strangers, Fault::Nack { code: 463 }].contains(&active.fault) && active.is_on())
    }

    pub(super) fn ack_fate(&self, whom: Whom<'_>) -> AckFate {
        let refused = self.strike(whom, |fault| match fault {
            Fault::Nack { code } => Some(AckFate::Refused(code)),
            _ => None,
        });
        let lost = || self.is_on(whom, Fault::AckLost).then_some(AckFate::Lost);
        let late = || {
            self.strike(whom, |fault| match fault {
                Fault::AckDelay { ms } => Some(AckFate::After(Duration::from_millis(ms))),
                _ => None,
            })
        };
        refused.or_else(lost).or_else(late).unwrap_or(AckFate::Prompt)
    }

    pub(super) fn refuses_everybody(&self) -> bool {
        self.is_on(Whom("", None), Fault::RefuseConnections)
    }

    pub(super) fn refuses_connection(&self, whom: Whom<'_>) -> bool {
        self.is_on(whom, Fault::RefuseConnections)
    }

    pub(super) fn login_failure(&self, whom: Whom<'_>) -> Option<u16> {
        self.strike(whom, |fault| match fault {
            Fault::RefuseLogins { code } => Some(code),
            _ => None,
        })
    }

    /// Whether what a device says of messages goes nowhere.
    pub(super) fn drops_receipts(&self, whom: Whom<'_>) -> bool {
        self.is_on(whom, Fault::DropReceipts)
    }

    /// Those of a phone's devices that still hear of their messages: none, where receipts for the phone go nowhere.
    pub(super) fn hear_receipts(&self, phone: &str, devices: impl IntoIterator<Item = u16>) -> Vec<u16> {
        if self.is_on(Whom(phone, None), Fault::DropReceipts) {
            return Vec::new();
        }
        devices.into_iter().filter(|device| !self.is_on(Whom(phone, Some(*device)), Fault::DropReceipts)).collect()
    }

    pub(super) fn garbles_bundles(&self, whom: Whom<'_>) -> bool {
        self.is_on(whom, Fault::GarbleBundles)
    }

    pub(super) fn gives_stale_keys(&self, whom: Whom<'_>) -> bool {
        self.is_on(whom, Fault::StalePreKeys)
    }

    /// What the media servers answer a device with, or somebody of whom they do not know.
    pub(super) fn media_failure(&self, whom: Option<Whom<'_>>) -> Option<StatusCode> {
        let code = self.strike(whom.unwrap_or(Whom("", None)), |fault| match fault {
            Fault::Media { code } => Some(code),
            _ => None,
        });
        code.map(|code| StatusCode::from_u16(code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR))
    }

    pub(super) fn wants_passkey(&self, phone: &str) -> bool {
        self.is_on(Whom(phone, None), Fault::Passkey)
    }

    /// Whether what is on its way to clients has to be looked at.
    fn bites_on_the_way(&self) -> bool {
        self.on_the_way.load(Ordering::Acquire)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn phone(number: &str) -> FaultTarget {
        FaultTarget::Phone(number.into())
    }

    #[test]
    fn a_fault_of_one_phone_or_device_leaves_the_others_alone() {
        let faults = Faults::default();
        let always = FaultLimit::default();
        faults.set(Fault::AckLost, phone("1"), always);
        assert_eq!(faults.ack_fate(Whom("1", Some(2))), AckFate::Lost);
        assert_eq!(faults.ack_fate(Whom("2", Some(2))), AckFate::Prompt);
        faults.set(Fault::AckDelay { ms: 5 }, FaultTarget::All, always);
        faults.set(Fault::AckDelay { ms: 7 }, FaultTarget::All, always);
        assert_eq!(faults.ack_fate(Whom("2", None)), AckFate::After(Duration::from_millis(7)));
        faults.set(Fault::Nack { code: 463 }, FaultTarget::Device("2".into(), 3), always);
        assert_eq!(faults.ack_fate(Whom("2", Some(3))), AckFate::Refused(463));
        assert_eq!(faults.ack_fate(Whom("2", Some(4))), AckFate::After(Duration::from_millis(7)));
        assert_eq!(faults.list().len(), 3);
        faults.clear(&FaultTarget::All);
        assert!(faults.list().is_empty());
    }

    #[test]
    fn receipts_go_nowhere_for_a_phone_or_for_one_device_of_it() {
        let faults = Faults::default();
        faults.set(Fault::DropReceipts, FaultTarget::Device("1".into(), 2), FaultLimit::times(1));
        assert_eq!(faults.hear_receipts("1", [1, 2, 3]), [1, 3]);
        assert_eq!(faults.hear_receipts("1", [1, 2, 3]), [1, 2, 3], "it struck once");
        faults.set(Fault::DropReceipts, phone("1"), FaultLimit::times(1));
        assert!(faults.hear_receipts("1", [1, 2, 3]).is_empty());
        assert_eq!(faults.hear_receipts("1", [1, 2, 3]), [1, 2, 3], "a receipt for all of them is one strike");
    }

    #[test]
    fn a_counted_fault_ends_and_only_strikes_count() {
        let faults = Faults::default();
        faults.set(Fault::Nack { code: 463 }, phone("1"), FaultLimit::times(2));
        faults.set(Fault::AckLost, phone("1"), FaultLimit::times(1));
        assert!(!faults.drops_receipts(Whom("1", None)), "another kind");
        assert!(faults.is_time_locked(Whom("1", Some(1))), "looking is no strike");
        let fates: Vec<_> = (0..4).map(|_| faults.ack_fate(Whom("1", Some(1)))).collect();
        assert_eq!(fates, [AckFate::Refused(463), AckFate::Refused(463), AckFate::Lost, AckFate::Prompt]);
        assert!(faults.list().is_empty(), "what is used up is not listed");
    }

    #[test]
    fn one_device_is_time_locked_by_itself() {
        for fault in [Fault::Strangers, Fault::Nack { code: 463 }] {
            let faults = Faults::default();
            faults.set(fault, FaultTarget::Device("1".into(), 2), FaultLimit::default());
            let locked = [Whom("1", Some(2)), Whom("1", Some(3)), Whom("2", Some(2))];
            assert_eq!(locked.map(|whom| faults.is_time_locked(whom)), [true, false, false], "{fault}");
        }
    }

    #[test]
    fn a_fault_with_a_time_ends_by_itself() {
        let faults = Faults::default();
        faults.set(Fault::Drop, phone("1"), FaultLimit::time(Duration::from_secs(60)));
        faults.set(Fault::AckLost, phone("1"), FaultLimit::time(Duration::ZERO));
        assert_eq!(faults.ack_fate(Whom("1", None)), AckFate::Prompt);
        let listed = faults.list();
        assert_eq!(listed.len(), 1);
        assert!(listed[0].ends_in.is_some_and(|left| left > Duration::from_secs(30)));
    }
}
